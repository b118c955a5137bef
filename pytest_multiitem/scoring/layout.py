"""The layout of a packed sequence, stated once.

``query d item_1 d item_2 d … item_N d`` as arrays: which token stands where, which position it
carries, which block it belongs to, which keys it may see, and where each item's score is read.
Engines, gates and drawings all take it from here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytest_multiitem.scoring.semantics import Semantics

#: ``PackedLayout.item`` of the query and of the first delimiter.
PREFIX = -1

#: The logarithms of the factors of all attention weights [S, S]: 0 where a key is seen, -inf where it is hidden.
LogWeights = Callable[[], NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class PackedLayout:
    """One packed sequence of S tokens holding N items behind a query of Q tokens.

    ``token_ids``, ``positions``, ``item``, ``is_delimiter``: arrays of shape [S]. ``item`` is the
    0-based index of the block a token belongs to, :data:`PREFIX` for the query and the first
    delimiter; the delimiter that closes item i belongs to block i. ``score_index`` [R]: the index
    whose logits give a readout. ``readout_item`` [R]: the item that each is of; None: one an item, in their order.
    ``bias``: stands in for the mask rule of the semantics; None in every healthy layout.
    """

    semantics: Semantics
    query_length: int
    token_ids: NDArray[np.int64]
    positions: NDArray[np.int32]
    item: NDArray[np.int32]
    is_delimiter: NDArray[np.bool_]
    score_index: NDArray[np.int64]
    block_start: NDArray[np.int64]
    bias: LogWeights | None = None
    readout_item: NDArray[np.int32] | None = None

    @property
    def length(self) -> int:
        """S, in tokens."""
        return len(self.token_ids)

    @property
    def num_items(self) -> int:
        """N."""
        return len(self.block_start)

    @property
    def num_readouts(self) -> int:
        """R."""
        return len(self.score_index)

    @property
    def prefix(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Tokens and positions [Q + 1] of the query and the first delimiter."""
        at = slice(self.prefix_length)
        return self.token_ids[at].astype(np.int32), self.positions[at]

    @property
    def prefix_length(self) -> int:
        """Tokens before item 1: the query and the first delimiter."""
        return self.query_length + 1

    @property
    def visible_prefix_length(self) -> int:
        """How many leading tokens every item sees (Q, or Q + 1 where the first delimiter is visible)."""
        return self.query_length + int(self.semantics.sees_first_delimiter)

    def block(self, item: int) -> slice:
        """The indices of block ``item``: the item's tokens and the delimiter that closes it."""
        end = self.block_start[item + 1] if item + 1 < self.num_items else self.length
        return slice(int(self.block_start[item]), int(end))

    def mask(self) -> NDArray[np.bool_]:
        """The dense mask [S, S]: entry (q, k) says whether token q attends to token k. O(S²) memory."""
        index = np.arange(self.length)
        return self.visible(index, index)

    def visible(self, rows: NDArray[np.integer], keys: NDArray[np.integer]) -> NDArray[np.bool_]:
        """A part [R, C] of the dense mask, from the indices of its rows and of its keys."""
        allowed: NDArray[np.bool_] = visible(
            self.semantics,
            query_index=rows[:, None],
            query_item=self.item[rows][:, None],
            key_index=keys[None, :],
            key_item=self.item[keys][None, :],
            key_is_delimiter=self.is_delimiter[keys][None, :],
        )
        return allowed

    def log_weights(self) -> NDArray[np.float32]:
        """The dense mask [S, S] as logarithms of weights: ``bias`` where there is one, else 0 or -inf by the mask."""
        if self.bias is not None:
            return self.bias()
        return np.where(self.mask(), np.float32(0), np.float32(-np.inf))


def packed_length(query_length: int, item_lengths: Sequence[int]) -> int:
    """S = Q + 1 + Σ(L_i + 1), in tokens, without building the layout."""
    return query_length + 1 + sum(item_lengths) + len(item_lengths)


def build_layout(
    query: Sequence[int], items: Sequence[Sequence[int]], delimiter: int, semantics: Semantics
) -> PackedLayout:
    """Lay out ``query d item_1 d … item_N d``.

    Positions: the query counts 0…Q-1. Where the first delimiter is part of an item's context (`prefix_first_delim` and
    the ablations) it stands at Q, items restart at Q+1 and a closing delimiter continues its item. Under `query_prefix`
    items restart at Q and every delimiter takes Q-1 (as sglang 0.5.23 does).

    An empty item has no token of its own. The token before its closing delimiter belongs to its
    left neighbour, so reading the score there would leak; it scores the last token of the context
    that every item sees: the first delimiter, or the query's last token under `query_prefix`.
    """
    q = len(query)
    if q == 0:
        raise ValueError("the query is empty; a packed sequence needs at least one query token")
    lengths = np.array([len(item) for item in items], dtype=np.int64)
    total = packed_length(q, lengths.tolist())
    ends = q + 1 + np.cumsum(lengths + 1)  # one past each closing delimiter
    starts = ends - lengths - 1
    resets_after_delimiter = semantics is not Semantics.QUERY_PREFIX

    token_ids = np.full(total, delimiter, dtype=np.int64)
    token_ids[:q] = query
    positions = np.empty(total, dtype=np.int32)
    positions[: q + 1] = np.arange(q + 1)
    item = np.full(total, PREFIX, dtype=np.int32)
    is_delimiter = np.zeros(total, dtype=np.bool_)
    is_delimiter[q] = True
    is_delimiter[ends - 1] = True
    first = q + 1 if resets_after_delimiter else q
    for i, content in enumerate(items):
        start, end = int(starts[i]), int(ends[i])
        token_ids[start : end - 1] = content
        positions[start:end] = first + np.arange(end - start)
        item[start:end] = i
    if not resets_after_delimiter:
        positions[is_delimiter] = q - 1
    score_index = np.where(lengths > 0, ends - 2, first - 1)
    return PackedLayout(semantics, q, token_ids, positions, item, is_delimiter, score_index.astype(np.int64), starts)


def read_at(layout: PackedLayout, token: int) -> PackedLayout:
    """The layout with a readout at each occurrence of a token in an item, in their order, and nowhere else.

    The delimiters that close items are none of them, whatever their id.
    """
    found = np.flatnonzero((layout.token_ids == token) & (layout.item != PREFIX) & ~layout.is_delimiter)
    return replace(layout, score_index=found.astype(np.int64), readout_item=layout.item[found])


def restarting_positions(layout: PackedLayout) -> NDArray[np.int32]:
    """Positions [S] that restart at each delimiter: every one stands where the first does, and items as ever.

    Under a mask that is the layout's own; it differs in delimiters that no item sees. sgl-jax counts like this.
    """
    return np.where(layout.is_delimiter, layout.positions[layout.query_length], layout.positions)


def visible(
    semantics: Semantics, *, query_index: Any, query_item: Any, key_index: Any, key_item: Any, key_is_delimiter: Any
) -> Any:
    """Whether a token attends to a key: the mask rule of every semantics, on broadcastable arrays.

    The arguments are the tokens' indices in the packed sequence, their blocks
    (``PackedLayout.item``) and whether the key is a delimiter. Works on NumPy, torch and jax arrays.
    """
    context = key_item == PREFIX
    if not semantics.sees_first_delimiter:
        context = context & ~key_is_delimiter
    allowed = context | (key_item == query_item)
    if semantics is Semantics.ALL_DELIMS_PREFIX:
        allowed = allowed | key_is_delimiter
    return allowed & (key_index <= query_index)
