"""What the tests of a run have come to so far, and the ``matrix.json`` that becomes of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from pytest_multiitem.errors import UsageError
from pytest_multiitem.gates.record import blank_record
from pytest_multiitem.gates.registry import gates
from pytest_multiitem.results import store
from pytest_multiitem.results.machine import machine_info, package_versions
from pytest_multiitem.results.records import (
    BenchmarkRecord,
    GateRecord,
    Matrix,
    ServerRecord,
    SettingRecord,
    TestRecord,
    TrafficSource,
    Verdict,
)
from pytest_multiitem.results.verdict import DESELECTED, failing, worse
from pytest_multiitem.session.keys import REPORT_ATTRIBUTE
from pytest_multiitem.session.plan import Plan
from pytest_multiitem.session.verdicts import reason_of
from pytest_multiitem.settings.settings import Settings
from pytest_multiitem.untrusted.secrets import redacted_command

if TYPE_CHECKING:
    from pytest_multiitem.comparison.records import ScoreMatrix


class Ledger:
    """Verdicts, benchmarks and outcomes by test.

    ``score_matrices``: what the run's comparison has measured. ``interrupted_by``: why the run did not end by itself.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._started = store.utc_now()
        self._records: dict[str, GateRecord] = {}
        self._tests: dict[str, TestRecord] = {}
        self.benchmarks: list[BenchmarkRecord] = []
        self.score_matrices: list[ScoreMatrix] = []
        self.interrupted_by: str | None = None
        self._passed_beside = 0

    def add(self, report: pytest.TestReport) -> None:
        """Enter one phase of one test."""
        if self._plan.selected.get(report.nodeid) is None and report.when == "call" and report.passed:
            self._passed_beside += 1
        if report.nodeid not in self._plan.selected:
            return
        carried: dict[str, Any] = getattr(report, REPORT_ATTRIBUTE, {})
        records = msgspec.convert(carried.get("gates", []), list[GateRecord])
        for record in records:  # the same test may have been run more than once: the worst verdict stays
            given = self._records.get(record.nodeid)
            if given is None or not worse(given.verdict, record.verdict):
                self._records[record.nodeid] = record
        self.benchmarks += msgspec.convert(carried.get("benchmarks", []), list[BenchmarkRecord])
        gate, reason = self._plan.selected[report.nodeid], "the run ended during this test"
        begun = TestRecord(nodeid=report.nodeid, outcome="not reached", gate=gate, reason=reason)
        known = self._tests.setdefault(report.nodeid, begun)  # its set-up may be all that is ever reported
        known.seconds += report.duration
        if report.failed or (report.skipped and known.outcome != "failed"):
            known.outcome = report.outcome
            known.reason = reason_of(report)
        elif report.when == "call" and known.outcome == "not reached":
            known.outcome, known.reason = "passed", None

    def hidden(self, *, allow_inconclusive: bool) -> list[GateRecord]:
        """The verdicts that fail a run, of tests that passed all the same: someone ran them again."""
        passed = {nodeid for nodeid, test in self._tests.items() if test.outcome == "passed"}
        bad = failing(allow_inconclusive=allow_inconclusive)
        return [record for nodeid, record in self._records.items() if nodeid in passed and record.verdict in bad]

    @property
    def measured_nothing(self) -> bool:
        """Whether there are gates, none was measured, and no test without a gate passed either."""
        records = self.records()
        return bool(records) and not self._passed_beside and all(r.verdict is Verdict.NOT_RUN for r in records)

    def records(self) -> list[GateRecord]:
        """The verdict of every planned gate: tests without one stand as NOT_RUN or ERROR, with the reason."""
        records = []
        for nodeid, gate in {**self._plan.selected, **self._plan.deselected}.items():
            if gate is None:
                continue
            record = self._records.get(nodeid)
            if record is None:
                test = self._tests.get(nodeid)
                verdict, reason = Verdict.NOT_RUN, DESELECTED
                if test is not None:
                    verdict = Verdict.NOT_RUN if test.outcome in ("skipped", "not reached") else Verdict.ERROR
                    reason = test.reason or "the test ended without a verdict"
                elif nodeid in self._plan.selected:
                    reason = "the run ended before this test"
                record = blank_record(gates()[gate], verdict, reason, nodeid)
            record.place = self._plan.places[nodeid]
            records.append(record)
        return records

    def tests(self) -> list[TestRecord]:
        """Every planned test with its outcome so far."""
        verdict_of = {r.nodeid: r.verdict for r in self.records()}
        tests = {n: TestRecord(nodeid=n, outcome="not reached", gate=g) for n, g in self._plan.selected.items()}
        tests |= {n: TestRecord(nodeid=n, outcome="deselected", gate=g) for n, g in self._plan.deselected.items()}
        tests |= self._tests
        for test in tests.values():
            test.verdict = verdict_of.get(test.nodeid)
        return [*tests.values()]

    def matrix(self, run_dir: Path, settings: Settings, exit_status: int) -> Matrix:
        """The run's matrix, with the servers whose samples lie in its directory."""
        records, tests = self.records(), self.tests()
        servers = {(line["label"], line["url"]): line for line in store.server_samples(run_dir)}
        told = [(line.get("info") or {}).get("model_path") for line in servers.values()]
        reached = all(test.outcome != "not reached" for test in tests)
        return Matrix(
            run_id=run_dir.name,
            started_at_utc=self._started,
            finished_at_utc=store.utc_now(),
            complete=reached and self.interrupted_by is None,
            interrupted_by=self.interrupted_by,
            exit_status=exit_status,
            command_line=redacted_command([Path(sys.argv[0]).name, *sys.argv[1:]]),
            machine=machine_info(),
            versions=package_versions(),
            settings=msgspec.convert(settings.records(), list[SettingRecord]),
            servers=msgspec.convert([*servers.values()], list[ServerRecord]),
            gates=records,
            benchmarks=self.benchmarks,
            tests=tests,
            traffic=_traffic(settings, told),
            summary={v.value: sum(r.verdict is v for r in records) for v in Verdict},
        )


def _traffic(settings: Settings, served: Sequence[object]) -> TrafficSource | None:
    """Where the run's requests come from; None for the built-in ones, and for a file that is gone by now."""
    if settings.workload is None:
        return None
    from pytest_multiitem.traffic.loading import described  # it brings the tokenizer's library

    with suppress(UsageError, OSError):
        return described(settings, [each for each in served if isinstance(each, str)])
    return None
