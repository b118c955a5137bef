"""Measuring the builds of a kill matrix at one place, by servers of its own: what a cell of the matrix is."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_multiitem.adapters.base import Profile
from pytest_multiitem.adapters.embedded import ENGINE as EMBEDDED
from pytest_multiitem.errors import EngineUnavailable
from pytest_multiitem.execution.cells import Cell, Place
from pytest_multiitem.execution.quiet import alone, busy
from pytest_multiitem.faults.base import Fault
from pytest_multiitem.gates.record import judged
from pytest_multiitem.power.builds import Build, Labs
from pytest_multiitem.power.columns import Column, columns
from pytest_multiitem.power.plan import Planned
from pytest_multiitem.power.summary import fault_record, outcome
from pytest_multiitem.results import details
from pytest_multiitem.results.details import BuildRecord
from pytest_multiitem.results.records import Verdict
from pytest_multiitem.servers.pool import ServerPool
from pytest_multiitem.settings.settings import Settings

#: Gates that have seen a fault, after which those that take long are not measured any more.
_KNOWN = 3


@dataclass(frozen=True)
class Builds:
    """What a cell comes to: its builds in their order, and the raw samples, a JSON line each."""

    builds: tuple[BuildRecord, ...]
    samples: bytes


@dataclass(frozen=True)
class PowerWork:
    """`execution.cells.Work` of a kill matrix: a cell's task is a group of builds of one backend."""

    settings: Settings

    def open(self, place: Place) -> PowerPlace:
        """The servers start with the first build that asks for them."""
        return PowerPlace(self.settings, place)


class PowerPlace:
    """`execution.cells.Workplace` of a kill matrix: a lab process a backend, which all lanes share."""

    def __init__(self, settings: Settings, place: Place) -> None:
        self._settings, self._quiet = settings, place.quiet
        self._pool = ServerPool(place.directory, owner=True)
        self._labs: dict[str, Labs] = {}
        self._adding = threading.Lock()

    def measure(self, cell: Cell) -> Builds:
        """Measure a group of builds. Raises ServerDied where a process has ended that no fault ends, EngineUnavailable
        where the backend is not installed here."""
        task: Sequence[Planned] = cell.task
        reason = EMBEDDED.unavailable(Profile("serial", task[0].backend), self._settings)
        if reason is not None:
            raise EngineUnavailable(reason)
        with self._adding:
            labs = self._labs.setdefault(task[0].backend, Labs(self._pool, self._settings))
        builds = _Group(labs, self._quiet).measure(task)
        return Builds(tuple(builds), labs.take_samples())

    def close(self) -> None:
        """Stop the lab processes."""
        self._pool.close()


@dataclass
class _Begun:
    """A build whose scores are measured, in ``seconds``; ``timing``: the columns that are left."""

    planned: Planned
    build: Build
    cells: list[details.Cell]
    timing: list[Column]
    seconds: float


class _Group:
    """The builds of one cell: scores first, beside whatever else is measured; then, alone, what needs a clock."""

    def __init__(self, labs: Labs, quiet: Path) -> None:
        self._labs, self._quiet = labs, quiet
        self._columns = columns()
        self._blind: set[str] = set()
        self._records: dict[Planned, BuildRecord] = {}

    def measure(self, task: Sequence[Planned]) -> list[BuildRecord]:
        """Every build's record, in their order."""
        timed = []
        with busy(self._quiet):
            for each in task:
                begun = self._scored(each)
                if begun.timing:
                    timed.append(begun)
                else:
                    self._finish(begun)
        for begun in timed:
            with alone(self._quiet):
                self._finish(begun)
        return [self._records[each] for each in task]

    def _scored(self, planned: Planned) -> _Begun:
        """Measure what needs no clock."""
        start = time.perf_counter()
        if planned.fault is None:
            build = self._labs.healthy(planned.backend, planned.circumstances)
        else:
            build = Build(self._labs, planned.backend, planned.fault, planned.circumstances)
        concerned = [column for column in self._columns if column.concerns(build)]
        if planned.further and not (planned.fault and planned.fault.over_time):
            concerned = [column for column in concerned if column.gate.name not in self._blind]
        cells: list[details.Cell] = []
        for column in sorted(concerned, key=lambda column: column.gate.costly):
            is_known = column.gate.costly and _is_known(planned.fault, cells)
            if not (column.gate.timing or is_known):
                cells.append(_cell(build, column))
        timing = [column for column in concerned if column.gate.timing]
        return _Begun(planned, build, cells, timing, time.perf_counter() - start)

    def _finish(self, begun: _Begun) -> None:
        """Measure what needs a clock, if anything does, and judge the build. Raises ServerDied where its process has
        ended."""
        start = time.perf_counter()
        cells = [*begun.cells, *(_cell(begun.build, column) for column in begun.timing)]
        if any(cell.verdict is not Verdict.PASS for cell in cells):
            self._labs.check_alive()
        planned, fault = begun.planned, begun.planned.fault
        if fault is not None:
            begun.build.close()
        record = judged_build(planned, cells)
        if fault is not None and (not fault.thresholds or not planned.further):  # the weaker, the fewer see it
            self._blind |= {cell.gate for cell in cells} - set(record.killed_by)
        record.seconds = round(begun.seconds + time.perf_counter() - start, 3)
        self._records[planned] = record


def _cell(build: Build, column: Column) -> details.Cell:
    record = judged(column.gate, lambda gate: column.measure(build))
    fields = {name: getattr(record, name) for name in details.Cell.__struct_fields__ if name != "place"}
    return details.Cell(**fields, place=column.place)


def _is_known(fault: Fault | None, cells: Sequence[details.Cell]) -> bool:
    """Whether enough gates have seen a fault whose strength says nothing of how sharp others are."""
    if fault is None or fault.healthy or (len(fault.strengths) > 1 and not fault.thresholds):
        return False
    return len({cell.gate for cell in cells if cell.verdict is Verdict.FAIL}) >= _KNOWN


def judged_build(planned: Planned, cells: Sequence[details.Cell]) -> BuildRecord:
    """A build with what its cells come to."""
    fault = None if planned.healthy else planned.fault
    build = BuildRecord(
        backend=planned.backend,
        label=planned.label,
        fault=None if fault is None else fault.name,
        strength=None if fault is None else fault.strength,
        variation=planned.fault.label if fault is None and planned.fault is not None else None,
        circumstances=dict(planned.circumstances),
        cells=list(cells),
    )
    build.killed_by, found = outcome(build, None if fault is None else fault_record(type(fault)))
    build.as_expected = found if planned.healthy or planned.expects else None
    return build


def difference(one: Builds, other: Builds) -> str | None:
    """How two measurements of the same builds differ in what they say, not in their values or times; None where they
    do not."""
    found = []
    for ours, theirs in zip(one.builds, other.builds, strict=True):
        verdicts = [{(c.gate, c.place): c.verdict for c in build.cells} for build in (ours, theirs)]
        for gate, place in dict.fromkeys((*verdicts[0], *verdicts[1])):
            said = [each.get((gate, place)) for each in verdicts]
            if said[0] is not said[1]:
                name = gate if place is None else f"{gate}[{place}]"
                words = " and ".join("not measured" if verdict is None else verdict.value for verdict in said)
                found.append(f"{ours.label}: {name} is {words}")
    return "; ".join(found) or None
