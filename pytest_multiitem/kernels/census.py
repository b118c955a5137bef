"""A count of the keys that each row sees: one call for all keys, so that it can be taken at any length."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pytest_multiitem.kernels.abilities import Dtype
from pytest_multiitem.kernels.arrays import UNIT_ROUNDOFF
from pytest_multiitem.kernels.finding import Finding, place
from pytest_multiitem.kernels.layout import Layout
from pytest_multiitem.kernels.shapes import Shape
from pytest_multiitem.kernels.subject import Subject

#: Roundings between a count and what is read of it: of the weights, of a partial result, of the result.
_ROUNDINGS = 3
#: Two dealings of keys to classes, each by a seed, and how far below 0 all scores are. A fault whose lost and foreign
#: keys agree in every class of one differs in another. exp(-128) is 0 in float32: a kernel whose running maximum begins
#: at 0 has no weight left.
_SEEDS = {1: 0.0, 2: 128.0}
#: Classes counted in calls of their own where the type is too coarse to count them in one; more are left out.
_CALLS = 4


def census(subject: Subject, shape: Shape, dtype: Dtype) -> Finding | None:
    """Whether every row sees as many keys of each class as it must.

    All scores are equal, so every weight of a row of n keys is 1/n. Each key belongs to one of D classes by chance,
    and its value is 1 in the place of its class, times a power of two that tells key-value heads apart. The result
    times n is a count: whole numbers, so one key too many or too few is off by 1.
    """
    layout = shape.layout()
    first, prefix_end, own_start = layout.bounds
    rows, kv_heads, dim = layout.rows, shape.kv_heads, shape.head_dim
    at = np.arange(rows)
    total = ((prefix_end - first) + (at - own_start + 1))[:, None]
    scale = (2.0 ** (np.arange(kv_heads) % 4)).astype(np.float32)
    # Half a key must be seen of the largest count, through the type's roundings.
    roundoff = UNIT_ROUNDOFF[subject.rounds_to(dtype)]
    most = 0.25 / (_ROUNDINGS * roundoff)
    classes = max(dim, int(np.ceil(2 * total.max() / most)))
    for seed, least in _SEEDS.items():
        query, key, score = _equal(least, dim)
        q = np.full((rows, shape.heads, dim), query, dtype=np.float32)
        k = np.full((rows, kv_heads, dim), -key, dtype=np.float32)
        dealt = np.random.default_rng(seed).integers(0, classes, rows)
        for begin in range(0, min(classes, _CALLS * dim), dim):
            inside = (dealt >= begin) & (dealt < begin + dim)
            one_hot = np.zeros((rows, dim), dtype=np.float32)
            one_hot[at[inside], dealt[inside] - begin] = 1
            v = one_hot[:, None, :] * scale[None, :, None]
            out = subject(q, k, v, layout, dtype)
            due = _counted(one_hot, first, prefix_end, own_start)
            # Sums of ones in float32 have no error up to 2^24; what is left is the type's rounding, and a division.
            allowed = 0.25 + _ROUNDINGS * roundoff * due
            for head in range(shape.heads):  # one at a time: all of them in float64 are twice what the kernel has
                found = out[:, head].astype(np.float64) * total / scale[head // shape.group]
                wrong = ~(np.abs(found - due) <= allowed) & layout.judged[:, None]
                if wrong.any():
                    return _finding(layout, wrong, found, due, total, head, score)
    return None


def _equal(least: float, dim: int) -> tuple[float, float, float]:
    """The number of all queries, that of all keys without its sign, and the score: 0, or from ``-least`` to twice it.

    Powers of two, so that every sum of products is exact.
    """
    if not least:
        return 0.0, 0.0, 0.0
    power = int(np.ceil(np.log2(least / dim**0.5)))
    return 2.0 ** (power - power // 2), 2.0 ** (power // 2), -(2.0**power) * dim**0.5


def _finding(
    layout: Layout,
    wrong: NDArray[np.bool_],
    found: NDArray[np.float64],
    due: NDArray[np.float64],
    total: NDArray[np.int64],
    head: int,
    score: float,
) -> Finding:
    row, at = map(int, np.argwhere(wrong)[0])
    where = f", where every score is {score:.0f}" if score else ""
    return Finding(
        f"{place(layout, row)} (row {row:,}, head {head}) sees {found[row, at]:.4g} keys of a class of which it must "
        f"see {due[row, at]:.0f}, among {int(total[row, 0]):,} in all{where}; "
        f"{int(wrong.any(axis=1).sum()):,} of {layout.rows:,} rows are wrong",
        row,
        head,
    )


def _counted(
    one_hot: NDArray[np.float32],
    first: NDArray[np.int64],
    prefix_end: NDArray[np.int64],
    own_start: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Keys of each class [rows, D] that a row must see, from running sums."""
    sums = np.concatenate([np.zeros((1, one_hot.shape[1])), np.cumsum(one_hot, axis=0, dtype=np.float64)])
    at = np.arange(len(one_hot))
    counted: NDArray[np.float64] = sums[prefix_end] - sums[first] + sums[at + 1] - sums[own_start]
    return counted
