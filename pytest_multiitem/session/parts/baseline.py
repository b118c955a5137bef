"""The run's timings and a baseline: the test that compares them, and the file that they are saved in."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from pytest_multiitem.baselines import store
from pytest_multiitem.baselines.judging import evidence_lines, judge
from pytest_multiitem.baselines.records import Baseline
from pytest_multiitem.baselines.saving import refusal
from pytest_multiitem.baselines.timings import Timings, timings
from pytest_multiitem.errors import UsageError
from pytest_multiitem.gates.regression import NO_REGRESSION
from pytest_multiitem.results.machine import machine_info, package_versions
from pytest_multiitem.results.records import Matrix
from pytest_multiitem.session.gate_check import GateCheck
from pytest_multiitem.session.gate_item import GateItem, Suite
from pytest_multiitem.session.part import Line, Part
from pytest_multiitem.session.session import SESSION, session_of, shown_path
from pytest_multiitem.settings.conditions import parse
from pytest_multiitem.settings.settings import Settings


class BaselinePart(Part):
    """``--baseline`` and ``--save-baseline``."""

    not_parallel = (
        "--baseline and --save-baseline cannot be used under pytest-xdist: tests that share the machine time each "
        "other, and nothing is timed there; run without -n"
    )

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        super().__init__(config, settings)
        self.required_gate = None if settings.baseline is None else NO_REGRESSION.name
        self._baseline: tuple[str, Baseline] | None = None
        self._saved: Path | None = None
        self._not_saved: str | None = None

    def check_settings(self) -> None:
        """Read the baseline to compare with, and check the name to save under."""
        base = self.config.invocation_params.dir
        if self.settings.save_baseline is not None:
            store.check_name(self.settings.save_baseline)
        if self.settings.baseline is not None:
            path = store.find(self.settings.baseline, base / self.settings.results_dir.expanduser(), base)
            self._baseline = (path.stem.translate(str.maketrans("[]:", "___")), store.read(path))  # for the test's id

    def items(self, session: pytest.Session) -> Iterable[GateItem]:
        """The test ``multiitem-baseline::no_regression_vs_baseline[NAME]``."""
        if self._baseline is None:
            return
        label, baseline = self._baseline
        conditions = [parse(text) for text in self.settings.fail_if]

        def measure(check: GateCheck) -> None:
            record = judge(baseline, self._timings(), conditions, name=label)
            check.conclude(record, evidence=evidence_lines(record))

        suite = Suite.from_parent(session, name="multiitem-baseline")
        yield GateItem.from_parent(
            suite, gate=NO_REGRESSION.name, measure=measure, label=label, required_by="the run's options"
        )

    def end(self, matrix: Matrix | None) -> bool:
        """Save the timings of a run that found nothing wrong; one that does not become a baseline fails."""
        name = self.settings.save_baseline
        if name is None:
            return False
        if matrix is None:
            self._not_saved = "no timing was measured"
            return True
        session = session_of(self.config)
        timed = self._timings()
        self._not_saved = refusal(matrix, session.ledger.score_matrices, timed)
        if self._not_saved is None:
            try:
                self._saved = store.write(session.run_dir.parent, store.baseline_of(name, timed), replace=True)
            except UsageError as error:
                self._not_saved = str(error)
        return self._not_saved is not None

    def lines(self) -> Iterable[Line]:
        """Where the baseline is, or why it is not."""
        name = self.settings.save_baseline
        if self._saved is not None:
            yield f"baseline {name} saved: {shown_path(self._saved, self.config)}", {"green": True}
        if self._not_saved is not None:
            yield f"baseline {name} NOT saved: {self._not_saved}", {"red": True, "bold": True}

    def _timings(self) -> Timings:
        """What this run has timed so far: benchmarks whose test passed, and the comparison's matrices."""
        session = self.config.stash[SESSION]
        return timings(
            session.ledger.benchmarks,
            session.ledger.tests(),
            session.ledger.score_matrices,
            machine=machine_info(),
            versions={**package_versions(), **session.engine_packages()},
            settings={record["name"]: record["value"] for record in self.settings.records()},
            run_id=session.run_dir.name,
        )


PART = BaselinePart
