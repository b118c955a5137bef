"""The run's scores and saved ones: the test that compares them, and the file that they are saved in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from pytest_multiitem.baselines import golden
from pytest_multiitem.baselines.golden import SCORES_FILE, SHELF, GoldenScores
from pytest_multiitem.baselines.saving import found_wrong
from pytest_multiitem.baselines.score_judging import evidence_lines, judge
from pytest_multiitem.baselines.score_measuring import measure
from pytest_multiitem.errors import UsageError
from pytest_multiitem.gates.gate import Gate
from pytest_multiitem.gates.golden import SCORES_AS_SAVED
from pytest_multiitem.gates.record import blank_record
from pytest_multiitem.gates.run_subject import judged_in
from pytest_multiitem.results.details import AgainstScores
from pytest_multiitem.results.machine import machine_info, package_versions
from pytest_multiitem.results.records import GateRecord, Matrix, Verdict
from pytest_multiitem.results.store import write_record
from pytest_multiitem.session.gate_check import GateCheck
from pytest_multiitem.session.gate_item import GateItem, Suite
from pytest_multiitem.session.part import Line, Part
from pytest_multiitem.session.session import session_of, shown_path
from pytest_multiitem.settings.settings import Settings


class ScoresPart(Part):
    """``--scores`` and ``--save-scores``."""

    not_parallel = (
        "--scores and --save-scores cannot be used under pytest-xdist: one process scores the whole workload; run "
        "without -n"
    )

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        super().__init__(config, settings)
        self.required_gate = None if settings.scores is None else SCORES_AS_SAVED.name
        self._golden: tuple[str, GoldenScores] | None = None
        self._measured: GoldenScores | None = None
        self._saved: Path | None = None
        self._not_saved: str | None = None

    def check_settings(self) -> None:
        """Read the scores to compare with, and check the name to save under."""
        base = self.config.invocation_params.dir
        if self.settings.save_scores is not None:
            SHELF.check_name(self.settings.save_scores)
        if self.settings.scores is not None:
            path = SHELF.find(self.settings.scores, base / self.settings.results_dir.expanduser(), base)
            self._golden = (path.stem.translate(str.maketrans("[]:", "___")), golden.read(path))  # for the test's id

    def items(self, session: pytest.Session) -> Iterable[GateItem]:
        """The test ``multiitem-scores::scores_as_saved[NAME]``; without saved scores it only measures."""
        label = self._golden[0] if self._golden is not None else str(self.settings.save_scores)
        required = None if self._golden is None else "the run's options"
        suite = Suite.from_parent(session, name="multiitem-scores")
        yield GateItem.from_parent(
            suite, gate=SCORES_AS_SAVED.name, measure=self._measure, label=label, required_by=required
        )

    def _measure(self, check: GateCheck) -> None:
        run = check.run

        def measured(gate: Gate) -> GateRecord:
            session = session_of(self.config)
            versions = {**package_versions(), **session.engine_packages()}
            name = self.settings.save_scores or "scores"
            self._measured = measure(run, name, run_id=session.run_dir.name, machine=machine_info(), versions=versions)
            if self._golden is None:
                count = sum(len(each.scores) for each in self._measured.requests)
                reason = f"--scores names none to compare with; {count} items were scored to be saved"
                return blank_record(gate, Verdict.NOT_RUN, reason)
            label, saved = self._golden
            return judge(saved, self._measured, name=label, earlier=earlier(session.run_dir))

        record = judged_in(run, SCORES_AS_SAVED, measured)
        lines = evidence_lines(record) if isinstance(record.details, AgainstScores) else None
        check.conclude(record, evidence=lines)

    def end(self, matrix: Matrix | None) -> bool:
        """Keep the scores in the run's directory; save those of a run that found nothing wrong. One whose scores cannot
        be saved fails."""
        session = session_of(self.config)
        if self._measured is not None:
            write_record(session.run_dir / SCORES_FILE, self._measured)
        name = self.settings.save_scores
        if name is None:
            return False
        self._not_saved = refusal(matrix, self._measured)
        if self._not_saved is None and self._measured is not None:
            try:
                self._saved = SHELF.write(session.run_dir.parent, name, self._measured, replace=True)
            except UsageError as error:
                self._not_saved = str(error)
        return self._not_saved is not None

    def lines(self) -> Iterable[Line]:
        """Where the scores are, or why they are not."""
        name = self.settings.save_scores
        if self._saved is not None:
            yield f"scores {name} saved: {shown_path(self._saved, self.config)}", {"green": True}
        if self._not_saved is not None:
            yield f"scores {name} NOT saved: {self._not_saved}", {"red": True, "bold": True}


def refusal(run: Matrix | None, measured: GoldenScores | None) -> str | None:
    """Why scores must not become those that later runs are compared with; None where they may."""
    found = None if run is None else found_wrong(run)
    if found is not None:
        return found
    if measured is None or not measured.requests:
        why = next(iter(measured.missing.values()), "") if measured is not None else ""
        return "no score was measured" + (f": {why.splitlines()[0]}" if why else "")
    wrong = [each.attestation_problem for each in measured.servers.values() if each.attestation_problem]
    return next(iter([*wrong, *golden.problems(measured)]), None)


def earlier(run_dir: Path) -> Iterator[GoldenScores]:
    """The scores of earlier runs beside this one; what cannot be read is none."""
    for path in run_dir.parent.glob(f"*/{SCORES_FILE}"):
        if path.parent != run_dir and not path.parent.is_symlink():
            with suppress(UsageError, msgspec.ValidationError):
                yield golden.read(path)


PART = ScoresPart
