"""Measuring a kill matrix: healthy builds first, then every fault, each build on disk as soon as it is measured."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from pytest_multiitem.adapters.base import Profile
from pytest_multiitem.adapters.embedded import ENGINE as EMBEDDED
from pytest_multiitem.errors import UsageError
from pytest_multiitem.faults.base import Fault
from pytest_multiitem.faults.catalogue import VARIATIONS, catalogue, fault
from pytest_multiitem.gates.judge import ROUNDING
from pytest_multiitem.gates.record import judged
from pytest_multiitem.power.builds import Build, Labs
from pytest_multiitem.power.columns import Column, columns
from pytest_multiitem.power.summary import new_matrix, summarise
from pytest_multiitem.results import store
from pytest_multiitem.results.details import BuildRecord, Cell
from pytest_multiitem.results.machine import machine_info, package_versions
from pytest_multiitem.results.records import SettingRecord, Verdict
from pytest_multiitem.servers.pool import ServerPool
from pytest_multiitem.settings.settings import Settings

FILE = "kill_matrix.json"
#: Gates that have seen a fault, after which those that take long are not measured any more.
_KNOWN = 3


@dataclass(frozen=True, eq=False)
class Planned:
    """A build that is to be measured. ``fault``: may be a variation, which is healthy. ``expects``: a healthy build
    passes, a fault at its default strength, or at another threshold, is killed; nothing is expected of a weaker one.
    ``further``: the fault is measured at its default strength as well; gates that saw nothing there are not asked
    again."""

    backend: str
    fault: Fault | None = None
    circumstances: Mapping[str, Any] = field(default_factory=dict)
    expects: bool = True
    further: bool = False

    @property
    def healthy(self) -> bool:
        """Whether no gate may fail on it."""
        return self.fault is None or self.fault.healthy

    @property
    def label(self) -> str:
        """The fault as a user types it, or "healthy" with its circumstances or its variation."""
        if self.fault is not None:
            return f"healthy, {self.fault.label}" if self.fault.healthy else self.fault.label
        return ", ".join(["healthy", *(f"{name.replace('_', ' ')} {v}" for name, v in self.circumstances.items())])


def plan(settings: Settings) -> list[Planned]:
    """Every build of the settings' faults and backends: healthy ones, faults at their default strength, weaker ones.

    A healthy build stands beside every set of circumstances under which some fault is measured, and, where the settings
    name no faults, one of every variation. What is expected of a
    strength that the user names is what is expected of a default.
    """
    kinds = [] if settings.power_faults else [kind for kind in catalogue().values() if kind.planned]
    chosen = [fault(text) for text in settings.power_faults] or [kind() for kind in kinds]
    variations = [] if settings.power_faults else [kind() for kind in VARIATIONS.all().values()]
    weaker = [kind(strength) for kind in kinds for strength in kind.strengths[1:]]
    # A shorter wait is no circumstance of a healthy server's scores.
    circumstances: list[dict[str, Any]] = [{}]
    for each in chosen:
        if not each.circumstances.get("request_timeout") and each.circumstances not in circumstances:
            circumstances.append(each.circumstances)
    return [
        *(Planned(backend, None, given) for given in circumstances for backend in settings.backend),
        *(Planned(backend, varied) for varied in variations for backend in settings.backend),
        *(Planned(backend, f, f.circumstances) for f in chosen for backend in settings.backend),
        *(
            Planned(backend, f, f.circumstances, expects=f.thresholds and f.strength not in f.beyond, further=True)
            for f in weaker
            for backend in settings.backend
        ),
    ]


def check_settings(settings: Settings) -> None:
    """Raises UsageError for settings under which no fault can be planted."""
    if settings.engine != EMBEDDED.name or settings.multi_url or settings.serial_url:
        raise UsageError(
            "faults are mutants of the embedded engine; leave --engine, --multi-url and --serial-url out. Before "
            "another server, put the faults of the wire: multiitem proxy --upstream URL --fault NAME"
        )
    check_fault_names(settings)


def check_fault_names(settings: Settings) -> None:
    """Raises UsageError for a fault that ``--power-faults`` names and that there is not, or not at that strength."""
    for text in settings.power_faults:
        try:
            fault(text)
        except UsageError as error:
            raise settings.invalid("power_faults", text, str(error)) from None


@dataclass
class _Begun:
    """A build whose scores are measured, in ``seconds``; ``timing``: the columns that are left."""

    planned: Planned
    build: Build
    cells: list[Cell]
    timing: list[Column]
    seconds: float


class PowerRun:
    """One measurement of a kill matrix in a directory; its servers live as long as it is open.

    The builds of each backend are measured in a thread of their own, one after the other; what is timed is measured
    while nothing else is. Raises UsageError for settings that it cannot be measured with.
    """

    def __init__(self, settings: Settings, directory: Path, run_id: str) -> None:
        check_settings(settings)
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.settings = settings
        self._columns = columns()
        self._pool = ServerPool(directory, owner=True)
        self._labs = {backend: Labs(directory, self._pool, settings, backend) for backend in settings.backend}
        self._writing = threading.Lock()
        self._closed = threading.Event()
        self._blind: dict[tuple[str, type[Fault]], set[str]] = {}
        planned = plan(settings)
        missing = {
            backend: reason
            for backend in settings.backend
            if (reason := EMBEDDED.unavailable(Profile("serial", backend), settings)) is not None
        }
        self.plan = [each for each in planned if each.backend not in missing]
        self._results: dict[Planned, Future[BuildRecord]] = {each: Future() for each in self.plan}
        self.matrix = new_matrix(
            dict.fromkeys(type(each.fault) for each in planned if each.fault is not None and not each.healthy),
            run_id=run_id,
            started_at_utc=store.utc_now(),
            machine=machine_info(),
            versions=package_versions(),
            settings=msgspec.convert(settings.records(), list[SettingRecord]),
            missing=missing,
        )

    def __enter__(self) -> Self:
        self.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(None if kind is None else kind.__name__)

    @property
    def path(self) -> Path:
        """The file of the kill matrix."""
        return self.directory / FILE

    def begin(self) -> None:
        """Measure all that is planned, in the background; every build is on disk as soon as it is measured."""
        threading.Thread(target=self._measure_all, name="multiitem-power", daemon=True).start()

    def as_measured(self) -> Iterator[tuple[Planned, BuildRecord]]:
        """Every build as it is finished. Raises what went wrong with the measuring itself."""
        planned = {future: each for each, future in self._results.items()}
        for future in as_completed(planned):
            yield planned[future], future.result()

    def result(self, planned: Planned) -> BuildRecord:
        """A build of `plan`, once it is measured."""
        return self._results[planned].result()

    def close(self, interrupted_by: str | None) -> None:
        """Stop the servers and write the matrix as it then is."""
        self._closed.set()
        try:
            self._pool.close()
            store.merge_samples(self.directory)
        finally:
            self.matrix.interrupted_by = interrupted_by
            self._write()

    def _measure_all(self) -> None:
        """Healthy builds with their times; scores of all others, on all backends side by side; then their times."""
        first = [each for each in self.plan if each.fault is None and not each.circumstances]
        rest = [each for each in self.plan if each not in first]
        timed: dict[Planned, _Begun] = {}
        self._each(first, lambda each: self._finish(self._scored(each)))

        def scores(each: Planned) -> None:
            begun = self._scored(each)
            if begun.timing:
                timed[each] = begun
            else:
                self._finish(begun)

        with ThreadPoolExecutor(len(self._labs)) as threads:
            for backend in self._labs:
                threads.submit(self._each, [each for each in rest if each.backend == backend], scores)
        self._each(list(timed), lambda each: self._finish(timed[each]))

    def _each(self, planned: Sequence[Planned], measure: Callable[[Planned], None]) -> None:
        for each in planned:
            if self._closed.is_set():
                return
            try:
                measure(each)
            except BaseException as error:  # noqa: BLE001 - whoever waits for the build gets it
                self._results[each].set_exception(error)

    def _scored(self, planned: Planned) -> _Begun:
        """Measure what needs no clock."""
        start = time.perf_counter()
        labs = self._labs[planned.backend]
        if planned.fault is None:
            build = labs.healthy(planned.backend, planned.circumstances)
        else:
            build = Build(labs, planned.backend, planned.fault, planned.circumstances)
        concerned = [column for column in self._columns if column.concerns(build)]
        kind = (planned.backend, type(planned.fault)) if planned.fault is not None else None
        if planned.further and kind in self._blind and not (planned.fault and planned.fault.over_time):
            blind = self._blind[kind]
            concerned = [column for column in concerned if column.gate.name not in blind]
        cells: list[Cell] = []
        for column in sorted(concerned, key=lambda column: column.gate.costly):
            is_known = column.gate.costly and _is_known(planned, cells)
            if not (column.gate.timing or is_known):
                cells.append(self._cell(build, column))
        timing = [column for column in concerned if column.gate.timing]
        return _Begun(planned, build, cells, timing, time.perf_counter() - start)

    def _finish(self, begun: _Begun) -> None:
        """Measure what needs a clock, if anything does, and write the build down."""
        start = time.perf_counter()
        cells = [*begun.cells, *(self._cell(begun.build, column) for column in begun.timing)]
        if begun.planned.fault is not None:
            begun.build.close()
        record = _judged(begun.planned, cells)
        fault = begun.planned.fault
        if fault is not None and (not fault.thresholds or not begun.planned.further):  # the weaker, the fewer see it
            blind = {cell.gate for cell in cells} - set(record.killed_by)
            self._blind.setdefault((begun.planned.backend, type(fault)), set()).update(blind)
        record.seconds = round(begun.seconds + time.perf_counter() - start, 3)
        with self._writing:
            if self._closed.is_set():  # its servers were taken away while it was measured
                return
            self.matrix.builds.append(record)
            self._write()
        self._results[begun.planned].set_result(record)

    def _cell(self, build: Build, column: Column) -> Cell:
        record = judged(column.gate, lambda gate: column.measure(build))
        return Cell(**{name: getattr(record, name) for name in Cell.__struct_fields__} | {"place": column.place})

    def _write(self) -> None:
        matrix = self.matrix
        matrix.complete = len(matrix.builds) == len(self.plan)
        matrix.finished_at_utc = store.utc_now()
        summarise(matrix)
        content = msgspec.json.format(msgspec.json.encode(matrix), indent=1)
        store.write_atomically(self.path, content + b"\n")


def _is_known(planned: Planned, cells: Sequence[Cell]) -> bool:
    """Whether enough gates have seen a fault whose strength says nothing of how sharp others are."""
    fault = planned.fault
    if fault is None or fault.healthy or (len(fault.strengths) > 1 and not fault.thresholds):
        return False
    return len({cell.gate for cell in cells if cell.verdict is Verdict.FAIL}) >= _KNOWN


def _judged(planned: Planned, cells: Sequence[Cell]) -> BuildRecord:
    """A build with what its cells come to."""
    fault = None if planned.healthy else planned.fault
    verdicts = {cell.verdict for cell in cells if not (planned.fault is not None and _is_rounding(cell))}
    kills = {Verdict.FAIL}
    if fault is not None and fault.inconclusive_counts:
        kills.add(Verdict.INCONCLUSIVE)
    killed_by = list(dict.fromkeys(cell.gate for cell in cells if cell.verdict in kills))
    expected = bool(killed_by) if planned.expects else None
    if planned.healthy:
        expected = Verdict.PASS in verdicts and verdicts <= {Verdict.PASS, Verdict.NOT_RUN}
    return BuildRecord(
        backend=planned.backend,
        label=planned.label,
        fault=None if fault is None else fault.name,
        strength=None if fault is None else fault.strength,
        circumstances=dict(planned.circumstances),
        cells=list(cells),
        killed_by=killed_by,
        as_expected=expected,
    )


def _is_rounding(cell: Cell) -> bool:
    """Whether a gate that allows no difference cannot decide, and says that all of it is rounding."""
    return cell.verdict is Verdict.INCONCLUSIVE and ROUNDING in cell.reason
