"""What a kill matrix comes to: which faults are killed, what only one gate sees, how sensitive each gate is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from pytest_multiitem.faults.base import Fault, WireFault
from pytest_multiitem.faults.catalogue import catalogue
from pytest_multiitem.gates.judge import ROUNDING
from pytest_multiitem.power.columns import columns, not_measured
from pytest_multiitem.power.records import FaultRecord, KillMatrix
from pytest_multiitem.results.details import BuildRecord, Cell, Power
from pytest_multiitem.results.records import GateRecord, Verdict


def outcome(build: BuildRecord, fault: FaultRecord | None) -> tuple[list[str], bool]:
    """What the cells of a build come to: the gates that saw its fault, and whether it was killed, or passes."""
    kills = {Verdict.FAIL}
    if fault is not None and fault.inconclusive_counts:
        kills.add(Verdict.INCONCLUSIVE)
    killed_by = list(dict.fromkeys(cell.gate for cell in build.cells if cell.verdict in kills))
    if fault is not None:
        return killed_by, bool(killed_by)
    verdicts = {cell.verdict for cell in build.cells if not (build.variation is not None and _is_rounding(cell))}
    return killed_by, Verdict.PASS in verdicts and verdicts <= {Verdict.PASS, Verdict.NOT_RUN}


def _is_rounding(cell: Cell) -> bool:
    """Whether a gate that allows no difference cannot decide, and says that all of it is rounding."""
    return cell.verdict is Verdict.INCONCLUSIVE and ROUNDING in cell.reason


def is_complete(matrix: KillMatrix) -> bool:
    """Whether every build that is planned was measured, and no other."""
    return _planned(matrix) == _measured(matrix)


def unplanned(matrix: KillMatrix) -> Counter[tuple[str, str]]:
    """How many builds, by backend and label, were measured without being planned."""
    return _measured(matrix) - _planned(matrix)


def _planned(matrix: KillMatrix) -> Counter[tuple[str, str]]:
    return Counter((backend, label) for backend, labels in matrix.planned.items() for label in labels)


def _measured(matrix: KillMatrix) -> Counter[tuple[str, str]]:
    return Counter((build.backend, build.label) for build in matrix.builds)


def summarise(matrix: KillMatrix) -> None:
    """Fill in what follows from the builds."""
    names: dict[int, set[str | None]] = {}
    for fault in matrix.faults:
        if fault.number:
            names.setdefault(fault.number, set()).add(fault.name)
    matrix.expected = sorted(names)
    matrix.killed = {}
    for backend in dict.fromkeys(build.backend for build in matrix.builds):
        killed = {build.fault for build in matrix.builds if build.backend == backend and build.as_expected}
        matrix.killed[backend] = [number for number in matrix.expected if names[number] <= killed]
    matrix.unique = _unique(matrix)
    matrix.sensitivity, matrix.reach = _extremes(matrix)


def _unique(matrix: KillMatrix) -> dict[str, list[str]]:
    """By gate, the builds that no other gate failed; with the backend where it is so on one only."""
    only: dict[str, dict[str, list[str]]] = {}
    for build in matrix.builds:
        if build.fault is not None and len(build.killed_by) == 1:
            only.setdefault(build.killed_by[0], {}).setdefault(build.label, []).append(build.backend)
    return {
        gate: [
            label if len(where) == len(matrix.killed) else f"{label} ({', '.join(where)})"
            for label, where in labels.items()
        ]
        for gate, labels in only.items()
    }


def _extremes(matrix: KillMatrix) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """By gate and fault, the smallest and the largest strength at which the gate fails on every backend measured."""
    graded = {fault.name for fault in matrix.faults if len(fault.strengths) > 1}
    strengths: dict[tuple[str, float], list[BuildRecord]] = {}
    for build in matrix.builds:
        if build.fault in graded and build.strength is not None:
            strengths.setdefault((build.fault, build.strength), []).append(build)
    seen: dict[str, dict[str, list[float]]] = {}
    for (name, strength), builds in strengths.items():
        failing = [{cell.gate for cell in build.cells if cell.verdict is Verdict.FAIL} for build in builds]
        for gate in set.intersection(*failing):
            seen.setdefault(gate, {}).setdefault(name, []).append(strength)
    order = [gate for gate in dict.fromkeys(name.partition("[")[0] for name in matrix.gates) if gate in seen]
    smallest, largest = (
        {gate: {name: extreme(strengths) for name, strengths in seen[gate].items()} for gate in order}
        for extreme in (min, max)
    )
    return smallest, largest


def verdict(matrix: KillMatrix) -> tuple[int, list[str]]:
    """The exit status that a kill matrix asks for, and what is not as it should be."""
    problems = []
    for build in matrix.builds:
        if build.as_expected is False and build.fault is None:
            wrong = [f"{cell.gate} {cell.verdict.value}" for cell in build.cells if cell.verdict is not Verdict.PASS]
            problems.append(f"{build.label} ({build.backend}) does not pass: {', '.join(wrong) or 'nothing measured'}")
        elif build.as_expected is False:
            problems.append(f"{build.label} ({build.backend}) survives: no gate fails on it")
    problems += [f"{b.label} ({b.backend}) is ERROR: {'; then '.join(b.reasons)}" for b in matrix.failed]
    problems += [f"two measurements disagree: {text}" for text in matrix.disagreements]
    problems += [f"{backend} was not measured: {reason}" for backend, reason in matrix.missing.items()]
    if not matrix.complete:
        problems.append("the kill matrix is not complete")
    if not any(build.fault for build in matrix.builds):
        problems.append("no fault was measured")
    return (1 if problems else 0), problems


def new_matrix(kinds: Iterable[type[Fault]], **facts: Any) -> KillMatrix:
    """A kill matrix of some kinds of faults, with every column there is; ``facts``: what else is known of it."""
    faults = [fault_record(kind) for kind in kinds]
    return KillMatrix(gates=[column.name for column in columns()], not_measured=not_measured(), faults=faults, **facts)


def fault_record(kind: type[Fault]) -> FaultRecord:
    """What a kind of fault is, for the results."""
    return FaultRecord(
        name=kind.name,
        number=kind.number,
        about=kind.about(),
        seen=kind.seen,
        layer="wire" if issubclass(kind, WireFault) else "engine",
        scope=sorted(kind.scope),
        strengths=list(kind.strengths),
        unit=kind.unit,
        circumstances=dict(kind.circumstances),
        inconclusive_counts=kind.inconclusive_counts,
        thresholds=kind.thresholds,
        beyond=list(kind.beyond),
    )


def matrix_of(records: Iterable[GateRecord]) -> KillMatrix:
    """The kill matrix that a run's verdicts of `power` carry."""
    builds = [build for record in records if isinstance(record.details, Power) for build in record.details.builds]
    known = catalogue()
    kinds = [known[name] for name in dict.fromkeys(build.fault or "" for build in builds) if name in known]
    matrix = new_matrix(kinds, run_id="", started_at_utc="", builds=builds)
    summarise(matrix)
    return matrix
