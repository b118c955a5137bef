"""Scores of two sides [N, K] → Agreement: how far they agree, as numbers and as a ranking."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pytest_multiitem.comparison.records import Agreement
from pytest_multiitem.gates.evidence import score_spread

_TOP_K = (1, 10, 100)
_NDCG_AT = 10
_WORST_ITEMS = 10

_Array = NDArray[np.float64]


def agreement(
    ours: ArrayLike,
    theirs: ArrayLike,
    *,
    noise_floor: float | None = None,
    labels: Sequence[int] | None = None,
    indices: Sequence[int] | None = None,
) -> Agreement:
    """The agreement of two sides' scores [N, K] on the same items, the first label's score ranking them.

    ``noise_floor``: carried along. ``labels``: K label token ids, where they are known. ``indices``: the items'
    numbers in the workload, for ``worst_items`` (default: 0 … N-1), in which ``a`` is ours and ``b`` theirs.

    ``problem`` says what is missing and why. Shapes that do not fit, or scores that are no finite numbers: then
    every number is null. Or log-odds that are infinite, because a score is exactly 0 or 1: those items are left out
    of ``…_log_odds_diff``, and counted.

    ``kendall_tau`` is tau-b; null where one side scores all items alike. ``top_k_overlap``: a side's top k are all
    items whose score is at least its k-th highest, so that items tied with the k-th are all in; the overlap is how
    many items are in both sets, over the size of the larger one. Equal rankings give 1, and a side that cannot tell
    its items apart gives k / N. ``ndcg_at_10`` is that of our order with their scores as gains (Järvelin and
    Kekäläinen, 2002), ``…_reverse`` that of their order with ours; items that tie in the order share their mean gain
    (McSherry and Najork, 2008), and there is none for gains that are negative or all 0.
    """
    problem = _shape_problem(ours, theirs, labels)
    if problem is not None:
        return Agreement(noise_floor=noise_floor, problem=problem)
    a, b = (np.asarray(scores, dtype=np.float64) for scores in (ours, theirs))
    differences = np.abs(a - b)
    ours_odds, theirs_odds = _log_odds(a), _log_odds(b)
    both = np.isfinite(ours_odds) & np.isfinite(theirs_odds)
    finite = np.abs(ours_odds[both] - theirs_odds[both])
    left_out = len(a) - len(finite)
    return Agreement(
        num_compared=differences.size,
        max_abs_diff=float(differences.max()),
        mean_abs_diff=float(differences.mean()),
        max_log_odds_diff=float(finite.max()) if finite.size else None,
        mean_log_odds_diff=float(finite.mean()) if finite.size else None,
        kendall_tau=_kendall_tau(a[:, 0], b[:, 0]),
        top_k_overlap={str(k): _top_k_overlap(a[:, 0], b[:, 0], k) for k in _TOP_K if k <= len(a)},
        ndcg_at_10=_ndcg(a[:, 0], b[:, 0]),
        ndcg_at_10_reverse=_ndcg(b[:, 0], a[:, 0]),
        noise_floor=noise_floor,
        score_spread=score_spread([b]),
        worst_items=_worst_items(a, b, differences.max(axis=1), indices),
        problem=f"{left_out} of {len(a)} items have no finite log-odds, and are left out of them" if left_out else None,
    )


def _shape_problem(ours: ArrayLike, theirs: ArrayLike, labels: Sequence[int] | None) -> str | None:
    arrays = []
    for scores in (ours, theirs):
        try:
            array = np.asarray(scores, dtype=np.float64)
        except (TypeError, ValueError):
            return "the rows of scores have different lengths, or hold something else than numbers"
        if array.ndim != 2 or 0 in array.shape:
            return f"scores of shape {list(array.shape)}; expected [items, labels]"
        arrays.append(array)
    a, b = arrays
    if a.shape != b.shape:
        return f"scores of shape {list(a.shape)} on one side and {list(b.shape)} on the other"
    if labels is not None and a.shape[1] != len(labels):
        return f"{a.shape[1]} scores an item; the workload has {len(labels)} labels"
    for side, array in (("one side", a), ("the other", b)):
        bad = int((~np.isfinite(array)).any(axis=1).sum())
        if bad:
            return f"the scores of {bad} of {len(array)} items are no finite numbers on {side}"
    return None


def _log_odds(scores: _Array) -> _Array:
    """Of the first label against the others [N]; of the only label against its complement."""
    first = scores[:, 0]
    # Summing the others keeps digits that 1 - p loses where p is nearly 1.
    others = scores[:, 1:].sum(axis=1) if scores.shape[1] > 1 else 1 - first
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(first) - np.log(others)


def _kendall_tau(a: _Array, b: _Array) -> float | None:
    from scipy.stats import kendalltau  # slow to import, and only a comparison of scores needs it

    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(kendalltau(a, b, variant="b").statistic)


def _top_k_overlap(a: _Array, b: _Array, k: int) -> float:
    tops = [scores >= np.sort(scores)[-k] for scores in (a, b)]
    return float((tops[0] & tops[1]).sum() / max(top.sum() for top in tops))


def _ndcg(order: _Array, gains: _Array) -> float | None:
    if (gains < 0).any():
        return None
    discounts = 1 / np.log2(np.arange(2, len(gains) + 2))
    discounts[_NDCG_AT:] = 0
    _, group, sizes = np.unique(-order, return_inverse=True, return_counts=True)
    in_order = np.repeat(np.bincount(group, gains) / sizes, sizes)
    ideal = float(np.sort(gains)[::-1] @ discounts)
    return min(1.0, float(in_order @ discounts) / ideal) if ideal > 0 else None


def _worst_items(a: _Array, b: _Array, worst: _Array, indices: Sequence[int] | None) -> list[dict[str, Any]]:
    """The items that differ most, the worst first; items without a difference are not among them."""
    order = [int(i) for i in np.argsort(-worst, kind="stable")[:_WORST_ITEMS] if worst[i] > 0]
    return [
        {
            "index": i if indices is None else indices[i],
            "max_abs_diff": float(worst[i]),
            "a": a[i].tolist(),
            "b": b[i].tolist(),
        }
        for i in order
    ]
