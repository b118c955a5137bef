"""One pytest run: which role this process plays in it, and the ledger that becomes ``matrix.json``.

Without pytest-xdist one process does all. With it, workers measure and the controller keeps the
ledger and owns the servers' lease; a worker's verdicts travel on its test reports.
"""

from __future__ import annotations

import signal
import sys
import threading
from itertools import chain
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from pytest_multiitem.adapters.base import Engine, Profile, choose_engine
from pytest_multiitem.comparison.records import ScoreMatrix
from pytest_multiitem.errors import UsageError
from pytest_multiitem.gates.record import blank_record
from pytest_multiitem.gates.registry import gates, required
from pytest_multiitem.gates.regression import NO_REGRESSION
from pytest_multiitem.results import store
from pytest_multiitem.results.machine import machine_info, package_versions
from pytest_multiitem.results.records import (
    BenchmarkRecord,
    GateRecord,
    Matrix,
    ServerRecord,
    SettingRecord,
    TestRecord,
    Verdict,
)
from pytest_multiitem.session.keys import PLAN, REPORT_ATTRIBUTE
from pytest_multiitem.session.plan import Plan
from pytest_multiitem.session.verdicts import reason_of
from pytest_multiitem.settings.settings import Settings
from pytest_multiitem.settings.table import OPTIONS
from pytest_multiitem.targets.run import Run

if TYPE_CHECKING:
    from pytest_multiitem.baselines.timings import Timings
    from pytest_multiitem.comparison.records import Outcome
    from pytest_multiitem.power.runner import PowerRun


class Session:
    """The plugin's state in one process.

    ``process``: "main", or the xdist worker's id. ``keeps``: whether the ledger is kept and the
    servers are owned here.
    """

    def __init__(self, config: pytest.Config, settings: Settings, *, run_dir: Path, process: str, keeps: bool) -> None:
        self._config = config
        self.settings = settings
        self.run_dir = run_dir
        self.process = process
        self.keeps = keeps
        self.plan = Plan()
        self.profiles: tuple[Profile, ...] = ()
        self.written: Path | None = None
        self.unmet: list[str] = []
        self.problem: str | None = None
        #: The comparison of this run, once it is measured; a baseline is judged and saved with its matrices.
        self.comparison: Outcome | None = None
        #: The kill matrix of this run, once its first build is asked for.
        self.power: PowerRun | None = None
        #: Where the run's timings were saved as a baseline, or why they were not.
        self.saved: Path | None = None
        self.not_saved: str | None = None
        self._heeds = False
        self.matrix: Matrix | None = None
        self._started = store.utc_now()
        self._run: Run | None = None
        self._interrupted_by: str | None = None
        self._records: dict[str, GateRecord] = {}
        self._benchmarks: list[BenchmarkRecord] = []
        self._tests: dict[str, TestRecord] = {}

    @property
    def used(self) -> bool:
        """Whether any test of the run uses the plugin; else the plugin leaves no trace."""
        return bool(self.plan.selected or self.plan.deselected)

    @property
    def run(self) -> Run:
        """This process's servers and cases, made on first use."""
        if self._run is None:
            store.make_run_dir(self.run_dir)
            self.heed_termination()
            self._run = Run(self.settings, self.run_dir, engine=self.engine, owner=self.keeps, process=self.process)
            self._run.plan(self.profiles)
        return self._run

    @property
    def engine(self) -> Engine:
        """The engine under test."""
        further = chain.from_iterable(self._config.hook.pytest_multiitem_engines())
        return choose_engine(self.settings.engine, further)

    @property
    def score_matrices(self) -> list[ScoreMatrix]:
        """What the run's comparison has measured."""
        return [] if self.comparison is None else [matrix for _, matrix in self.comparison.matrices]

    def release_servers(self) -> None:
        """Stop the servers of the run's own tests; a test that asks for one starts it again."""
        if self._run is not None:
            self._run.release()

    def power_run(self) -> PowerRun:
        """The measurement of the gates' power, opened on first use: it has servers of its own."""
        if self.power is None:
            from pytest_multiitem.power.runner import PowerRun

            self.release_servers()
            self.power = PowerRun(self.settings, self.run_dir / "power", self.run_dir.name)
            self.power.begin()
        return self.power

    def heed_termination(self) -> None:
        """Let SIGTERM end the run as Ctrl-C does, so that a cancelled CI job keeps its results."""
        mine = threading.current_thread() is threading.main_thread()
        if self.keeps and mine and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:

            def stop(number: int, frame: FrameType | None) -> None:
                pytest.exit("terminated by SIGTERM", returncode=128 + number)

            signal.signal(signal.SIGTERM, stop)
            self._heeds = True

    def prepare(self) -> None:
        """Make the run's directory at the end of collection; a worker leaves its plan there for the controller.

        Raises UsageError where nothing can be written there.
        """
        store.make_run_dir(self.run_dir)
        if not self.keeps:
            store.write_atomically(self.run_dir / PLAN, msgspec.json.encode(self.plan))

    def adopt_plan(self) -> None:
        """Take over the workers' plan and own the run from now on (the controller, before any test runs)."""
        path = self.run_dir / PLAN
        if not self.used:
            self.plan = msgspec.json.decode(path.read_bytes(), type=Plan)
            _ = self.run
        path.unlink()  # every worker leaves the same

    def interrupted(self, by: str) -> None:
        """Remember that the run did not end by itself."""
        self._interrupted_by = by

    def add(self, report: pytest.TestReport) -> None:
        """Enter one phase of one test into the ledger."""
        if report.nodeid not in self.plan.selected:
            return
        carried: dict[str, Any] = getattr(report, REPORT_ATTRIBUTE, {})
        for raw in carried.get("gates", []):
            record = msgspec.convert(raw, GateRecord)
            self._records[record.nodeid] = record
        for raw in carried.get("benchmarks", []):
            self._benchmarks.append(msgspec.convert(raw, BenchmarkRecord))
        known = self._tests.setdefault(
            report.nodeid,
            TestRecord(
                nodeid=report.nodeid,
                outcome="not reached",  # its set-up may be all that is ever reported
                gate=self.plan.selected[report.nodeid],
                reason="the run ended during this test",
            ),
        )
        known.seconds += report.duration
        if report.failed or (report.skipped and known.outcome != "failed"):
            known.outcome = report.outcome
            known.reason = reason_of(report)
        elif report.when == "call" and known.outcome == "not reached":
            known.outcome, known.reason = "passed", None

    def timings(self) -> Timings:
        """What this run has timed so far: benchmarks whose test passed, and the comparison's matrices."""
        from pytest_multiitem.baselines.timings import timings

        engine = {} if self._run is None else self._run.engine.packages(self.settings)
        return timings(
            self._benchmarks,
            self._all_tests(),
            self.score_matrices,
            machine=machine_info(),
            versions={**package_versions(), **engine},
            settings={o.name: self.settings.shown(o.name) for o in OPTIONS},
            run_id=self.run_dir.name,
        )

    def finish(self, exit_status: int) -> int:
        """Stop the servers, write the results, and return the exit status that they ask for."""
        if not self.keeps:
            if self._run is not None:
                self._run.close()
            return exit_status
        if not self.used:
            if self.settings.save_baseline is not None:
                self.not_saved = "no timing was measured"
            if self.settings.require and exit_status in (0, 5):
                self.unmet = list(required(self.settings))
            return 1 if exit_status in (0, 5) and (self.unmet or self.not_saved) else exit_status
        if exit_status == pytest.ExitCode.USAGE_ERROR:  # nothing was run, and what to write may be the error
            return exit_status
        try:
            if self._run is not None:
                self._run.close()
            if self.power is not None:
                self.power.close(self._interrupted_by)
        finally:
            self.unmet = self._unmet_requirements()
            if self.unmet and exit_status in (0, 5):
                exit_status = 1
            exit_status = self._write(exit_status)
            if self._heeds:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
        return exit_status

    def _unmet_requirements(self) -> list[str]:
        ran = {r.gate for r in self._all_records() if r.verdict is not Verdict.NOT_RUN}
        wanted = dict.fromkeys(required(self.settings))
        if self.settings.baseline is not None:  # to ask for the comparison is to require it
            wanted[NO_REGRESSION.name] = None
        return [name for name in wanted if name not in ran]

    def _all_records(self) -> list[GateRecord]:
        """The verdict of every planned gate: tests without one stand as NOT_RUN or FAIL, with the reason."""
        records = []
        for nodeid, gate in {**self.plan.selected, **self.plan.deselected}.items():
            if gate is None:
                continue
            record = self._records.get(nodeid)
            if record is None:
                test = self._tests.get(nodeid)
                verdict, reason = Verdict.NOT_RUN, "deselected on the command line"
                if test is not None:
                    verdict = Verdict.NOT_RUN if test.outcome in ("skipped", "not reached") else Verdict.FAIL
                    reason = test.reason or "the test ended without a verdict"
                elif nodeid in self.plan.selected:
                    reason = "the run ended before this test"
                record = blank_record(gates()[gate], verdict, reason, nodeid)
            record.place = self.plan.places[nodeid]
            records.append(record)
        return records

    def _all_tests(self) -> list[TestRecord]:
        """Every planned test with its outcome so far."""
        verdict_of = {r.nodeid: r.verdict for r in self._all_records()}
        tests = []
        for nodeid, gate in self.plan.selected.items():
            test = self._tests.get(nodeid) or TestRecord(nodeid=nodeid, outcome="not reached", gate=gate)
            test.verdict = verdict_of.get(nodeid)
            tests.append(test)
        tests += [
            TestRecord(nodeid=n, outcome="deselected", gate=g, verdict=verdict_of.get(n))
            for n, g in self.plan.deselected.items()
        ]
        return tests

    def _write(self, exit_status: int) -> int:
        """Write matrix, report and baseline; returns the exit status, which a baseline that is not saved changes."""
        matrix = self._matrix(exit_status)
        self._config.hook.pytest_multiitem_update_matrix(config=self._config, matrix=matrix)
        if self.settings.save_baseline is not None:
            self.not_saved = self._refusal(matrix)
            if self.not_saved is not None:
                matrix.exit_status = matrix.exit_status or 1
        self._write_files(matrix)
        if self.settings.save_baseline is not None and self.not_saved is None:
            self._save(self.settings.save_baseline)
            if self.not_saved is not None:
                matrix.exit_status = 1
                self._write_files(matrix)
        return matrix.exit_status

    def _refusal(self, matrix: Matrix) -> str | None:
        from pytest_multiitem.baselines.saving import refusal

        return refusal(matrix, self.score_matrices, self.timings())

    def _save(self, name: str) -> None:
        from pytest_multiitem.baselines import store as baselines

        try:
            self.saved = baselines.write(self.run_dir.parent, baselines.baseline_of(name, self.timings()), replace=True)
        except UsageError as error:
            self.not_saved = str(error)

    def _write_files(self, matrix: Matrix) -> None:
        from pytest_multiitem.reports.formats import write_reports

        store.make_run_dir(self.run_dir)  # where collection did not come to its end
        store.write_matrix(self.run_dir, matrix)
        self.matrix = matrix
        write_reports(matrix, self.run_dir)
        store.point_latest(self.run_dir)
        self.written = self.run_dir

    def _matrix(self, exit_status: int) -> Matrix:
        records, tests = self._all_records(), self._all_tests()
        servers = {(line["label"], line["url"]): line for line in store.merge_samples(self.run_dir)}
        reached = all(test.outcome != "not reached" for test in tests)
        return Matrix(
            run_id=self.run_dir.name,
            started_at_utc=self._started,
            finished_at_utc=store.utc_now(),
            complete=reached and self._interrupted_by is None,
            interrupted_by=self._interrupted_by,
            exit_status=exit_status,
            command_line=[Path(sys.argv[0]).name, *sys.argv[1:]],
            machine=machine_info(),
            versions=package_versions(),
            settings=[
                SettingRecord(name=o.name, value=self.settings.shown(o.name), origin=self.settings.origins[o.name])
                for o in OPTIONS
            ],
            servers=[
                msgspec.convert({k: v for k, v in line.items() if k != "kind"}, ServerRecord)
                for line in servers.values()
            ],
            gates=records,
            benchmarks=self._benchmarks,
            tests=tests,
            summary={v.value: sum(r.verdict is v for r in records) for v in Verdict},
        )
