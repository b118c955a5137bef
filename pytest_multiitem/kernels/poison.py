"""Poison: what a row must not see is NaN, infinite or very large, and no bit of the row may change."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pytest_multiitem.kernels.abilities import Dtype
from pytest_multiitem.kernels.arrays import LARGE
from pytest_multiitem.kernels.equivalence import limits
from pytest_multiitem.kernels.finding import Finding, first_wrong, place
from pytest_multiitem.kernels.inputs import random_inputs
from pytest_multiitem.kernels.layout import Layout
from pytest_multiitem.kernels.reference import Attended, attended
from pytest_multiitem.kernels.shapes import Shape
from pytest_multiitem.kernels.subject import Subject


def large(subject: Subject, shape: Shape, dtype: Dtype) -> Finding | None:
    """With large finite numbers of either sign in everything that is hidden from an item."""
    size = LARGE[dtype]
    return _poisoned(subject, shape, dtype, {f"{size:.2g}": size, f"{-size:.2g}": -size})


def nonfinite(subject: Subject, shape: Shape, dtype: Dtype) -> Finding | None:
    """With NaN and infinity there."""
    return _poisoned(subject, shape, dtype, {"NaN": np.nan, "inf": np.inf, "-inf": -np.inf})


def _poisoned(subject: Subject, shape: Shape, dtype: Dtype, poisons: dict[str, float]) -> Finding | None:
    layout = shape.layout()
    q, k, v = random_inputs(shape, layout, dtype)
    clean = subject(q, k, v, layout, dtype)
    allowed: NDArray[np.float64] | None = None
    for name, poison in poisons.items():
        unused = shape.layout(unused=poison)
        for kept in _kept(layout):
            hidden = ~kept
            dirty = [np.where(hidden[:, None, None], np.float32(poison), each) for each in (q, k, v)]
            out = subject(dirty[0], dirty[1], dirty[2], unused, dtype)
            wrong = ~((out == clean) | (np.isnan(out) & np.isnan(clean))) & (kept & layout.judged)[:, None, None]
            if wrong.any():
                if allowed is None:
                    again = [subject(q, k, v, layout, dtype) for _ in range(2)]
                    allowed = _allowed(clean, again, attended(q, k, v, layout), shape, subject.rounds_to(dtype))
                with np.errstate(invalid="ignore"):
                    wrong &= ~(np.abs(out - clean) <= allowed)
            if wrong.any():
                row, head = first_wrong(wrong)
                was, now = clean[row, head], out[row, head]
                at = int(np.flatnonzero(wrong[row, head])[0])
                return Finding(
                    f"{place(layout, row)} (head {head}) changes from {was[at]:.6g} to {now[at]:.6g} where all that is "
                    f"hidden from it is {name}",
                    row,
                    head,
                )
    return None


def _allowed(
    clean: NDArray[np.float32], again: list[NDArray[np.float32]], right: Attended, shape: Shape, dtype: Dtype
) -> NDArray[np.float64]:
    """How far a result may move: not at all, where the kernel repeats itself.

    One that does not fails the check that is for it; here poison alone counts. ``again``: of the same call, twice, as
    every other call may be like the first.
    """
    if all(np.array_equal(clean, each, equal_nan=True) for each in again):
        return np.zeros(())
    return 2 * limits(right, shape.head_dim, dtype)


def _kept(layout: Layout) -> list[NDArray[np.bool_]]:
    """Rows that are left as they are: a sequence's visible prefix with one of its items. First, middle and last
    items."""
    found = []
    for start, each in zip(layout.starts[:-1], layout.sequences, strict=True):
        for item in sorted({0, each.num_items // 2, each.num_items - 1} & set(range(each.num_items))):
            kept = np.zeros(layout.rows, dtype=np.bool_)
            kept[start : start + each.visible_prefix_length] = True
            block = each.block(item)
            kept[start + block.start : start + block.stop - 1] = True
            found.append(kept)
    return found
