"""One pytest run: which role this process plays in it, its servers, and how it ends.

Without pytest-xdist one process does all. With it, workers measure and the controller owns the run: it keeps the
ledger and the servers' lease. A worker's verdicts travel on its test reports.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_multiitem import signals
from pytest_multiitem.errors import MultiItemError, UsageError
from pytest_multiitem.gates.registry import required
from pytest_multiitem.results import store
from pytest_multiitem.results.records import Matrix, Verdict
from pytest_multiitem.session.keys import SETTINGS
from pytest_multiitem.session.part import PARTS
from pytest_multiitem.session.plan import Plan, left_by_workers, remove
from pytest_multiitem.signals import Interruptions

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
    ``matrix``: the results, once they are in ``written``; ``unmet``: required gates that did not run; ``notes``: what
    else its end is due to; ``problem``: what went wrong with the results themselves.
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
        self.notes: list[str] = []
        self.problem: str | None = None
        self._least_status = 0
        self._run: Run | None = None
        # Its controller ends a worker, but Ctrl-C reaches it as well, and as often.
        self._interruptions = Interruptions(_interrupt, signals.ENDING if self.owner else (signal.SIGINT,))
        config.add_cleanup(self._interruptions.restore)
        if self.owner:
            config.add_cleanup(lambda: remove(self.run_dir))

    @property
    def run(self) -> Run:
        """This process's servers and cases, made on first use."""
        if self._run is None:
            from pytest_multiitem.targets.run import Run  # as in __init__: it brings httpx

            store.make_run_dir(self.run_dir)
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

    def hold_interruptions(self) -> None:
        """The run ends: it stops its servers, writes its results and says so, whatever signals come."""
        self._interruptions.hold()

    def finish(self, exit_status: int) -> int:
        """Stop the servers, write the results, and return the exit status that they ask for."""
        try:
            exit_status = self._finish(exit_status)
        except MultiItemError as error:
            self._note(error)
        return self._at_least(exit_status)

    def _note(self, error: MultiItemError) -> None:
        """What goes wrong with the end of the run is shown in the summary, which an exception would suppress."""
        self.problem = str(error) if self.problem is None else f"{self.problem}; {error}"
        status = pytest.ExitCode.TESTS_FAILED if isinstance(error, UsageError) else pytest.ExitCode.INTERNAL_ERROR
        self._least_status = max(self._least_status, int(status))

    def _at_least(self, exit_status: int) -> int:
        """The exit status of a run whose tests end with this one: a signal's, or that of what went wrong at the end."""
        if exit_status not in (0, 1, 5):
            return exit_status
        noted = self._interruptions.noted
        if noted is not None:  # while it ended
            return int(pytest.ExitCode.INTERRUPTED) if noted == signal.SIGINT else signals.exit_status(noted)
        return self._least_status or exit_status

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
        closing = [] if self._run is None else [self._run.close]
        for close in (*closing, *(part.close for part in self.parts)):
            try:
                close()
            except MultiItemError as error:
                self._note(error)
        self.unmet = self._unmet_requirements()
        return self._write(self._judged_status(exit_status))

    def _judged_status(self, exit_status: int) -> int:
        """The exit status that pytest gives, unless what was measured asks for another one."""
        if exit_status in (0, 5) and self.unmet:
            return 1
        if exit_status == 0 and (hidden := self.ledger.hidden(allow_inconclusive=self.settings.allow_inconclusive)):
            self.notes.append(f"{len(hidden)} verdicts stay, though their tests were run again")
            return 1
        if exit_status == 0 and self.ledger.measured_nothing and not self.settings.allow_nothing:
            self.notes.append("no gate was measured: exit status 5; --allow-nothing accepts that")
            return int(pytest.ExitCode.NO_TESTS_COLLECTED)
        return exit_status

    def _unmet_requirements(self) -> list[str]:
        ran = {record.gate for record in self.ledger.records() if record.verdict is not Verdict.NOT_RUN}
        gates = (*required(self.settings), *(part.required_gate for part in self.parts))
        return [gate for gate in dict.fromkeys(gates) if gate is not None and gate not in ran]

    def _write(self, exit_status: int) -> int:
        """Write the results; returns the exit status, which a part that fails the run, or a full disk, changes."""
        matrix = self.ledger.matrix(self.run_dir, self.settings, self._at_least(exit_status))
        for part in self.parts:
            part.enter(matrix)
        written = (path for part in self.parts for path in part.artefacts())
        matrix.artefacts = [os.path.relpath(path, self.run_dir) for path in written]
        self._config.hook.pytest_multiitem_update_matrix(config=self._config, matrix=matrix)
        if not self.run_dir.exists():  # collection did not come to its end, or somebody has removed it
            self._stores(lambda: store.make_run_dir(self.run_dir))
        self._stores(lambda: store.merge_samples(self.run_dir))
        is_written = self._writes_matrix(matrix)
        failing = [part for part in self.parts if part.end(matrix)]
        if failing and matrix.exit_status == 0:
            matrix.exit_status = 1
            is_written = self._writes_matrix(matrix)
        if is_written and self._writes_reports(matrix):
            self.written = self.run_dir
        return matrix.exit_status

    def _stores(self, action: Callable[[], object]) -> bool:
        """Whether something can be written; what is against it is noted, and fails the run."""
        try:
            action()
        except UsageError as error:
            self._note(error)
            return False
        return True

    def _writes_matrix(self, matrix: Matrix) -> bool:
        """Write ``matrix.json`` with the exit status that the run then has. An older one is not left to contradict it.

        Raises MultiItemError where its schema is broken.
        """
        matrix.exit_status = self._at_least(matrix.exit_status)
        is_written = self._stores(lambda: store.write_matrix(self.run_dir, matrix))
        if not is_written:
            matrix.exit_status = self._at_least(matrix.exit_status)
            with suppress(OSError):
                (self.run_dir / store.MATRIX).unlink()
        self.matrix = matrix  # shown, even where it cannot be written
        return is_written

    def _writes_reports(self, matrix: Matrix) -> bool:
        """Write the reports and the link to the run; where they cannot be written, ``matrix.json`` knows it."""
        from pytest_multiitem.reports.formats import write_reports  # imports every report

        done = [
            self._stores(lambda: write_reports(matrix, self.run_dir)),
            self._stores(lambda: store.point_latest(self.run_dir)),
        ]
        if not all(done):
            self._writes_matrix(matrix)
        return all(done)


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


def place_run(config: pytest.Config, directory: Path) -> None:
    """Have this run write to a directory that somebody else has chosen for it."""
    config.stash[_RUN_DIR] = directory


def _interrupt(number: signal.Signals) -> None:
    """End the run as Ctrl-C does, so that a cancelled CI job keeps its results."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    pytest.exit(f"terminated by {number.name}", returncode=signals.exit_status(number))


def adopt_plan(config: pytest.Config) -> None:
    """The xdist controller takes over the run once a worker has found tests that use the plugin."""
    if left_by_workers(run_directory(config)):
        session = session_of(config)
        with usage_errors():  # of a server that is attached, of what is kept on disk
            if session.plan.adopt(session.run_dir):
                if session.plan.starts_servers:
                    session.engine.check_storage(session.settings)
                session.run.attach()


def finish(session: pytest.Session) -> None:
    """End the run in this process; the exit status may become 1 for a required gate that did not run."""
    config = session.config
    if SETTINGS not in config.stash or config.getoption("collectonly"):
        return
    settings = config.stash[SETTINGS]
    saves = settings.save_baseline is not None or settings.save_scores is not None
    if SESSION in config.stash or settings.require or saves:
        session_of(config).hold_interruptions()
        status = session_of(config).finish(int(session.exitstatus))
        if status != int(session.exitstatus):
            session.exitstatus = status


def shown_path(path: Path, config: pytest.Config) -> Path:
    """A path as the terminal shows it: from where pytest was started, if it lies there."""
    base = config.invocation_params.dir
    return path.relative_to(base) if path.is_relative_to(base) else path
