"""The helpers behind the fixtures: a gate that ends its test by a verdict, a benchmark that is recorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec
import pytest

from pytest_multiitem.gates.gate import Gate
from pytest_multiitem.gates.record import Measurement, blank_record, judged
from pytest_multiitem.gates.registry import gates
from pytest_multiitem.gates.traffic import Recorder
from pytest_multiitem.results.details import Notes
from pytest_multiitem.results.records import GateRecord, Verdict
from pytest_multiitem.scoring.cases import Case
from pytest_multiitem.session.keys import RECORDS
from pytest_multiitem.session.session import Session
from pytest_multiitem.session.verdicts import requirement
from pytest_multiitem.targets.run import Run
from pytest_multiitem.targets.target import Target


class AgainstSerial(Protocol):
    """How `gates` measure a multi-item server against a serial one."""

    def __call__(
        self, multi: Target, serial: Target, cases: Sequence[Case], *, delimiter: int, record: Recorder
    ) -> Measurement: ...


class GateCheck:
    """Measures and judges the gate named by the test's ``multiitem_gate`` marker.

    ``model``: the one of a model matrix that the test is for; None where there is no matrix.
    """

    def __init__(self, gate: str, item: pytest.Item, session: Session, *, model: str | None = None) -> None:
        self.gate = gates()[gate]
        self.model = model
        self._item = item
        self._session = session
        self._settings = session.settings

    @property
    def run(self) -> Run:
        """This process's servers and cases."""
        return self._session.run

    def check(
        self, measure: Callable[[Gate], Measurement], *, explain: Callable[[], Sequence[str]] = tuple
    ) -> GateRecord:
        """Measure, judge, and end the test by the verdict.

        A request that fails is a FAIL of the gate; so is a server that dies while it is measured. ``explain``: lines
        that a failure shows above the record's fields.
        """
        if self.gate.timing:
            self.run.settle()
        record = judged(self.gate, measure)
        explained = list(explain())
        return self.conclude(record, evidence=[*explained, *_evidence(record)] if explained else None)

    def against_serial(self, measure: AgainstSerial, multi: Target, serial: Target) -> GateRecord:
        """`check` a measurement of a multi-item server against a serial one, on the run's requests."""
        run = self.run
        return self.check(
            lambda gate: measure(multi, serial, run.cases(multi), delimiter=run.settings.delimiter, record=run.record)
        )

    def not_run(self, reason: str) -> GateRecord:
        """End the test: the gate cannot be measured here, for this reason."""
        return self.conclude(blank_record(self.gate, Verdict.NOT_RUN, reason))

    def fail(self, reason: str) -> GateRecord:
        """End the test: the gate fails without a measurement, for this reason."""
        return self.conclude(blank_record(self.gate, Verdict.FAIL, reason))

    def conclude(self, record: GateRecord, *, evidence: Sequence[str] | None = None) -> GateRecord:
        """End the test by a verdict that is judged already.

        ``evidence``: the lines that a failure shows below its reason, instead of the record's fields.
        """
        record.nodeid = self._item.nodeid
        if record.verdict is Verdict.PASS and record.engine is not None:
            record.now_passes = self.run.engine.known_issue(self.model or self._settings.model or "")
        self._item.stash.setdefault(RECORDS, []).append(record)
        text = f"{record.verdict}: {record.gate}: {record.reason}"
        lines = _evidence(record) if evidence is None else evidence
        shown = "\n".join([text, *(f"  {line}" for line in lines)])
        if record.verdict is Verdict.FAIL:
            pytest.fail(shown, pytrace=False)
        if record.verdict is Verdict.INCONCLUSIVE:
            if not self._settings.allow_inconclusive:
                pytest.fail(shown, pytrace=False)
            pytest.skip(text)
        if record.verdict is Verdict.NOT_RUN:
            if (by := requirement(self._item, record.gate)) is not None:
                pytest.fail(f"{text} (required by {by})", pytrace=False)
            pytest.skip(text)
        return record


def _evidence(record: GateRecord) -> list[str]:
    fields = msgspec.to_builtins(record)
    nothing: tuple[object, ...] = (None, {}, msgspec.to_builtins(Notes()))
    shown = (
        "value", "limit", "interval", "noise_floor", "traffic_floor", "leak_visibility", "semantic_visibility",
        "score_spread", "samples", "backend", "model", "dtype", "semantics", "mask_requested", "mask_attested",
        "server_chunk_size", "items_per_sequence", "details",
    )  # fmt: skip
    lines = [f"{name}: {fields[name]}" for name in shown if fields[name] not in nothing]
    return [line if len(line) <= 400 else line[:400] + " …" for line in lines]
