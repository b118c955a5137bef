"""Two rows, or a row and its side's own reference → Checks: whether they score alike, judged by the gates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pytest_multiitem.comparison.decision.agreement import agreement
from pytest_multiitem.comparison.records import Agreement, Check, OwnReference, Row, ScoreMatrix, Thresholds
from pytest_multiitem.gates.comparison import OWN_REFERENCE_MAX_ABS, OWN_REFERENCE_MEAN_ABS
from pytest_multiitem.gates.gate import Gate
from pytest_multiitem.gates.judge import judge_difference
from pytest_multiitem.gates.parity import CROSS_BACKEND_MAX_ABS, CROSS_BACKEND_MEAN_ABS
from pytest_multiitem.results.records import Evidence, Verdict
from pytest_multiitem.scoring.limits import placed_limit
from pytest_multiitem.transport.client import FailureKind

#: A gate on the largest score difference, and one on the mean.
CROSS_BACKEND = (CROSS_BACKEND_MAX_ABS, CROSS_BACKEND_MEAN_ABS)
#: The same limits for a side on its own: against items scored alone in the context that its semantics gives them.
OWN_REFERENCE = (OWN_REFERENCE_MAX_ABS, OWN_REFERENCE_MEAN_ABS)


def between(a: Row, b: Row, *, items: int | None = None, labels: Sequence[int] | None = None) -> Agreement | None:
    """The agreement of two rows' scores; None where one has none.

    ``items`` and ``labels``: what the workload has, where it is known; other counts are a ``problem``.
    """
    if not a.reference_scores or not b.reference_scores:
        return None
    floor = _larger(a.noise_floor, b.noise_floor)
    for row in (a, b):
        count = len(row.reference_scores or ())
        if items is not None and count != items:
            return Agreement(noise_floor=floor, problem=f"scores of {count} items; the workload has {items}")
    return agreement(a.reference_scores, b.reference_scores, noise_floor=floor, labels=labels)


def cross_backend_gates(limits: Thresholds) -> tuple[Gate, ...]:
    """Both cross-backend gates, with limits of one's own."""
    of_ones_own = (limits.max_abs_diff, limits.mean_abs_diff)
    return tuple(replace(gate, limit=limit) for gate, limit in zip(CROSS_BACKEND, of_ones_own, strict=True))


def cross_backend_checks(agreed: Agreement | None, missing: str, limits: Thresholds) -> list[Check]:
    """Both cross-backend gates on an agreement; ``missing`` says why there is none."""
    return _judge(cross_backend_gates(limits), agreed, missing)


def own_reference_agreement(row: Row, reference: OwnReference) -> Agreement | None:
    """The agreement of a row with its side's own reference, on the items that it holds; None where there is nothing
    to compare."""
    if not row.reference_scores or not reference.scores or not reference.item_indices:
        return None
    floor = _larger(row.noise_floor, reference.noise_floor)
    outside = [i for i in reference.item_indices if not 0 <= i < len(row.reference_scores)]
    if outside:
        problem = f"item {outside[0]} of the reference is none of the {len(row.reference_scores)} scored items"
        return Agreement(noise_floor=floor, problem=problem)
    chosen = [row.reference_scores[i] for i in reference.item_indices]
    return agreement(chosen, reference.scores, noise_floor=floor, indices=reference.item_indices)


def distance(agreed: Agreement) -> float:
    """The largest score difference; infinite where the scores cannot be compared."""
    return math.inf if agreed.max_abs_diff is None else agreed.max_abs_diff


def apart(a: Row, b: Row, dtype: str | None) -> float | None:
    """How far two rows of one side are apart, where that is more than the precision ``dtype`` and the noise that both
    have shown allow; None where they agree, or cannot be compared. The same items must score the same each time, at
    every client chunk size."""
    try:
        ours, theirs = (np.asarray(row.reference_scores or [], dtype=np.float64) for row in (a, b))
    except (TypeError, ValueError):
        return None
    if ours.shape != theirs.shape or not ours.size:
        return None
    difference = float(np.abs(ours - theirs).max())
    allowed = placed_limit(dtype) + (a.noise_floor or 0.0) + (b.noise_floor or 0.0)
    return None if difference <= allowed else difference


def contradictions(rows: Sequence[Row], dtype: str | None) -> dict[int, str]:
    """Client chunk sizes with a row whose scores are not those of more than half of the side's other rows, in words."""
    found: dict[int, str] = {}
    for row in rows:
        others = [other for other in rows if other is not row and other.reference_scores]
        distances = [(apart(row, other, dtype), other.client_chunk_size) for other in others]
        differing = [(away, size) for away, size in distances if away is not None]
        if 2 * len(differing) > len(others):
            away, size = max(differing)
            text = f"its scores are {away:.3g} away from the same items at client chunk size {size}"
            found[row.client_chunk_size] = text
    return found


def wrong_under_load(matrix: ScoreMatrix) -> str | None:
    """How many answers to requests that overlap had wrong scores; None where none had, or it was not measured."""
    levels = (matrix.load or {}).get("levels") or []
    kinds = [level.get("errors_by_kind") or {} for level in levels if isinstance(level, dict)]
    count = sum(kind.get(FailureKind.WRONG_SCORES.value, 0) for kind in kinds)
    return f"under load, {count} answers had wrong scores" if count else None


def own_reference_checks(matrix: ScoreMatrix, agreed: Agreement | None) -> list[Check]:
    """Both limits on a side's agreement with its own reference; INCONCLUSIVE with the reason where there is none."""
    reference, missing = matrix.own_reference, "no scores at this client chunk size"
    if reference is None or not reference.scores:
        why = None if reference is None else reference.reason
        missing = f"its own serial reference was not measured{f': {why}' if why else ''}"
    elif None not in (reference.semantics, matrix.semantics) and reference.semantics != matrix.semantics:
        missing = f"it declares {matrix.semantics}, and its reference is of {reference.semantics}"
        agreed = None
    return _judge(OWN_REFERENCE, agreed, missing, f"{matrix.backend}: ")


def correct(checks: Sequence[Check]) -> bool | None:
    """Whether all checks pass: False where one FAILs, None where it could not be decided."""
    verdicts = {check.verdict for check in checks}
    if Verdict.FAIL in verdicts:
        return False
    return True if verdicts == {Verdict.PASS} else None


def _judge(gates: Sequence[Gate], agreed: Agreement | None, missing: str, prefix: str = "") -> list[Check]:
    checks = []
    for gate, statistic in zip(gates, ("max_abs_diff", "mean_abs_diff"), strict=True):
        value = None
        if agreed is None:
            verdict, reason = Verdict.INCONCLUSIVE, missing
        elif agreed.max_abs_diff is None:
            verdict, reason = Verdict.FAIL, agreed.problem or "there is no score difference"
        else:
            value = getattr(agreed, statistic)
            evidence = Evidence(noise_floor=agreed.noise_floor, score_spread=agreed.score_spread)
            verdict, reason = judge_difference(gate, value, evidence)
        checks.append(
            Check(gate=gate.name, verdict=verdict.value, reason=prefix + reason, value=value, limit=gate.limit)
        )
    return checks


def _larger(a: float | None, b: float | None) -> float | None:
    """The larger noise floor; None where one was not measured."""
    return None if a is None or b is None else float(np.maximum(a, b))
