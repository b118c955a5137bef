"""Isolation of requests: what comes before a request, or runs beside it, must not change its scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pytest_multiitem.gates.base import Evidence, Gate
from pytest_multiitem.gates.measurement import (
    Measurement,
    Recorder,
    baseline,
    leak_visibility,
    max_abs,
    score_spread,
)
from pytest_multiitem.gates.traffic import surrounded
from pytest_multiitem.scoring.cases import Case
from pytest_multiitem.servers.attestation import Attestation
from pytest_multiitem.servers.target import Target, declared_semantics

REQUEST_ISOLATION = Gate(
    "request_isolation_le_0p02",
    "max abs score change of a request when others come just before it and run beside it",
    "<=",
    0.02,
    evidence=frozenset({"noise_floor", "score_spread"}),
)
GATES = (REQUEST_ISOLATION,)

_ROUNDS = 3


def measure(
    multi: Target, cases: Sequence[Case], *, delimiter: int, record: Recorder, serial: Target | None = None
) -> Measurement:
    """Score every case alone and among others: once, and the smallest one several times, among others each time.

    The value is what the traffic floor is for other gates; here quiet replays alone may excuse it. ``serial``: a
    serial server of the model, where there is one: it says how visible a leak would be.
    """
    alone = [baseline(multi, case, record) for case in cases]
    changes: list[dict[str, Any]] = [
        {"case": case.name, "round": 0, "max_abs_diff": base.traffic_floor}
        for case, base in zip(cases, alone, strict=True)
    ]
    attestations = [base.attestation for base in alone]
    if cases:
        case, base = min(zip(cases, alone, strict=True), key=lambda pair: _tokens(pair[0]))
        with multi.attest() as attestation:
            for number in range(1, 1 + _ROUNDS):
                scores = surrounded(multi, case, record, number)
                changes.append({"case": case.name, "round": number, "max_abs_diff": max_abs(scores - base.scores)})
        attestation.packed_sequences = attestation.packed_items = 0
        attestations.append(attestation)
    visibility = None
    if serial is not None:
        visibility, _ = leak_visibility(serial, cases, declared_semantics(multi), delimiter, record)
    changes.sort(key=lambda change: -change["max_abs_diff"])
    return Measurement(
        target=multi,
        value=changes[0]["max_abs_diff"] if changes else None,
        evidence=Evidence(
            max((base.floor for base in alone), default=None),
            visibility,
            score_spread([base.scores for base in alone]),
        ),
        attestation=Attestation.joined(attestations),
        samples={"cases": len(cases), "surrounded": len(changes), "items": sum(len(base.scores) for base in alone)},
        details={"worst": changes[:3]},
    )


def _tokens(case: Case) -> int:
    return len(case.query) + sum(map(len, case.items))
