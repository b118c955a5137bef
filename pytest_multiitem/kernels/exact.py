"""Exact arithmetic: inputs whose right answer has no rounding, so that a wrong row is off by a whole step.

Keys are codes of signs, times a power of two. A query is the code of one key, so that key's score is so far above all
others that their weights are 0 even in float32, and the result is that key's value, bit by bit. Where the key is
hidden, the sequence's first key comes next, which every row sees. Values are powers of two.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pytest_multiitem.kernels.abilities import Dtype
from pytest_multiitem.kernels.finding import Finding, first_wrong, place
from pytest_multiitem.kernels.layout import Layout
from pytest_multiitem.kernels.masks import recovered
from pytest_multiitem.kernels.shapes import Shape
from pytest_multiitem.kernels.subject import Subject

#: exp(-112) is below half of the smallest float32 there is, 2^-149: the weight is exactly 0.
_STEP = 112.0
#: Up to here each pair of a row and a key is looked at; beyond it the keys about every border.
_EVERY_PAIR = 320


def exact(subject: Subject, shape: Shape, dtype: Dtype) -> Finding | None:
    """Whether every row sees the keys that it must see, and gives no weight at all to any other."""
    layout = shape.layout()
    return _selects(subject, shape, layout, dtype) or (
        _pairs(subject, shape, layout, dtype) if layout.rows <= _EVERY_PAIR else None
    )


def _pairs(subject: Subject, shape: Shape, layout: Layout, dtype: Dtype) -> Finding | None:
    found = recovered(subject, shape, layout, dtype)
    wrong = (found != layout.mask()[:, None, :]) & layout.judged[:, None, None]
    if not wrong.any():
        return None
    row, head = first_wrong(wrong)
    key = int(np.flatnonzero(wrong[row, head])[0])
    what = "sees" if found[row, head, key] else "does not see"
    return Finding(f"{place(layout, row)} {what} {place(layout, key)} (head {head})", row, head)


def _selects(subject: Subject, shape: Shape, layout: Layout, dtype: Dtype) -> Finding | None:
    code = _Code(shape, layout.rows)
    random = np.random.default_rng(layout.rows)
    targets = _targets(layout, random)
    v = _values(random, (layout.rows, shape.kv_heads, shape.head_dim))
    k = code.keys(layout)
    for turn in range(0, len(targets), shape.heads):
        # Each head asks for another kind of key. The last ones begin again, so that no head is idle.
        kinds = [targets[(turn + head) % len(targets)] for head in range(shape.heads)]
        wanted = np.stack(kinds, axis=1)
        q = code.queries(wanted)
        out = subject(q, k, v, layout, dtype)
        rows = np.arange(layout.rows)[:, None]
        seen = layout.visible(rows, wanted)
        right = np.where(seen, wanted, layout.bounds.first[:, None])
        due = v[right, np.arange(shape.heads) // shape.group]
        wrong = (out != due) & layout.judged[:, None, None]
        if wrong.any():
            row, head = first_wrong(wrong)
            said = _said(layout, row, head, int(wanted[row, head]), bool(seen[row, head]))
            return Finding(f"{said}: it gets NaN" if np.isnan(out[row, head]).any() else said, row, head)
    return None


def _said(layout: Layout, row: int, head: int, key: int, seen: bool) -> str:
    asked = f"{place(layout, row)} (head {head}) looks for the key of {place(layout, key)}"
    return f"{asked}, which it {'sees, and does not get its value alone' if seen else 'must not see, and is moved'}"


def _values(random: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Powers of two of either sign: any two keys differ by a factor of 2 or more in most of their numbers."""
    signs = np.where(random.random(shape) < 0.5, -1.0, 1.0)
    values: NDArray[np.float32] = (signs * 2.0 ** random.integers(-2, 3, shape)).astype(np.float32)
    return values


def _targets(layout: Layout, random: np.random.Generator) -> list[NDArray[np.int64]]:
    """Keys that rows ask for, one a row: those about the borders of what it sees, and some anywhere."""
    rows = np.arange(layout.rows)
    first, prefix_end, own_start = layout.bounds
    next_start = np.searchsorted(own_start, own_start, side="right")
    anywhere = [random.integers(0, layout.rows, layout.rows) for _ in range(2)]
    wanted = [
        rows,
        rows + 1,
        own_start,
        own_start - 1,
        own_start - 2,
        prefix_end - 1,
        prefix_end,
        rows - 1,
        next_start - 1,
        next_start,
        first - 1,
        layout.starts[layout.sequence_ids + 1] - 1,
        layout.starts[layout.sequence_ids + 1],
        first + random.integers(0, np.maximum(prefix_end - first, 1)),
        own_start + random.integers(0, rows - own_start + 1),
        *anywhere,
    ]
    return [np.clip(each, 0, layout.rows - 1) for each in wanted]


class _Code:
    """Keys as signs: ``bits`` of its number, each ``times`` in a row, so that two keys differ in ``times`` places or
    more.

    The last of the D places is the sequence's first key's own: every query has the same number there.
    """

    def __init__(self, shape: Shape, rows: int) -> None:
        self._shape = shape
        self._rows = rows
        self._bits = max(2, int(max(rows, shape.kv_heads) - 1).bit_length())
        if self._bits >= shape.head_dim:
            raise ValueError(f"{rows:,} rows cannot be told apart by {shape.head_dim} numbers")
        self._times = (shape.head_dim - 1) // self._bits
        # A score is a · b · D^-½ times the sum of products of signs; another key's is lower by 2 · times of these, and
        # the first key's stands in the middle.
        least = _STEP * shape.head_dim**0.5 / self._times
        power = int(np.ceil(np.log2(least)))
        self._query, self._key = 2.0 ** (power - power // 2), 2.0 ** (power // 2)

    def _signs(self, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        bits = (numbers[..., None] >> np.arange(self._bits)) & 1
        found = np.zeros((*numbers.shape, self._shape.head_dim), dtype=np.float32)
        found[..., : self._bits * self._times] = np.repeat(2.0 * bits - 1.0, self._times, axis=-1)
        return found

    def _numbers(self, rows: NDArray[np.int64], kv_heads: NDArray[np.int64]) -> NDArray[np.int64]:
        """The number of a key under a key-value head: each head has others, so that heads cannot be confused."""
        return rows ^ kv_heads

    def keys(self, layout: Layout) -> NDArray[np.float32]:
        """k [rows, kv_heads, D]."""
        heads = np.arange(self._shape.kv_heads)
        k = self._key * self._signs(self._numbers(np.arange(self._rows)[:, None], heads[None, :]))
        firsts = layout.starts[:-1]
        k[firsts] = 0
        k[firsts, :, -1] = self._key * (self._bits - 1) * self._times
        return k.astype(np.float32)

    def queries(self, wanted: NDArray[np.int64]) -> NDArray[np.float32]:
        """q [rows, heads, D] that ask for the keys ``wanted`` [rows, heads]."""
        kv_head = np.arange(self._shape.heads) // self._shape.group
        q = self._query * self._signs(self._numbers(wanted, kv_head[None, :]))
        q[..., -1] = self._query
        return q.astype(np.float32)
