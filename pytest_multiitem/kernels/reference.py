"""The right answer in float64, and how far from it the rounding of a type may lead."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pytest_multiitem.kernels.layout import Layout

_Array = NDArray[np.float64]


class Attended(NamedTuple):
    """The right answer ``out`` [rows, heads, D], and what bounds its rounding errors.

    ``magnitude`` [rows, heads, D]: the same sum over the values' absolute values. ``products`` [rows, heads, 1]: of the
    keys that a row sees, the largest sum of the absolute products of a score, scaled as scores are. ``keys``
    [rows, 1, 1]: how many it sees. Rows that do not count are 0.
    """

    out: _Array
    magnitude: _Array
    products: _Array
    keys: _Array


def attended(q: NDArray[Any], k: NDArray[Any], v: NDArray[Any], layout: Layout) -> Attended:
    """Attention with float64 throughout, in memory of one item against what it sees."""
    rows, heads, dim = q.shape
    kv_heads = k.shape[1]
    q64 = q.astype(np.float64).reshape(rows, kv_heads, heads // kv_heads, dim).transpose(1, 2, 0, 3)
    k64, v64 = (each.astype(np.float64).transpose(1, 0, 2) for each in (k, v))
    out, magnitude = np.zeros_like(q64), np.zeros_like(q64)
    products = np.zeros((*q64.shape[:3], 1))
    keys = np.zeros((rows, 1, 1))
    for mine, seen in _blocks(layout):
        visible = layout.visible(mine[:, None], seen[None, :])
        keys[mine, 0, 0] = visible.sum(axis=1)
        group = q64.shape[1]
        mine_q = q64[:, :, mine].reshape(kv_heads, group * len(mine), dim)
        mask = np.tile(visible, (group, 1))
        scores = mine_q @ k64[:, seen].transpose(0, 2, 1) * dim**-0.5
        scores[:, ~mask] = -np.inf
        weights = np.exp(scores - scores.max(axis=2, keepdims=True))
        weights /= weights.sum(axis=2, keepdims=True)
        sizes = np.abs(mine_q) @ np.abs(k64[:, seen]).transpose(0, 2, 1) * dim**-0.5
        sizes[:, ~mask] = 0
        shape = (kv_heads, group, len(mine), -1)
        out[:, :, mine] = (weights @ v64[:, seen]).reshape(shape)
        magnitude[:, :, mine] = (weights @ np.abs(v64[:, seen])).reshape(shape)
        products[:, :, mine] = sizes.max(axis=2, keepdims=True).reshape(shape)
    flat = [each.transpose(2, 0, 1, 3).reshape(rows, heads, -1) for each in (out, magnitude, products)]
    return Attended(flat[0], flat[1], flat[2], keys)


def _blocks(layout: Layout) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Rows that count, and the keys that one of them sees: a sequence's prefix, then each of its items."""
    for start, each in zip(layout.starts[:-1], layout.sequences, strict=True):
        prefix = np.arange(start, start + each.visible_prefix_length)
        yield prefix, prefix
        for item in range(each.num_items):
            block = each.block(item)
            own = np.arange(start + block.start, start + block.stop - 1)
            if len(own):
                yield own, np.concatenate([prefix, own])
