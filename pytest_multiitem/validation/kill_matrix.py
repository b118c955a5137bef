"""Whether what a kill matrix claims of its gates follows from what each gate said of each build."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

import msgspec

from pytest_multiitem.gates.gate import Gate
from pytest_multiitem.gates.judge import judge_difference
from pytest_multiitem.gates.registry import gates
from pytest_multiitem.power.records import FaultRecord, KillMatrix
from pytest_multiitem.power.summary import is_complete, outcome, summarise, unplanned
from pytest_multiitem.results.details import BuildRecord, Cell
from pytest_multiitem.results.figures import contradictions
from pytest_multiitem.results.records import Evidence
from pytest_multiitem.results.verdict import Verdict

#: What `power.summary.summarise` fills in.
_CLAIMS = ("killed", "expected", "unique", "sensitivity", "reach")


def summary(matrix: KillMatrix) -> str:
    """What it holds, in a few words."""
    faulty = [build for build in matrix.builds if build.fault is not None]
    killed = sum(bool(build.killed_by) for build in faulty)
    incomplete = "" if matrix.complete else ", not complete"
    return f"{killed} of {len(faulty)} faulty builds killed, {len(matrix.builds) - len(faulty)} healthy{incomplete}"


def problems(matrix: KillMatrix) -> list[str]:
    """What is wrong with a kill matrix whose schema holds."""
    faults = {fault.name: fault for fault in matrix.faults}
    named = (("gates", matrix.gates), ("faults", [fault.name for fault in matrix.faults]))
    found = [
        f"{where}: {count} are called {name}"
        for where, names in named
        for name, count in Counter(names).items()
        if count > 1
    ]
    for (backend, label), count in unplanned(matrix).items():
        found.append(f"builds: {count} of {label} ({backend}) {'is' if count == 1 else 'are'} not planned")
    for build in matrix.builds:
        where = f"{build.label} ({build.backend})"
        if build.fault is not None and build.fault not in faults:
            found.append(f"{where}: its fault {build.fault!r:.80} is none of the faults")
        else:
            fault = None if build.fault is None else faults[build.fault]
            found += [f"{where}: {text}" for text in build_problems(build, fault, matrix.gates)]
        if build.backend in matrix.missing:
            found.append(f"{where}: the backend is missing: {matrix.missing[build.backend]:.80}")
    if matrix.complete != is_complete(matrix):
        planned = sum(map(len, matrix.planned.values()))
        found.append(f"complete is {matrix.complete}; of {planned} planned builds there are {len(matrix.builds)}")
    if not found:
        again = msgspec.structs.replace(matrix)
        summarise(again)
        found += [text for _, text in contradictions(_claims(matrix), _claims(again), "the builds give")]
    return found


def _claims(matrix: KillMatrix) -> dict[str, Any]:
    return {name: getattr(matrix, name) for name in _CLAIMS}


def build_problems(build: BuildRecord, fault: FaultRecord | None, columns: Collection[str] | None) -> Iterator[str]:
    """What contradicts itself in one build. ``columns``: of the matrix that it stands in, where it does in one."""
    names = [cell.gate if cell.place is None else f"{cell.gate}[{cell.place}]" for cell in build.cells]
    for name, count in Counter(names).items():
        if count > 1:
            yield f"{name} is measured {count} times"
        if columns is not None and name not in columns:
            yield f"{name} is no column of the matrix"
    for cell in build.cells:
        yield from _cell(cell)
    if fault is None:
        label = f"healthy, {build.variation}" if build.variation is not None else "healthy"
        if not build.label.startswith(label) or build.strength is not None:
            yield f"a healthy build has the strength {build.strength}, the variation {build.variation}"
        if columns is not None and build.label == "healthy" and set(names) != set(columns):
            yield f"the healthy build is measured by {len(set(names))} of {len(columns)} gates"
    else:
        if build.label != (fault.name if build.strength is None else f"{fault.name}={build.strength:g}"):
            yield f"it is of the fault {fault.name} at strength {build.strength}"
        if (build.strength is None) != (not fault.strengths):
            yield f"its strength is {build.strength}; the fault has {fault.strengths}"
    killed_by, found = outcome(build, fault)
    if killed_by != build.killed_by:
        yield f"killed_by is {build.killed_by}; its cells give {killed_by}"
    if build.as_expected is None and _is_expected(build, fault):
        yield "as_expected is null, but something is expected of it"
    if build.as_expected is not None and build.as_expected != found:
        yield f"as_expected is {build.as_expected}; its cells give {found}"


def _is_expected(build: BuildRecord, fault: FaultRecord | None) -> bool:
    """Whether a build must pass or be killed; a weaker fault must where the user named it, which is not known."""
    if fault is None or build.strength in (None, *fault.strengths[:1]):
        return True
    return fault.thresholds and build.strength not in fault.beyond


def _cell(cell: Cell) -> Iterator[str]:
    """Whether a PASS follows from the value beside it; a FAIL may rest on what stands in its reason alone."""
    known = gates().get(cell.gate)
    if known is not None and cell.limit != known.limit:
        yield f"the limit of {cell.gate} is stated as {cell.limit}; this gate's is {known.limit}"
    elif cell.verdict is Verdict.PASS and known is not None and cell.limit is not None:
        if known.relation == ">=":
            if cell.value is None or not cell.value >= cell.limit:
                yield f"{cell.gate} is PASS, but its value {cell.value} does not reach {cell.limit:g}"
            return
        bare = Gate(cell.gate, "", known.relation, cell.limit)
        verdict, reason = judge_difference(bare, cell.value, msgspec.convert(cell, Evidence, from_attributes=True))
        if verdict is not Verdict.PASS:
            yield f"{cell.gate} is PASS; its figures give {verdict}: {reason}"
