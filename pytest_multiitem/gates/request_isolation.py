"""Isolation of requests: what comes before a request, or runs beside it, must not change its scores."""

from __future__ import annotations

from pytest_multiitem.adapters.attestation import Attestation
from pytest_multiitem.gates.evidence import baseline, evidence_of, max_abs, replay
from pytest_multiitem.gates.gate import Gate, Measurement, larger_floor, magnitude
from pytest_multiitem.gates.subject import Subject
from pytest_multiitem.gates.traffic import surrounded
from pytest_multiitem.results import details

#: Rounds of the smallest request, each among others; every other request has one.
_ROUNDS = 3


def measure(subject: Subject) -> Measurement:
    """Score every case among others, right after them, and then twice more, when it has come after itself alone.

    The first two must be what the third is; the fourth says how far noise alone moves scores. What went before the
    very first answer is not known, so that one is no reference here.
    """
    multi, record = subject.multi, subject.record
    cases, serial = subject.cases(multi), subject.serial_at_hand(multi)
    alone = [baseline(multi, case, record) for case in cases]
    smallest = min(cases, key=lambda case: len(case.query) + sum(map(len, case.items)), default=None)
    changes: list[details.TrafficChange] = []
    floors: list[float] = []
    with multi.attest() as attestation:
        for case in cases:
            for number in range(1, 1 + (_ROUNDS if case is smallest else 1)):
                among = surrounded(multi, case, record, number)
                after, quiet, again = (replay(multi, case, record) for _ in range(3))
                floors.append(max_abs(again - quiet))
                changes += [
                    details.TrafficChange(case=case.name, round=number, what=what, max_abs_diff=max_abs(scores - quiet))
                    for what, scores in (("among others", among), ("after others", after))
                ]
    attestation.packed_sequences = attestation.packed_items = 0  # the others are smaller than what is measured
    evidence = evidence_of(multi, serial, cases, record, scored=[], spread=alone)
    evidence.noise_floor, rounds = larger_floor(*floors), len(floors)
    changes.sort(key=lambda change: -magnitude(change.max_abs_diff or 0.0))
    return Measurement(
        target=multi,
        value=changes[0].max_abs_diff if changes else None,
        evidence=evidence,
        attestation=Attestation.joined([*(base.attestation for base in alone), *([attestation] if rounds else [])]),
        samples={"cases": len(cases), "rounds": rounds, "items": sum(len(base.scores) for base in alone)},
        details=details.RequestIsolation(worst=changes[:3]),
    )


REQUEST_ISOLATION = Gate(
    "request_isolation_le_0p02",
    "max abs score change of a request when others come just before it and run beside it",
    "<=",
    0.02,
    evidence=frozenset({"noise_floor", "score_spread"}),
    measure=measure,
    needs=("multi",),
    short="requests",
    order=5,
)
GATES = (REQUEST_ISOLATION,)
