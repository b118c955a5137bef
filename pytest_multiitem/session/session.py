"""One pytest run: which role this process plays in it, its servers, and how it ends.

Without pytest-xdist one process does all. With it, workers measure and the controller owns the run: it keeps the
ledger and the servers' lease. A worker's verdicts travel on its test reports.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import pytest

from pytest_multiitem.errors import MultiItemError
from pytest_multiitem.gates.registry import required
from pytest_multiitem.results import store
from pytest_multiitem.results.records import Matrix, Verdict
from pytest_multiitem.session.keys import SETTINGS
from pytest_multiitem.session.part import PARTS
from pytest_multiitem.session.plan import PLAN, Plan

if TYPE_CHECKING:
    from pytest_multiitem.adapters.base import Engine
    from pytest_multiitem.targets.run import Run

_RUN_DIR: pytest.StashKey[Path] = pytest.StashKey()


@contextmanager
def usage_errors() -> Iterator[None]:
    """What this package raises on purpose, as pytest's own error about a wrong use of it."""
    try:
        yield
    except MultiItemError as error:
        raise pytest.UsageError(str(error)) from None


class Session:
    """The plugin's state in one process.

    ``process``: "main", or the xdist worker's id. ``owner``: whether the ledger is kept and the servers are owned here.
    ``matrix``: the results, once they are in ``written``; ``unmet``: required gates that did not run; ``problem``: what
    went wrong with the results themselves.
    """

    def __init__(self, config: pytest.Config) -> None:
        # A run that does not use the plugin does not wait for NumPy and httpx.
        from pytest_multiitem.session.ledger import Ledger

        worker = getattr(config, "workerinput", None)
        self._config = config
        self.settings = config.stash[SETTINGS]
        self.parts = config.stash[PARTS]
        self.run_dir = run_directory(config)
        self.process: str = "main" if worker is None else worker["workerid"]
        self.owner = worker is None
        self.plan = Plan()
        self.ledger = Ledger(self.plan)
        self.matrix: Matrix | None = None
        self.written: Path | None = None
        self.unmet: list[str] = []
        self.problem: str | None = None
        self._run: Run | None = None
        self._handles_sigterm = False

    @property
    def run(self) -> Run:
        """This process's servers and cases, made on first use."""
        if self._run is None:
            from pytest_multiitem.targets.run import Run  # as in __init__: it brings httpx

            store.make_run_dir(self.run_dir)
            self.handle_termination()
            self._run = Run(self.settings, self.run_dir, engine=self.engine, owner=self.owner, process=self.process)
            self._run.plan(self.plan.profiles)
        return self._run

    @property
    def engine(self) -> Engine:
        """The engine under test."""
        from pytest_multiitem.adapters.base import choose_engine  # as in __init__: it brings NumPy

        return choose_engine(self.settings.engine)

    def engine_packages(self) -> Mapping[str, str]:
        """Versions in the engine's own environment; empty where no server was asked for, or it is this one."""
        return {} if self._run is None else self._run.engine.packages(self.settings)

    def release_servers(self) -> None:
        """Stop the servers of the run's own tests; a test that asks for one starts it again."""
        if self._run is not None:
            self._run.release()

    def handle_termination(self) -> None:
        """Let SIGTERM end the run as Ctrl-C does, so that a cancelled CI job keeps its results."""
        mine = threading.current_thread() is threading.main_thread()
        if self.owner and mine and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:

            def stop(number: int, frame: FrameType | None) -> None:
                pytest.exit("terminated by SIGTERM", returncode=128 + number)

            signal.signal(signal.SIGTERM, stop)
            self._handles_sigterm = True

    def finish(self, exit_status: int) -> int:
        """Stop the servers, write the results, and return the exit status that they ask for."""
        try:
            return self._finish(exit_status)
        except MultiItemError as error:  # shown in the summary, which an exception would suppress
            self.problem = str(error)
            return int(pytest.ExitCode.INTERNAL_ERROR)

    def _finish(self, exit_status: int) -> int:
        if not self.owner:
            if self._run is not None:
                self._run.close()
            return exit_status
        if not self.plan.uses_plugin:
            failing = [part for part in self.parts if part.end(None)]
            if exit_status in (0, 5):
                self.unmet = list(required(self.settings))
            return 1 if exit_status in (0, 5) and (self.unmet or failing) else exit_status
        if exit_status == pytest.ExitCode.USAGE_ERROR:  # nothing was run, and what to write may be the error
            return exit_status
        try:
            if self._run is not None:
                self._run.close()
            for part in self.parts:
                part.close()
        finally:
            self.unmet = self._unmet_requirements()
            if self.unmet and exit_status in (0, 5):
                exit_status = 1
            exit_status = self._write(exit_status)
            if self._handles_sigterm:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
        return exit_status

    def _unmet_requirements(self) -> list[str]:
        ran = {record.gate for record in self.ledger.records() if record.verdict is not Verdict.NOT_RUN}
        gates = (*required(self.settings), *(part.required_gate for part in self.parts))
        return [gate for gate in dict.fromkeys(gates) if gate is not None and gate not in ran]

    def _write(self, exit_status: int) -> int:
        """Write the results; returns the exit status, which a part that fails the run changes."""
        matrix = self.ledger.matrix(self.run_dir, self.settings, exit_status)
        self._config.hook.pytest_multiitem_update_matrix(config=self._config, matrix=matrix)
        self._write_files(matrix)
        failing = [part for part in self.parts if part.end(matrix)]
        if failing and matrix.exit_status == 0:
            matrix.exit_status = 1
            self._write_files(matrix)
        return matrix.exit_status

    def _write_files(self, matrix: Matrix) -> None:
        from pytest_multiitem.reports.formats import write_reports  # imports every report

        store.make_run_dir(self.run_dir)  # where collection did not come to its end
        store.write_matrix(self.run_dir, matrix)
        self.matrix = matrix
        write_reports(matrix, self.run_dir)
        store.point_latest(self.run_dir)
        self.written = self.run_dir


SESSION: pytest.StashKey[Session] = pytest.StashKey()


def session_of(config: pytest.Config) -> Session:
    """This process's session, made on first use."""
    if SESSION not in config.stash:
        config.stash[SESSION] = Session(config)
    return config.stash[SESSION]


def run_directory(config: pytest.Config) -> Path:
    """Where this run writes, the same in all its processes; not created before something is written."""
    if _RUN_DIR not in config.stash:
        given = getattr(config, "workerinput", {}).get("multiitem_run_dir")
        base = config.invocation_params.dir / config.stash[SETTINGS].results_dir.expanduser()
        config.stash[_RUN_DIR] = base / store.new_run_id() if given is None else Path(given)
    return config.stash[_RUN_DIR]


def adopt_plan(config: pytest.Config) -> None:
    """The xdist controller takes over the run once a worker has found tests that use the plugin."""
    if (run_directory(config) / PLAN).exists():
        session = session_of(config)
        with usage_errors():  # of a server that is attached
            if session.plan.adopt(session.run_dir):
                session.run.attach()


def finish(session: pytest.Session) -> None:
    """End the run in this process; the exit status may become 1 for a required gate that did not run."""
    config = session.config
    if SETTINGS not in config.stash or config.getoption("collectonly"):
        return
    settings = config.stash[SETTINGS]
    if SESSION in config.stash or settings.require or settings.save_baseline is not None:
        status = session_of(config).finish(int(session.exitstatus))
        if status != int(session.exitstatus):
            session.exitstatus = status


def shown_path(path: Path, config: pytest.Config) -> Path:
    """A path as the terminal shows it: from where pytest was started, if it lies there."""
    base = config.invocation_params.dir
    return path.relative_to(base) if path.is_relative_to(base) else path
