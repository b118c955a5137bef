"""Faults of the attention mask: what a token sees that it should not, or does not see that it should.

Both mask implementations are mutated alike: a faulty sequence is computed by the dense path under a biased mask, which
is as exact as the healthy one (`engine.plan`), so that what a gate sees is the fault and not its rounding. Whatever the
strength, a leaked key has that share of its attention weight: exp(logit) · strength.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from pytest_multiitem.faults.base import WHOLE, ScorerFault
from pytest_multiitem.scoring.config import MaskImpl
from pytest_multiitem.scoring.layout import PREFIX, PackedLayout, restarting_positions
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.scoring.steps import Ids, Reading, Scores

Weights = NDArray[np.float32]


class AttentionFault(ScorerFault):
    """Packed sequences are computed under other attention weights."""

    def weights(self, layout: PackedLayout, start: int) -> Weights:
        """Logarithms of weights [S, S] in the place of ``layout.log_weights()``.

        ``start``: the number in the request of the first item of the sequence.
        """
        raise NotImplementedError

    def alter(self, layout: PackedLayout) -> PackedLayout:
        """Whatever else than the mask is wrong."""
        return layout

    def concerns(self, layout: PackedLayout, start: int) -> bool:
        """Whether a sequence shows the fault; one that does not is computed as a healthy scorer computes it."""
        return True

    @override
    def lay_out(self, query: Ids, items: Sequence[Ids], start: int) -> PackedLayout:
        """One whose packed layouts are biased, and which computes them by the path that honours a bias."""
        healthy = self.inner.lay_out(query, items, start)
        if not self.concerns(healthy, start):
            return healthy
        layout = self.alter(healthy)
        return replace(layout, bias=lambda: self.weights(layout, start))

    @override
    def compute(self, layout: PackedLayout, implementation: MaskImpl, read: Reading) -> Scores:
        return self.inner.compute(layout, implementation if layout.bias is None else MaskImpl.DENSE, read)


class LeakFault(AttentionFault):
    """Items see tokens of others. ``graded``: the strength is the share of the attention weight that those keep."""

    graded: ClassVar[bool] = True

    def leaks(self, layout: PackedLayout) -> NDArray[np.bool_]:
        """Which keys of other items a token sees [S, S], of those that stand before it."""
        raise NotImplementedError

    def weights(self, layout: PackedLayout, start: int) -> Weights:
        """The healthy weights, and those of the leaked keys."""
        healthy = layout.log_weights()
        leaked = np.tril(self.leaks(layout))
        share = self.strength if self.graded and self.strength is not None else 1.0
        return np.where(leaked & np.isneginf(healthy), np.float32(np.log(share)), healthy)


class Causal(
    LeakFault, name="causal", number=1, seen="sglang with an attention backend other than FlashInfer; flashinfer #3434"
):
    """Isolation is ignored: plain causal attention over the whole packed sequence, answered with HTTP 200."""

    def alter(self, layout: PackedLayout) -> PackedLayout:
        """Positions count through the sequence, as an engine that knows of no items has them."""
        return replace(layout, positions=np.arange(layout.length, dtype=np.int32))

    def leaks(self, layout: PackedLayout) -> NDArray[np.bool_]:
        """Everything before."""
        return np.ones((layout.length, layout.length), dtype=np.bool_)


class CausalRestarting(
    Causal, name="causal_restarting", number=1, seen="sgl-jax on a CPU, where fa falls back to native"
):
    """Isolation is ignored, though positions restart: causal attention over the whole packed sequence."""

    def alter(self, layout: PackedLayout) -> PackedLayout:
        """Positions as of an engine that knows of items, and whose attention does not."""
        return replace(layout, positions=restarting_positions(layout))


class SizeLimit(
    CausalRestarting,
    name="size_limit",
    number=26,
    strengths=(1024, 128, 512, 2048),
    accepts=WHOLE,
    graded=False,
    thresholds=True,
    circumstances={"effort": "normal"},
):
    """Isolation holds up to a number of packed tokens: a longer sequence is computed under plain causal attention."""

    seen = "flashinfer #5095, #5075; vllm #5952"
    unit = "packed tokens that are right"

    def concerns(self, layout: PackedLayout, start: int) -> bool:
        """One beyond the limit, as a whole."""
        return layout.length > self.count


class ItemLeakLimit(
    AttentionFault, name="item_leak_limit", number=27, strengths=(40, 32), accepts=WHOLE, thresholds=True
):
    """Isolation holds for a number of items: each one beyond them sees the item before it."""

    seen = "vllm #39631"
    unit = "items that are right"

    def concerns(self, layout: PackedLayout, start: int) -> bool:
        """A sequence with one of the later items of the request."""
        return start + layout.num_items > self.count

    def weights(self, layout: PackedLayout, start: int) -> Weights:
        """The item before is seen in full."""
        item = layout.item[:, None]
        open_ = (item > 0) & (item + start >= self.count) & (layout.item[None, :] == item - 1)
        return np.where(open_, np.float32(0), layout.log_weights())


class LeakNext(
    LeakFault, name="leak_next", number=2, strengths=(1.0, 1e-2, 1e-4, 1e-6), unit="of the attention weight"
):
    """One item leaks into the next one only: its tokens keep a share of their attention weight there."""

    seen = "an off-by-one segment boundary"

    def leaks(self, layout: PackedLayout) -> NDArray[np.bool_]:
        """The item before."""
        item = layout.item[:, None]
        return (layout.item[None, :] == item - 1) & (item > 0)


class NeighbourLeak(LeakFault):
    """Some items see the item before them: which ones is a matter of both lengths."""

    def opens(self, before: NDArray[np.int64], length: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether an item of ``length`` tokens [N - 1] sees the one of ``before`` tokens [N - 1] in front of it."""
        raise NotImplementedError

    def leaks(self, layout: PackedLayout) -> NDArray[np.bool_]:
        """The item before, where it is open."""
        lengths = np.diff(np.append(layout.block_start, layout.length)) - 1
        open_ = np.zeros(layout.num_items + 1, dtype=np.bool_)  # one more, for PREFIX as the last entry
        open_[1:-1] = self.opens(lengths[:-1], lengths[1:])
        return open_[layout.item][:, None] & (layout.item[None, :] == layout.item[:, None] - 1)


class LeakBoundary(NeighbourLeak, name="leak_boundary", seen="planted: what the property-based search is for"):
    """An item of more than 17 tokens sees the item before it where that one has a single token: an off-by-one that
    no fixed request need show."""

    LONGER_THAN = 17

    def opens(self, before: NDArray[np.int64], length: NDArray[np.int64]) -> NDArray[np.bool_]:
        """A single token, before more than 17."""
        return (before == 1) & (length > self.LONGER_THAN)


class LeakLength(NeighbourLeak, name="leak_length"):
    """An item of exactly 18 tokens is seen by the item after it."""

    seen = "planted: one length that none of the fixed requests has, nor their mutations"

    LENGTH = 18

    def opens(self, before: NDArray[np.int64], length: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whatever comes after it."""
        return before == self.LENGTH


class OtherSemantics(AttentionFault):
    """Packed sequences are computed under another mask than the declared one."""

    semantics: Semantics

    def weights(self, layout: PackedLayout, start: int) -> Weights:
        """Those of the other semantics."""
        return replace(layout, semantics=self.semantics, bias=None).log_weights()


class QueryOnlyPrefix(OtherSemantics, name="query_only_prefix", number=4, semantics=Semantics.QUERY_ONLY_PREFIX):
    """The mask hides the first delimiter: positions as declared, context `query` instead of `query + d`."""

    seen = "ablation: isolation 0, equivalence 0.4579"


class AllDelimsPrefix(OtherSemantics, name="all_delims_prefix", number=4, semantics=Semantics.ALL_DELIMS_PREFIX):
    """The mask lets items see every earlier delimiter, and through them the items before."""

    seen = "ablation: equivalence 0.0833"


class OwnWindow(AttentionFault, name="own_window", number=38, strengths=(16, 32), accepts=WHOLE, thresholds=True):
    """An item sees only its own last tokens, beside its context: a window that is meant for the whole sequence."""

    seen = "planted into sglang"
    unit = "own tokens that are seen"

    def weights(self, layout: PackedLayout, start: int) -> Weights:
        """Own keys from the window's length on are hidden; the token itself is the first of it."""
        index = np.arange(layout.length)
        own = (layout.item[:, None] == layout.item[None, :]) & (layout.item != PREFIX)[:, None]
        far = index[:, None] - index[None, :] >= self.count
        return np.where(own & far, np.float32(-np.inf), layout.log_weights())


class OwnDelimiterVisible(AttentionFault, name="own_delimiter_visible", number=38, seen="planted into sglang"):
    """The tokens of an item see the delimiter that leads it, whichever delimiters the semantics lets them see."""

    def weights(self, layout: PackedLayout, start: int) -> Weights:
        """Under `query_prefix` that is wrong for every item; where the first delimiter is visible, for all but the
        first one: what leads those has seen the item before."""
        index = np.arange(layout.length)
        leading = np.where(layout.item == PREFIX, -1, layout.block_start[layout.item] - 1)
        return np.where(index[None, :] == leading[:, None], np.float32(0), layout.log_weights())


class LastQueryTokenHidden(AttentionFault, name="last_query_token_hidden", number=38, seen="planted into sglang"):
    """Items do not see the last token of the query: an off-by-one prefix length."""

    def weights(self, layout: PackedLayout, start: int) -> Weights:
        """One key is hidden from every token behind the first delimiter."""
        key = np.arange(layout.length) == layout.query_length - 1
        hidden = (layout.item != PREFIX)[:, None] & key[None, :]
        return np.where(hidden, np.float32(-np.inf), layout.log_weights())


class ChunkWithoutQuery(AttentionFault, name="chunk_without_query", number=16, circumstances={"server_chunk_size": 8}):
    """The first item of every further chunk is scored without the query: it sees the delimiter and itself."""

    seen = "follows from chunking; a boundary of one prefill reused for the next"

    def weights(self, layout: PackedLayout, start: int) -> Weights:
        """The query's tokens are hidden from item 0 of a chunk that is not the first."""
        healthy = layout.log_weights()
        if start == 0:
            return healthy
        of_query = (layout.item == PREFIX) & ~layout.is_delimiter
        hidden = (layout.item == 0)[:, None] & of_query[None, :]
        return np.where(hidden, np.float32(-np.inf), healthy)
