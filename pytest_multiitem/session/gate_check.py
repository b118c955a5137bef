"""The gate of a test: it measures, and what is asserted of its value ends the test by the gate's verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import msgspec
import pytest

from pytest_multiitem.errors import MultiItemError
from pytest_multiitem.gates.gate import Gate, Measurement
from pytest_multiitem.gates.record import blank_record, verdict_of
from pytest_multiitem.gates.registry import gates
from pytest_multiitem.gates.run_subject import judged_in
from pytest_multiitem.results.details import Notes
from pytest_multiitem.results.records import GateRecord, Verdict
from pytest_multiitem.results.verdict import failing, worse
from pytest_multiitem.scoring.vocabulary import Part
from pytest_multiitem.session.keys import RECORDS
from pytest_multiitem.session.run_subject import ExplainedSubject
from pytest_multiitem.session.session import Session
from pytest_multiitem.session.verdicts import STAYS, requirement, worst_given
from pytest_multiitem.targets.run import Run
from pytest_multiitem.targets.target import Target
from pytest_multiitem.untrusted.words import plain_lines

#: Fields that the evidence below a failure leaves out: its first line has them, or the report does.
_NO_EVIDENCE = frozenset({"gate", "verdict", "reason", "relation", "engine", "role", "nodeid", "place", "seconds"})


#: Verdicts that a further run of the same test does not change.
_STAYS = failing(allow_inconclusive=False)


class Measured:
    """The value of a gate, judged. To compare it with the gate's own limit, or to take it for true where the gate has
    none, ends the test by the verdict: only a PASS goes on."""

    def __init__(self, check: GateCheck, record: GateRecord, explanation: Sequence[str]) -> None:
        self.record = record
        self._check = check
        self._explanation = explanation
        self._is_concluded = False

    def __eq__(self, limit: object) -> bool:
        return self._asserted("==", limit)

    def __le__(self, limit: float) -> bool:
        return self._asserted("<=", limit)

    def __ge__(self, limit: float) -> bool:
        return self._asserted(">=", limit)

    def __bool__(self) -> bool:
        return self._asserted("holds", None)

    __hash__ = object.__hash__

    def passes(self) -> bool:
        """Whether the gate's own criterion is met, whatever it is."""
        return self._asserted(self._check.gate.relation, self._check.gate.limit)

    def __repr__(self) -> str:
        return f"{self.record.gate}: {self.record.value}"

    def _asserted(self, relation: Literal["==", "<=", ">=", "holds"], limit: object) -> bool:
        __tracebackhide__ = True
        gate = self._check.gate
        if (relation, limit) != (gate.relation, gate.limit):
            asserted = relation if limit is None else f"{relation} {limit}"
            self._check.mistaken(
                f"the test asserts that the value {asserted}, but the gate's own criterion is {gate.bound}"
            )
        if not self._is_concluded:
            self._is_concluded = True
            lines = [*self._explanation, *_evidence(self.record)] if self._explanation else None
            self._check.conclude(self.record, evidence=lines)
        return True


class GateCheck:
    """Measures and judges the gate named by the test's ``multiitem_gate`` marker.

    ``model``: the one of a model matrix that the test is for; None where there is no matrix.
    """

    def __init__(self, gate: str, item: pytest.Item, session: Session, *, model: str | None = None) -> None:
        self.gate = gates()[gate]
        self.model = model
        self._item = item
        self._session = session

    @property
    def run(self) -> Run:
        """This process's servers and cases."""
        return self._session.run

    def measured(
        self,
        *,
        multi: Target | None = None,
        serial: Target | None = None,
        extend: Target | None = None,
        backend: str | None = None,
        mask: str | None = None,
        chunk: int | None = None,
        client_chunk_size: int | None = None,
    ) -> Measured:
        """Measure the gate; assert on what is returned: ``assert multiitem_gate.measured(multi=…) <= 0.02``.

        ``multi``, ``serial``, ``extend``: the servers to measure. What the gate needs beyond them is of ``backend``
        (theirs where not given), and packed servers of ``mask`` and server chunk size ``chunk``, by the run's settings.
        ``client_chunk_size``: items per request of the gates between backends. What goes wrong is judged by whose it
        is (`gates.record.verdict_of`).
        """
        parts: dict[Part, Target | None] = {"multi": multi, "serial": serial, "extend": extend}
        given = {part: target for part, target in parts.items() if target is not None}
        backend = backend or next((target.profile.backend for target in given.values()), None)
        measure = self.gate.measure
        if measure is None:
            pytest.fail(f"gate {self.gate.name} states no way to measure it; give the measurement to check(…)", False)
        if backend is None:
            pytest.fail(f"gate {self.gate.name}: name a server to measure (multi=…, serial=…), or a backend", False)
        subject = ExplainedSubject(self.run, backend, given, mask, chunk, client_chunk_size, self.model)

        def measured(gate: Gate) -> Measurement | GateRecord:
            subject.require(gate)
            return measure(subject)

        return Measured(self, judged_in(self.run, self.gate, measured), subject.explanation)

    #: Of a gate without a limit: ``assert multiitem_gate.holds(multi=…)``.
    holds = measured

    def check(self, measure: Callable[[Gate], Measurement]) -> GateRecord:
        """Judge a measurement of the test's own, and end the test by the verdict."""
        return self.conclude(judged_in(self.run, self.gate, measure))

    def not_run(self, reason: str) -> GateRecord:
        """End the test: the gate cannot be measured here, for this reason."""
        return self.conclude(blank_record(self.gate, Verdict.NOT_RUN, reason))

    def fail(self, reason: str) -> GateRecord:
        """End the test: the gate fails without a measurement, for this reason."""
        return self.conclude(blank_record(self.gate, Verdict.FAIL, reason))

    def mistaken(self, reason: str) -> GateRecord:
        """End the test as an error: it is the test that is wrong, for this reason."""
        return self.conclude(blank_record(self.gate, Verdict.ERROR, reason))

    def failed(self, error: MultiItemError) -> GateRecord:
        """End the test: this is in the way of a measurement."""
        return self.conclude(blank_record(self.gate, verdict_of(error, self.gate), str(error)))

    def conclude(self, record: GateRecord, *, evidence: Sequence[str] | None = None) -> GateRecord:
        """End the test by a verdict that is judged already.

        ``evidence``: the lines that a failure shows below its reason, instead of the record's fields. A verdict once
        given stays: where the same test is run again, what failed before fails again.
        """
        records = self._item.stash.setdefault(RECORDS, [])
        given = worst_given(records, _STAYS)
        if given is not None and worse(given.verdict, record.verdict):
            reason = f"{given.reason.removesuffix(f' ({STAYS})')} ({STAYS})"
            record = msgspec.structs.replace(given, reason=reason)
        record.nodeid = self._item.nodeid
        if record.verdict is Verdict.PASS and record.engine is not None:
            record.now_passes = self.run.engine.known_issue(self.model or self._session.settings.model or "")
        records.append(record)
        text = plain_lines(f"{record.verdict}: {record.gate}: {record.reason}")
        lines = _evidence(record) if evidence is None else evidence
        shown = plain_lines("\n".join([text, *(f"  {line}" for line in lines)]))
        if record.verdict in failing(allow_inconclusive=self._session.settings.allow_inconclusive):
            pytest.fail(shown, pytrace=False)
        by = requirement(self._item, record.gate) if record.verdict is Verdict.NOT_RUN else None
        if by is not None:
            pytest.fail(f"{text} (required by {by})", pytrace=False)
        if record.verdict is not Verdict.PASS:
            pytest.skip(text)
        return record


def _evidence(record: GateRecord) -> list[str]:
    """The fields of a record that are measured, a line each."""
    nothing: tuple[object, ...] = (None, {}, msgspec.to_builtins(Notes()))
    fields = msgspec.to_builtins(record).items()
    lines = [f"{name}: {value}" for name, value in fields if name not in _NO_EVIDENCE and value not in nothing]
    return [line if len(line) <= 400 else line[:400] + " …" for line in lines]
