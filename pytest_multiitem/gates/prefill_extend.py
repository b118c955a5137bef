"""Prefill+extend: two runs of the same request through the scoring cache must agree."""

from __future__ import annotations

import numpy as np

from pytest_multiitem.gates.evidence import max_abs, score_spread
from pytest_multiitem.gates.gate import Gate, Measurement
from pytest_multiitem.gates.subject import Subject
from pytest_multiitem.gates.traffic import sample
from pytest_multiitem.results import details
from pytest_multiitem.results.records import Evidence

NUM_ITEMS = 24
_ROW_SUM_TOLERANCE = 5e-6  # five decimal places


def measure(subject: Subject) -> Measurement:
    """Score a case twice: the first run fills the scoring cache, the second reads it."""
    extend = subject.extend
    case = subject.timing_case(extend, NUM_ITEMS)
    with extend.attest() as attestation:
        first, second = extend.score(case), extend.score(case)
    sample(subject.record, "prefill+extend", case=case.name, first=first, second=second)
    off = max_abs(np.concatenate([first, second]).sum(axis=1) - 1.0)
    problem = None
    if off > _ROW_SUM_TOLERANCE:
        problem = f"a row of softmax scores sums to 1 ± {off:.3g}; expected 1 to five places"
    return Measurement(
        target=extend,
        value=max_abs(first - second),
        evidence=Evidence(score_spread=score_spread([first])),
        attestation=attestation,
        samples={"runs": 2, "items": len(first)},
        details=details.PrefillExtend(row_sum_error=off),
        problem=problem,
    )


PREFILL_EXTEND_REPLAY = Gate(
    "prefill_extend_replay_le_1e_4",
    "max abs score difference between two runs of 24 items through prefill+extend; rows sum to 1",
    "<=",
    1e-4,
    evidence=frozenset({"score_spread"}),
    measure=measure,
    needs=("extend",),
    short="replay",
    order=10,
)
GATES = (PREFILL_EXTEND_REPLAY,)
