"""A kill matrix as a run: its builds are measured wherever an executor has them measured, each on disk at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, as_completed
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from pytest_multiitem.adapters.base import Profile
from pytest_multiitem.adapters.embedded import ENGINE as EMBEDDED
from pytest_multiitem.execution import driver
from pytest_multiitem.execution.cells import Cell, ExecutorClosed
from pytest_multiitem.execution.choice import is_local, open_executor
from pytest_multiitem.execution.driver import CellFailed
from pytest_multiitem.faults.catalogue import server_environment
from pytest_multiitem.gates.registry import check_known_elsewhere, gates
from pytest_multiitem.power.measuring import Builds, PowerWork, difference
from pytest_multiitem.power.plan import Planned, check_settings, groups, plan
from pytest_multiitem.power.records import FailedBuild
from pytest_multiitem.power.summary import is_complete, new_matrix, summarise
from pytest_multiitem.results import store
from pytest_multiitem.results.details import BuildRecord
from pytest_multiitem.results.machine import machine_info, package_versions
from pytest_multiitem.results.records import SettingRecord
from pytest_multiitem.settings.placement import deadlines_of, needs_of
from pytest_multiitem.settings.settings import Settings
from pytest_multiitem.storage import try_writing, writing

FILE = "kill_matrix.json"


class PowerRun:
    """One measurement of a kill matrix in a directory; its servers live as long as it is open.

    The builds of each backend are measured one after the other; what is timed is measured while nothing else is on its
    machine. Raises UsageError for settings that it cannot be measured with.
    """

    def __init__(self, settings: Settings, directory: Path, run_id: str) -> None:
        check_settings(settings)
        if is_local(settings.executor):
            EMBEDDED.check_storage(settings)
        else:
            check_known_elsewhere(gates())
        with writing(directory, advice="choose another place with --results-dir DIR"):
            directory.mkdir(parents=True, exist_ok=True)
            try_writing(directory)
        self.directory = directory
        self.settings = settings
        self._executor = open_executor(settings.executor, directory, run_id, server_environment())
        self._writing = threading.Lock()
        self._closed = threading.Event()
        planned = plan(settings)
        missing = (
            {}
            if not is_local(settings.executor)
            else {
                backend: reason
                for backend in settings.backend
                if (reason := EMBEDDED.unavailable(Profile("serial", backend), settings)) is not None
            }
        )
        self.plan = [each for each in planned if each.backend not in missing]
        self._order = {(each.backend, each.label): number for number, each in enumerate(self.plan)}
        self._results: dict[Planned, Future[BuildRecord]] = {each: Future() for each in self.plan}
        self.matrix = new_matrix(
            dict.fromkeys(type(each.fault) for each in planned if each.fault is not None and not each.healthy),
            run_id=run_id,
            started_at_utc=store.utc_now(),
            machine=machine_info(),
            versions=package_versions(),
            settings=msgspec.convert(settings.records(), list[SettingRecord]),
            missing=missing,
            executor=settings.executor,
            planned={
                backend: [each.label for each in self.plan if each.backend == backend]
                for backend in dict.fromkeys(each.backend for each in self.plan)
            },
        )

    def __enter__(self) -> Self:
        self.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        name = None if kind is None else kind.__name__
        self.close(str(error) or name if isinstance(error, KeyboardInterrupt) else name)  # a signal's own name

    @property
    def path(self) -> Path:
        """The file of the kill matrix."""
        return self.directory / FILE

    def begin(self) -> None:
        """Measure all that is planned, in the background; every build is on disk as soon as it is measured."""
        threading.Thread(target=self._measure_all, name="multiitem-power", daemon=True).start()

    def as_measured(self) -> Iterator[tuple[Planned, BuildRecord | CellFailed]]:
        """Every build as it is finished, or why it could not be measured. Raises what went wrong with the measuring
        itself."""
        planned = {future: each for each, future in self._results.items()}
        for future in as_completed(planned):
            error = future.exception()
            yield planned[future], error if isinstance(error, CellFailed) else future.result()

    def result(self, planned: Planned) -> BuildRecord:
        """A build of `plan`, once it is measured. Raises CellFailed where it could not be."""
        return self._results[planned].result()

    def close(self, interrupted_by: str | None) -> None:
        """Stop the servers and write the matrix as it then is. Raises StorageError where it cannot be written."""
        self._closed.set()
        try:
            self._executor.close()
            store.merge_samples(self.directory)
        finally:
            self.matrix.interrupted_by = interrupted_by
            self._write()

    def _measure_all(self) -> None:
        cells, task = [], {}
        needs = needs_of(self.settings)
        for group in groups(self.plan):
            first = group[0]
            kind = first.fault.name if first.fault is not None and not first.healthy else first.label
            cell = Cell(f"{kind} ({first.backend})", group, needs, lane=first.backend)
            cells.append(cell)
            task[cell.key] = group
        try:
            self._executor.begin(PowerWork(self.settings))
            for outcome in driver.measure_all(self._executor, cells, deadlines_of(self.settings), difference):
                self._take(outcome, task[outcome.cell.key])
        except ExecutorClosed:
            return
        except BaseException as error:  # noqa: BLE001 - whoever waits for a build gets it
            for future in self._results.values():
                if not future.done():
                    future.set_exception(error)

    def _take(self, outcome: driver.Outcome, group: list[Planned]) -> None:
        """Enter what became of a cell; nothing once the servers were taken away while it was measured."""
        key = outcome.cell.key
        with self._writing:
            if self._closed.is_set():
                return
            if isinstance(outcome, driver.Failed):
                reasons = list(outcome.reasons)
                self.matrix.failed += [FailedBuild(backend=p.backend, label=p.label, reasons=reasons) for p in group]
            elif isinstance(outcome, driver.Measured):
                self._enter(outcome.value, None if is_local(self.settings.executor) else outcome.node)
                self.matrix.retried += [f"{key} was measured again: {reason}" for reason in outcome.failures]
            elif outcome.difference is not None:
                self.matrix.disagreements.append(f"{key} on {' and '.join(outcome.nodes)}: {outcome.difference}")
            self._write()
        if isinstance(outcome, driver.Measured):
            for planned, record in zip(group, outcome.value.builds, strict=True):
                self._results[planned].set_result(record)
        elif isinstance(outcome, driver.Failed):
            for planned in group:
                self._results[planned].set_exception(outcome.as_error)

    def _enter(self, measured: Builds, node: str | None) -> None:
        for build in measured.builds:
            build.node = node
            self.matrix.builds.append(build)
        self.matrix.builds.sort(key=lambda build: self._order[build.backend, build.label])
        store.SampleWriter(self.directory, "builds").append(measured.samples)

    def _write(self) -> None:
        matrix = self.matrix
        matrix.complete = is_complete(matrix)
        matrix.finished_at_utc = store.utc_now()
        summarise(matrix)
        content = msgspec.json.format(msgspec.json.encode(matrix), indent=1)
        store.write_atomically(self.path, content + b"\n")
