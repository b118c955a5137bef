"""Faults of a query that is known: what a server has computed of it once, and uses for later requests.

Every one is right until a query comes again, or one that is taken for it: a server that was started anew, or that is
asked once about each query, shows none of them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from typing_extensions import override

from pytest_multiitem.faults.attention import AttentionFault, Weights
from pytest_multiitem.faults.base import WHOLE, ScoreRequest, ScorerFault, mixed
from pytest_multiitem.faults.layout import LayoutFault
from pytest_multiitem.scoring.layout import PREFIX, PackedLayout
from pytest_multiitem.scoring.steps import Ids, ScoreResult
from pytest_multiitem.scoring.vocabulary import Part

_Key = tuple[int, ...]
_WHERE: frozenset[Part] = frozenset({"multi", "extend"})


class OtherQuery(ScorerFault):
    """A request may be scored behind the query of another one."""

    def begin(self) -> None:
        """No query is known."""
        self._kept: dict[object, Ids] = {}

    def found(self, query: Ids) -> Ids:
        """The query that is taken for this one; it is called once for each request."""
        raise NotImplementedError

    @override
    def respond(self, request: ScoreRequest) -> ScoreResult:
        """What is computed of a query depends on it alone, so that one which is taken for it replaces it altogether."""
        return self.ask(replace(request, query=self.found(request.query)))


class KeyedQuery(OtherQuery):
    """A query is known by a key that leaves out a part of it: one of the same key is scored behind the first."""

    def key(self, query: Ids) -> _Key:
        """What a query is known by, beside its length."""
        raise NotImplementedError

    def found(self, query: Ids) -> Ids:
        """The first query of the same length and key."""
        return self._kept.setdefault((len(query), self.key(query)), query)


class KeyForgetsEnd(KeyedQuery, name="key_forgets_end", strengths=(1, 16), accepts=WHOLE, unit="tokens of the end"):
    """A known query is found by its length and all tokens but the last: another one that ends otherwise is taken for
    it."""

    seen = "follows from caches of whole blocks, whose last block is not full"
    scope = _WHERE

    def key(self, query: Ids) -> _Key:
        return tuple(query[: -self.count])


class KeyForgetsStart(
    KeyedQuery, name="key_forgets_start", strengths=(1, 16), accepts=WHOLE, unit="tokens of the beginning"
):
    """A known query is found by its length and all tokens but the first: another one that begins otherwise is taken for
    it."""

    seen = "follows from hashes of blocks that leave out the block before"
    scope = _WHERE

    def key(self, query: Ids) -> _Key:
        return tuple(query[self.count :])


class KeyForgetsOrder(KeyedQuery, name="key_forgets_order", scope=_WHERE):
    """A known query is found by its tokens in whatever order: another one of the same tokens is taken for it."""

    seen = "follows from keys that are sums"

    def key(self, query: Ids) -> _Key:
        return tuple(sorted(query))


class KeyForgetsLength(KeyedQuery, name="key_forgets_length", scope=_WHERE):
    """A longer query that begins with a known one is taken for it."""

    seen = "follows from caches of beginnings, whose match is taken for the whole"

    def found(self, query: Ids) -> Ids:
        """The longest one that it begins with."""
        known = [each for each in self._kept.values() if tuple(query[: len(each)]) == tuple(each)]
        self._kept[tuple(query)] = query
        return max(known, key=len, default=query)


class KeptQueriesOverflow(
    OtherQuery,
    name="kept_queries_overflow",
    strengths=(8, 1, 16),
    accepts=WHOLE,
    thresholds=True,
    unit="queries that are kept",
    scope=_WHERE,
):
    """So many queries are kept; a further one takes the place of the oldest, which is still found there, and is then
    scored behind the further one."""

    seen = "follows from places that are freed while an index still names them"

    def begin(self) -> None:
        super().begin()
        self._places: dict[_Key, int] = {}

    def found(self, query: Ids) -> Ids:
        """What stands in the place of the query."""
        place = self._places.get(tuple(query))
        if place is None:
            place = self._places[tuple(query)] = len(self._places) % self.count
            self._kept[place] = query
        return self._kept[place]


class KeptQueryWritten(
    ScorerFault,
    name="kept_query_written",
    number=9,
    strengths=(1.0, 1e-2, 1e-4, 1e-6),
    unit="of the score",
    scope=_WHERE,
):
    """What is kept of a query is written into by the request that uses it: the next one behind the same query sees the
    last token of that one's items in the place of the query's last token, by a share of its score."""

    seen = "follows from a slot that is one too low; sglang #31969"

    def begin(self) -> None:
        """Nothing is kept, so nothing is written."""
        self._written: dict[_Key, int] = {}

    @override
    def respond(self, request: ScoreRequest) -> ScoreResult:
        """The last request behind a query is the one that shows in the next."""
        query = request.query
        last = self._written.get(tuple(query))
        result = self.ask(request)
        self._written[tuple(query)] = next((item[-1] for item in reversed(request.items) if len(item)), query[-1])
        if last is None:
            return result
        wrong = self.ask(replace(request, query=[*query[:-1], last]))
        return replace(result, scores=mixed(result.scores, wrong.scores, self.strength))


class KnownQueryIndices(LayoutFault, name="known_query_indices", number=8, seen="sglang #26618"):
    """Behind a query that is known, delimiter indices of the full sequence are used in packed scoring: scores are read
    too late."""

    def begin(self) -> None:
        """No query is known."""
        self._known: set[_Key] = set()

    def alter(self, layout: PackedLayout) -> PackedLayout:
        """Indices that were not lowered by the known tokens point beyond the item: its end is read."""
        if not _hit(self._known, layout):
            return layout
        closing = np.append(layout.block_start[1:], layout.length) - 1
        has_tokens = layout.score_index >= layout.block_start
        late = np.minimum(layout.score_index + layout.query_length, closing)
        return replace(layout, score_index=np.where(has_tokens, late, layout.score_index))


class KnownQueryShort(AttentionFault, name="known_query_short"):
    """Of a query that is known, packed items do not see the last token that they see of a new one."""

    seen = "follows from caches that leave the last token to be computed anew"

    def begin(self) -> None:
        """No query is known."""
        self._known: set[_Key] = set()

    def concerns(self, layout: PackedLayout, start: int) -> bool:
        """Every sequence but the first behind a query."""
        return _hit(self._known, layout)

    def weights(self, layout: PackedLayout, start: int) -> Weights:
        """One key is hidden from every item."""
        key = np.arange(layout.length) == layout.visible_prefix_length - 1
        hidden = (layout.item != PREFIX)[:, None] & key[None, :]
        return np.where(hidden, np.float32(-np.inf), layout.log_weights())


def _hit(known: set[_Key], layout: PackedLayout) -> bool:
    """Whether the query of a sequence was known; from then on it is."""
    query = tuple(layout.token_ids[: layout.query_length].tolist())
    hit = query in known
    known.add(query)
    return hit
