"""Faults of the packed layout: wrong positions, scores read at the wrong token. Both masks compute them natively."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from typing_extensions import override

from pytest_multiitem.faults.base import ScorerFault
from pytest_multiitem.scoring.layout import PREFIX, PackedLayout
from pytest_multiitem.scoring.steps import Ids


class LayoutFault(ScorerFault):
    """Packed sequences are laid out wrongly."""

    def alter(self, layout: PackedLayout) -> PackedLayout:
        """The wrong layout."""
        raise NotImplementedError

    @override
    def lay_out(self, query: Ids, items: Sequence[Ids], start: int) -> PackedLayout:
        return self.alter(self.inner.lay_out(query, items, start))


class PositionsNotReset(
    LayoutFault, name="positions_not_reset", number=3, strengths=(1.0, 1e-1, 1e-2), unit="of the tokens before"
):
    """Positions are not reset at delimiters: they grow through the sequence, by a share of the tokens before."""

    seen = "changed-length drift"

    def alter(self, layout: PackedLayout) -> PackedLayout:
        """Every item is shifted by its share of the tokens between the first item and itself."""
        shifts = (layout.block_start - layout.block_start[0]) * (self.strength or 1.0)
        by_item = np.append(np.floor(shifts), 0).astype(np.int32)  # the last entry is that of PREFIX
        return replace(layout, positions=layout.positions + by_item[layout.item])


class PositionWrap(LayoutFault, name="position_wrap", number=7, strengths=(7.0,), unit="bits"):
    """Item positions are kept in too few bits and wrap, with HTTP 200."""

    seen = "sglang #26629: 16 bits, over 65,535 tokens (position_wrap=16 here)"
    accepts = (lambda s: s in range(1, 31), "a whole number of bits from 1 to 30 (16 wrap at 65,536 tokens, 7 at 128)")

    def alter(self, layout: PackedLayout) -> PackedLayout:
        """Only the positions of items; the query's are kept in full."""
        wrapped = layout.positions & ((1 << int(self.strength or 16)) - 1)
        return replace(layout, positions=np.where(layout.item == PREFIX, layout.positions, wrapped).astype(np.int32))


class LengthWrap(
    ScorerFault, name="length_wrap", number=32, strengths=(7, 6, 8, 16), thresholds=True, beyond=(16,), unit="bits"
):
    """Item lengths are kept in too few bits and wrap, with HTTP 200: an item that is too long for them is taken for
    its first tokens, as many as the lower bits say."""

    seen = "sglang #26629, #28772: 16 bits, over 65,535 tokens (length_wrap=16 here)"
    accepts = (lambda s: s in range(1, 31), "a whole number of bits from 1 to 30 (16 wrap at 65,536 tokens, 7 at 128)")

    @override
    def lay_out(self, query: Ids, items: Sequence[Ids], start: int) -> PackedLayout:
        """A length of which no lower bit is set is that of an empty item."""
        return self.inner.lay_out(query, [item[: len(item) % (1 << self.count)] for item in items], start)


class ScoreAtDelimiter(LayoutFault, name="score_at_delimiter", number=5, seen="sglang #10979, review"):
    """The score is read one token late, at the delimiter that closes the item."""

    def alter(self, layout: PackedLayout) -> PackedLayout:
        """An empty item is read where it always is."""
        has_tokens = layout.score_index >= layout.block_start
        return replace(layout, score_index=layout.score_index + has_tokens)


class ScoreBeforeLast(LayoutFault, name="score_before_last", number=5, seen="sglang #10979, review"):
    """The score is read one token early, at the last but one token of the item."""

    def alter(self, layout: PackedLayout) -> PackedLayout:
        """An item of one token has none before."""
        earlier = np.maximum(layout.score_index - 1, layout.block_start)
        has_tokens = layout.score_index >= layout.block_start
        return replace(layout, score_index=np.where(has_tokens, earlier, layout.score_index))


class BatchFault(ScorerFault, scope=frozenset({"extend"})):
    """Batches of prefill+extend are laid out wrongly."""

    def alter(self, layout: PackedLayout, hit: bool) -> PackedLayout:
        """The wrong layout; ``hit``: the query was in the cache."""
        raise NotImplementedError

    @override
    def lay_out_batch(self, query: Ids, items: Sequence[Ids], hit: bool) -> PackedLayout:
        return self.alter(self.inner.lay_out_batch(query, items, hit), hit)


class IndicesAfterHit(BatchFault, name="indices_after_hit", number=8, seen="sglang #26618"):
    """After a prefix-cache hit the delimiter indices of the full sequence are used: scores are read too late."""

    def alter(self, layout: PackedLayout, hit: bool) -> PackedLayout:
        """Indices that were not lowered by the cached tokens point beyond the item: its end is read."""
        if not hit:
            return layout
        closing = np.append(layout.block_start[1:], layout.length) - 1
        has_tokens = layout.score_index >= layout.block_start
        late = np.minimum(layout.score_index + layout.query_length, closing)
        return replace(layout, score_index=np.where(has_tokens, late, layout.score_index))


class ExtendLate(BatchFault, name="extend_late", seen="an off-by-one between a cached prefix and the packed layout"):
    """Items extend a cached query one position late, in every run alike."""

    def alter(self, layout: PackedLayout, hit: bool) -> PackedLayout:
        """Items restart at Q + 1 as if a delimiter stood before them."""
        return replace(layout, positions=layout.positions + (layout.item != PREFIX))
