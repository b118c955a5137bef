"""Measuring a kill matrix: healthy builds first, then every fault, each build on disk as soon as it is measured."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from pytest_multiitem.errors import EngineUnavailable, UsageError
from pytest_multiitem.faults.base import Fault, WireFault
from pytest_multiitem.faults.catalogue import catalogue, fault
from pytest_multiitem.gates.measurement import judged
from pytest_multiitem.options import OPTIONS, Settings
from pytest_multiitem.power.builds import Build, Labs
from pytest_multiitem.power.columns import NOT_MEASURED, Column, columns
from pytest_multiitem.power.records import BuildRecord, Cell, FaultRecord, KillMatrix
from pytest_multiitem.power.summary import summarise
from pytest_multiitem.results import store
from pytest_multiitem.results.machine import machine_info, package_versions
from pytest_multiitem.results.records import GateRecord, SettingRecord, Verdict
from pytest_multiitem.servers.embedded import ENGINE as EMBEDDED
from pytest_multiitem.servers.engines import Profile
from pytest_multiitem.servers.pool import ServerPool

FILE = "kill_matrix.json"


@dataclass(frozen=True)
class Planned:
    """A build that is to be measured. ``expects``: a healthy build passes, a fault at its default strength is killed;
    nothing is expected of a weaker one."""

    backend: str
    fault: Fault | None = None
    circumstances: Mapping[str, Any] = field(default_factory=dict)
    expects: bool = True

    @property
    def label(self) -> str:
        """The fault as a user types it, or "healthy" with its circumstances."""
        if self.fault is not None:
            return self.fault.label
        return ", ".join(["healthy", *(f"{name.replace('_', ' ')} {v}" for name, v in self.circumstances.items())])


def plan(settings: Settings) -> list[Planned]:
    """Every build of the settings' faults and backends: healthy ones, faults at their default strength, weaker ones.

    A healthy build stands beside every set of circumstances under which some fault is measured. What is expected of a
    strength that the user names is what is expected of a default.
    """
    chosen = [fault(text) for text in settings.power_faults] or [kind() for kind in catalogue().values()]
    weaker = []
    if not settings.power_faults:
        weaker = [kind(strength) for kind in catalogue().values() for strength in kind.strengths[1:]]
    # Those of time are measured last and those that wait for an answer before them: the rest is quick.
    circumstances = _distinct(
        [{}, *(dict(f.circumstances) for f in chosen if not f.circumstances.get("request_timeout"))]
    )
    return [
        *(Planned(backend, None, given) for given in circumstances for backend in settings.backend),
        *(Planned(backend, f, f.circumstances) for f in chosen for backend in settings.backend),
        *(Planned(backend, f, f.circumstances, expects=False) for f in weaker for backend in settings.backend),
    ]


def _distinct(mappings: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for mapping in mappings:
        if mapping not in found:
            found.append(mapping)
    return found


def check_settings(settings: Settings) -> None:
    """Raises UsageError for settings under which no fault can be planted."""
    if settings.engine != EMBEDDED.name or settings.multi_url or settings.serial_url:
        raise UsageError(
            "faults are mutants of the embedded engine; leave --engine, --multi-url and --serial-url out. Before "
            "another server, put the faults of the wire: multiitem proxy --upstream URL --fault NAME"
        )


class PowerRun:
    """One measurement of a kill matrix in a directory; its servers live as long as it is open.

    Raises UsageError for settings that it cannot be measured with.
    """

    def __init__(self, settings: Settings, directory: Path, run_id: str) -> None:
        check_settings(settings)
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.settings = settings
        self.plan = plan(settings)
        self._columns = columns()
        self._pool = ServerPool(directory, owner=True)
        self._labs = Labs(directory, self._pool, settings)
        involved = dict.fromkeys(type(each.fault) for each in self.plan if each.fault is not None)
        self.matrix = KillMatrix(
            run_id=run_id,
            started_at_utc=store.utc_now(),
            machine=machine_info(),
            versions=package_versions(),
            settings=[
                SettingRecord(name=o.name, value=settings.shown(o.name), origin=settings.origins[o.name])
                for o in OPTIONS
            ],
            gates=[column.name for column in self._columns],
            not_measured=NOT_MEASURED,
            faults=[_described(kind) for kind in involved],
        )
        self.matrix.missing = {
            backend: reason
            for backend in settings.backend
            if (reason := EMBEDDED.unavailable(Profile("serial", backend), settings)) is not None
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(None if kind is None else kind.__name__)

    def close(self, interrupted_by: str | None) -> None:
        """Stop the servers and write the matrix as it then is."""
        try:
            self._pool.close()
            store.merge_samples(self.directory)
        finally:
            self.matrix.interrupted_by = interrupted_by
            self._write()

    @property
    def path(self) -> Path:
        """The file of the kill matrix."""
        return self.directory / FILE

    def measure(self, planned: Planned) -> BuildRecord:
        """Measure one build with every gate that it concerns, and write what there is so far.

        Raises EngineUnavailable where the backend is not installed.
        """
        if planned.backend in self.matrix.missing:
            raise EngineUnavailable(self.matrix.missing[planned.backend])
        start = time.perf_counter()
        build = self._build(planned)
        try:
            cells = [
                self._cell(build, column) for column in self._columns if column.concerns(build.backend, build.fault)
            ]
        finally:
            if planned.fault is not None:
                build.close()
        record = _judged(planned, cells)
        record.seconds = round(time.perf_counter() - start, 3)
        self.matrix.builds.append(record)
        self._write()
        return record

    def _build(self, planned: Planned) -> Build:
        if planned.fault is None:
            return self._labs.healthy(planned.backend, planned.circumstances)
        return self._labs.build(planned.backend, planned.fault)

    def _cell(self, build: Build, column: Column) -> Cell:
        record: GateRecord = judged(column.gate, lambda gate: column.measure(build, gate))
        return Cell(
            gate=record.gate,
            place=column.place,
            verdict=record.verdict,
            reason=record.reason,
            value=record.value,
            limit=record.limit,
            noise_floor=record.noise_floor,
            traffic_floor=None,
            leak_visibility=record.leak_visibility,
            mask_attested=record.mask_attested,
            seconds=record.seconds,
        )

    def _write(self) -> None:
        matrix = self.matrix
        there = [each for each in self.plan if each.backend not in matrix.missing]
        matrix.complete = len(matrix.builds) == len(there)
        matrix.finished_at_utc = store.utc_now()
        summarise(matrix)
        content = msgspec.json.format(msgspec.json.encode(matrix), indent=1)
        store.write_atomically(self.path, content + b"\n")


def _judged(planned: Planned, cells: Sequence[Cell]) -> BuildRecord:
    """A build with what its cells come to."""
    kills = {Verdict.FAIL}
    if planned.fault is not None and planned.fault.inconclusive_counts:
        kills.add(Verdict.INCONCLUSIVE)
    killed_by = list(dict.fromkeys(cell.gate for cell in cells if cell.verdict in kills))
    expected: bool | None = None
    if planned.fault is None:
        passed = {cell.verdict for cell in cells} <= {Verdict.PASS, Verdict.NOT_RUN}
        expected = passed and any(cell.verdict is Verdict.PASS for cell in cells)
    elif planned.expects:
        expected = bool(killed_by)
    return BuildRecord(
        backend=planned.backend,
        label=planned.label,
        fault=None if planned.fault is None else planned.fault.name,
        strength=None if planned.fault is None else planned.fault.strength,
        circumstances=dict(planned.circumstances),
        cells=list(cells),
        killed_by=killed_by,
        as_expected=expected,
    )


def _described(kind: type[Fault]) -> FaultRecord:
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
    )


def remaining(run: PowerRun) -> Iterator[Planned]:
    """The planned builds whose backend is installed."""
    return (each for each in run.plan if each.backend not in run.matrix.missing)


def matrix_of(records: Iterable[GateRecord]) -> KillMatrix:
    """The kill matrix that a run's verdicts of `power` carry."""
    builds = [msgspec.convert(build, BuildRecord) for record in records for build in record.details.get("builds", [])]
    known = catalogue()
    names = dict.fromkeys(build.fault for build in builds if build.fault in known)
    matrix = KillMatrix(
        run_id="",
        started_at_utc="",
        gates=[column.name for column in columns()],
        not_measured=NOT_MEASURED,
        faults=[_described(known[str(name)]) for name in names],
        builds=builds,
    )
    summarise(matrix)
    return matrix
