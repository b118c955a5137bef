"""Faults between a request and its packed sequences: items lost, split or empty, state kept, another path taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from typing_extensions import override

from pytest_multiitem.faults.base import WHOLE, ScoreRequest, ScorerFault
from pytest_multiitem.scoring.config import MaskImpl, ScorerConfig
from pytest_multiitem.scoring.layout import PackedLayout
from pytest_multiitem.scoring.steps import Ids, Reading, ScoreResult, Scores


class FirstDelimiterScored(
    ScorerFault, name="first_delimiter_scored", number=6, seen="follows from reading scores at delimiters"
):
    """The first delimiter is scored as item 1, every item as the one after it, and the last item is dropped."""

    @override
    def pack(self, query: Ids, items: Sequence[Ids], read: Reading) -> ScoreResult:
        """An empty item scores the state at the first delimiter."""
        return self.inner.pack(query, [[], *items[:-1]], read)


class StateLeaks(
    ScorerFault, name="state_leaks", number=9, seen="sglang #31969", strengths=(0.5, 1e-3, 1e-6), unit="of the score"
):
    """Recurrent state leaks from one item into all that follow: a share of a score is that of the item before."""

    @override
    def compute(self, layout: PackedLayout, implementation: MaskImpl, read: Reading) -> Scores:
        """A running mean over the items."""
        share = self.strength or 0.0
        scores = self.inner.compute(layout, implementation, read)
        for i in range(1, len(scores)):
            scores[i] += share * (scores[i - 1] - scores[i])
        return scores


class RequestsLeak(
    ScorerFault, name="requests_leak", number=9, seen="sglang #31969", strengths=(0.5, 1e-1, 1e-2), unit="of the score"
):
    """State leaks from one request into the next: a share of every score is that of the last item before."""

    @override
    def begin(self) -> None:
        self._last: Scores | None = None

    @override
    def respond(self, request: ScoreRequest) -> ScoreResult:
        """The last row of a request is kept for the next one of as many labels."""
        share = self.strength or 0.0
        result = self.ask(request)
        healthy, last = result.scores, self._last
        self._last = healthy[-1]
        if last is None or len(last) != healthy.shape[1]:
            return result
        return replace(result, scores=healthy + share * (last - healthy))


class StaleShapes(ScorerFault, name="stale_shapes", number=9, seen="follows from caches whose key leaves content out"):
    """Scores are cached by the query and the items' lengths: a request with other items of the same lengths gets
    old scores."""

    @override
    def begin(self) -> None:
        self._known: dict[object, ScoreResult] = {}

    @override
    def respond(self, request: ScoreRequest) -> ScoreResult:
        """The first answer of a shape is the last."""
        lengths = tuple(map(len, request.items))
        key = (tuple(request.query), lengths, tuple(request.labels), request.apply_softmax, request.item_first)
        if key not in self._known:
            self._known[key] = self.ask(request)
        return self._known[key]


class ItemLimit(ScorerFault, name="item_limit", number=27, strengths=(32, 8, 64, 100), accepts=WHOLE, thresholds=True):
    """A number of items have rows of their own; those beyond get the rows of the first ones again."""

    seen = "vllm #39631"
    unit = "items that are right"

    @override
    def pack(self, query: Ids, items: Sequence[Ids], read: Reading) -> ScoreResult:
        """Row i is that of item i modulo the limit."""
        result = self.inner.pack(query, items, read)
        return replace(result, scores=result.scores[np.arange(len(items)) % self.count])


class SameBlock(ScorerFault, name="same_block", number=28, strengths=(16, 1, 32, 128), accepts=WHOLE, thresholds=True):
    """An item is known by its first tokens, as a block of a cache is by its hash: one that begins as an earlier item
    of the request does is taken for it, and gets its score."""

    seen = "openvino.genai #3722, vllm #42019"
    unit = "tokens of the beginning"

    @override
    def pack(self, query: Ids, items: Sequence[Ids], read: Reading) -> ScoreResult:
        """An item that is shorter than the block is known as a whole."""
        result = self.inner.pack(query, items, read)
        first: dict[tuple[int, ...], int] = {}
        rows = [
            first.setdefault(tuple(item[: self.count]), i) if len(item) >= self.count else i
            for i, item in enumerate(items)
        ]
        return replace(result, scores=result.scores[rows])


class DelimiterZeroUnset(
    ScorerFault, name="delimiter_zero_unset", number=10, seen="sglang's scheduler", circumstances={"delimiter": 0}
):
    """The delimiter id 0 counts as not set, since it is falsy: the server scores serially."""

    @property
    @override
    def config(self) -> ScorerConfig:
        return replace(self.inner.config, delimiter=self.inner.config.delimiter or None)


class DelimiterSplits(ScorerFault, name="delimiter_splits", number=11, seen="sglang #22544"):
    """A delimiter inside an item splits it in two: the parts are scored as items of their own."""

    @override
    def check_content(self, query: Ids, items: Sequence[Ids]) -> None:
        """Content is not looked at."""

    @override
    def pack(self, query: Ids, items: Sequence[Ids], read: Reading) -> ScoreResult:
        parts = [part for item in items for part in _split(item, self.config.delimiter)]
        result = self.inner.pack(query, parts, read)
        return replace(result, scores=result.scores[: len(items)])


def _split(item: Ids, delimiter: int | None) -> list[list[int]]:
    parts: list[list[int]] = [[]]
    for token in item:
        if token == delimiter:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


class EmptyScoresNeighbour(
    ScorerFault, name="empty_scores_neighbour", number=12, seen="follows from the packed layout"
):
    """An empty item is scored at the token before its closing delimiter, which has seen its left neighbour."""

    @override
    def lay_out(self, query: Ids, items: Sequence[Ids], start: int) -> PackedLayout:
        """The neighbour and the delimiter that closes it, as an item, end at that token."""
        delimiter = self.config.delimiter
        assert delimiter is not None
        seen: list[list[int]] = []
        for item in items:
            left = [*seen[-1], delimiter] if seen else []
            seen.append(list(item) or left)
        return self.inner.lay_out(query, seen, start)


class EmptyCrashes(ScorerFault, name="empty_crashes", number=12, seen="SGLang 0.5.9"):
    """An empty item crashes the request: HTTP 500."""

    @override
    def pack(self, query: Ids, items: Sequence[Ids], read: Reading) -> ScoreResult:
        if not all(map(len, items)):
            raise IndexError("an empty item has no last token")
        return self.inner.pack(query, items, read)


class OtherImplementation(ScorerFault):
    """Another mask implementation is run than the one requested, and counted as what it is: attestation sees it."""

    runs: MaskImpl

    @override
    def implementation(self, layout: PackedLayout) -> MaskImpl:
        return self.runs


class DenseInsteadOfSegment(OtherImplementation, name="dense_instead_of_segment", number=15, runs=MaskImpl.DENSE):
    """Segment is requested, and dense is silently run."""

    seen = "a regression test compared dense with dense for weeks"


class SegmentInsteadOfDense(
    OtherImplementation,
    name="segment_instead_of_dense",
    number=15,
    seen="the reverse of a silent fallback",
    scope=frozenset({"other_mask"}),
    runs=MaskImpl.SEGMENT,
):
    """Dense is requested, and segment is silently run: the baseline is no baseline."""


class LastChunkPadded(ScorerFault, name="last_chunk_padded", number=16, circumstances={"server_chunk_size": 8}):
    """The last chunk, which is not full, is padded into its last item: that is scored after the padding."""

    seen = "follows from fixed chunk sizes"

    @override
    def lay_out(self, query: Ids, items: Sequence[Ids], start: int) -> PackedLayout:
        """A padding token for every item that is missing."""
        missing = self.config.chunk_size - len(items)
        if start > 0 and missing > 0:
            items = [*items[:-1], [*items[-1], *[0] * missing]]
        return self.inner.lay_out(query, items, start)


class SerialInside(ScorerFault, name="serial_inside", number=24, timed=True):
    """The multi-item server is a serial one inside: every score is right, and nothing is gained. It attests the mask
    that was asked for."""

    seen = "the wrong flag generation: --multi-item-scoring-delimiter became --enable-mis (sglang #22544)"

    @override
    def compute(self, layout: PackedLayout, implementation: MaskImpl, read: Reading) -> Scores:
        """One forward pass an item, in the context that the declared semantics gives it."""
        query = layout.token_ids[: layout.query_length].tolist()
        delimiter = self.config.delimiter
        assert delimiter is not None
        context = layout.semantics.serial_query(query, delimiter)
        items = (layout.token_ids[layout.block(i)][:-1].tolist() for i in range(layout.num_items))
        return np.stack([self.score_alone([*context, *item], read) for item in items])
