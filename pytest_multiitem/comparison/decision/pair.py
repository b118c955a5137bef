"""Two rows of an A/B pair → its record: how much faster one arm is, and whether their scores agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pytest_multiitem.comparison.decision.agreement import agreement
from pytest_multiitem.comparison.decision.speed import Speed, versus
from pytest_multiitem.comparison.records import Agreement, PairRecord, Row
from pytest_multiitem.scoring.limits import PLACED
from pytest_multiitem.transport.client import FailureKind

_WORDS = {"a_faster": "A is faster", "b_faster": "B is faster", "no_difference_shown": "no difference shown"}


def pair_of(arms: Mapping[str, Mapping[str, str]], rows: Mapping[str, Row], labels: Sequence[int] | None) -> PairRecord:
    """The record of two arms, by name: their variables, and what was measured on each. ``labels``: those that were
    scored, where they are known."""
    a, b = rows.values()
    speed = versus(a, b)
    scores = [row.reference_scores for row in (a, b) if row.reference_scores is not None]
    found = agreement(*scores, labels=labels) if len(scores) == 2 else None
    return PairRecord(
        arms={name: dict(variables) for name, variables in arms.items()},
        rows=dict(rows),
        labels=None if labels is None else list(labels),
        ratio_p50=speed.ratio,
        ratio_interval_95=speed.interval,
        verdict=_verdict(rows, speed, found),
        agreement=found,
    )


def apart(found: Agreement | None) -> str | None:
    """Why two arms do not score alike, so that the speed of one says nothing of the other; None where they do, or where
    nothing is known."""
    if found is None or found.max_abs_diff is None or found.max_abs_diff <= PLACED:
        return None
    return f"the arms do not score alike: they are up to {found.max_abs_diff:.3g} apart, above {PLACED:g}"


def _verdict(rows: Mapping[str, Row], speed: Speed, found: Agreement | None) -> str:
    """Which arm is faster, as far as the interval shows it."""
    for name, row in rows.items():
        if row.failure_reason_counts.get(FailureKind.WRONG_SCORES.value) or row.score_problem:
            return f"not compared: the scores of arm {name} are wrong"
    other = apart(found)
    if other is not None:
        return f"not compared: {other}"
    return _WORDS.get(speed.verdict, f"not compared: {speed.why}")
