"""Faults between a request and its packed sequences: items lost, split or empty, state kept, another path taken."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from pytest_multiitem.faults.base import ScorerFault
from pytest_multiitem.scoring.layout import PackedLayout, build_layout


class FirstDelimiterScored(ScorerFault):
    """The first delimiter is scored as item 1, every item as the one after it, and the last item is dropped."""

    name = "first_delimiter_scored"
    number = 6
    seen = "follows from reading scores at delimiters"

    def scorer(self, base: Any) -> Any:
        """An empty item scores the state at the first delimiter."""

        class Mutant(base):
            def _packed(self, query: Any, items: Any, read: Any) -> Any:
                return super()._packed(query, [[], *items[:-1]], read)

        return Mutant


class StateLeaks(ScorerFault):
    """Recurrent state leaks from one item into all that follow: a share of a score is that of the item before."""

    name = "state_leaks"
    number = 9
    seen = "sglang #31969"
    strengths = (0.5, 1e-3, 1e-6)
    unit = "of the score"

    def scorer(self, base: Any) -> Any:
        """A running mean over the items."""
        share = self.strength

        class Mutant(base):
            def _compute(self, layout: PackedLayout, implementation: Any, read: Any) -> Any:
                scores = super()._compute(layout, implementation, read)
                for i in range(1, len(scores)):
                    scores[i] += share * (scores[i - 1] - scores[i])
                return scores

        return Mutant


class RequestsLeak(ScorerFault):
    """State leaks from one request into the next: a share of every score is that of the last item before."""

    name = "requests_leak"
    number = 9
    seen = "sglang #31969"
    strengths = (0.5, 1e-1, 1e-2)
    unit = "of the score"

    def scorer(self, base: Any) -> Any:
        """The last row of a request is kept for the next one of as many labels."""
        share = self.strength

        class Mutant(base):
            def score(self, *given: Any, **named: Any) -> Any:
                result = super().score(*given, **named)
                healthy, last = result.scores, getattr(self, "_last_row", None)
                self._last_row = healthy[-1]
                if last is None or len(last) != healthy.shape[1]:
                    return result
                return replace(result, scores=healthy + share * (last - healthy))

        return Mutant


class StaleShapes(ScorerFault):
    """Scores are cached by the query and the items' lengths: a request with other items of the same lengths gets
    old scores."""

    name = "stale_shapes"
    number = 9
    seen = "follows from caches whose key leaves content out"

    def scorer(self, base: Any) -> Any:
        """The first answer of a shape is the last."""

        class Mutant(base):
            def score(self, query: Any, items: Any, labels: Any, *rest: Any, **named: Any) -> Any:
                known = self.__dict__.setdefault("_by_shape", {})
                key = (tuple(query), tuple(map(len, items)), tuple(labels), rest, tuple(named.items()))
                if key not in known:
                    known[key] = super().score(query, items, labels, *rest, **named)
                return known[key]

        return Mutant


class DelimiterZeroUnset(ScorerFault):
    """The delimiter id 0 counts as not set, since it is falsy: the server scores serially."""

    name = "delimiter_zero_unset"
    number = 10
    seen = "sglang's scheduler"
    circumstances: ClassVar[dict[str, Any]] = {"delimiter": 0}

    def scorer(self, base: Any) -> Any:
        """Only id 0 is lost."""

        class Mutant(base):
            def __init__(self, backend: Any, config: Any) -> None:
                super().__init__(backend, replace(config, delimiter=config.delimiter or None))

        return Mutant


class DelimiterSplits(ScorerFault):
    """A delimiter inside an item splits it in two: the parts are scored as items of their own."""

    name = "delimiter_splits"
    number = 11
    seen = "sglang #22544"

    def scorer(self, base: Any) -> Any:
        """The first N of the scores that the sequence then has are returned."""

        class Mutant(base):
            @staticmethod
            def _check_delimiter(delimiter: int, query: Any, items: Any) -> None:
                """Content is not looked at."""

            def _packed(self, query: Any, items: Any, read: Any) -> Any:
                parts = [part for item in items for part in _split(item, self.config.delimiter)]
                result = super()._packed(query, parts, read)
                return replace(result, scores=result.scores[: len(items)])

        return Mutant


def _split(item: Any, delimiter: int) -> list[list[int]]:
    parts: list[list[int]] = [[]]
    for token in item:
        if token == delimiter:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


class EmptyScoresNeighbour(ScorerFault):
    """An empty item is scored at the token before its closing delimiter, which has seen its left neighbour."""

    name = "empty_scores_neighbour"
    number = 12
    seen = "follows from the packed layout"

    def scorer(self, base: Any) -> Any:
        """The neighbour and the delimiter that closes it, as an item, end at that token."""

        class Mutant(base):
            def _lay_out(self, query: Any, items: Any, start: int) -> PackedLayout:
                shown: list[list[int]] = []
                for item in items:
                    left = [*shown[-1], self.config.delimiter] if shown else []
                    shown.append(list(item) or left)
                return build_layout(query, shown, self.config.delimiter, self.config.semantics)

        return Mutant


class EmptyCrashes(ScorerFault):
    """An empty item crashes the request: HTTP 500."""

    name = "empty_crashes"
    number = 12
    seen = "SGLang 0.5.9"

    def scorer(self, base: Any) -> Any:
        """As an index error in an engine would."""

        class Mutant(base):
            def _packed(self, query: Any, items: Any, read: Any) -> Any:
                if not all(map(len, items)):
                    raise IndexError("an empty item has no last token")
                return super()._packed(query, items, read)

        return Mutant


class DenseInsteadOfSegment(ScorerFault):
    """Segment is requested, and dense is silently run."""

    name = "dense_instead_of_segment"
    number = 15
    seen = "a regression test compared dense with dense for weeks"
    scope = frozenset({"multi"})

    def scorer(self, base: Any) -> Any:
        """What ran is counted as what it was: only attestation can see this."""

        class Mutant(base):
            def _implementation(self, layout: PackedLayout) -> Any:
                return type(super()._implementation(layout)).DENSE

        return Mutant


class SegmentInsteadOfDense(ScorerFault):
    """Dense is requested, and segment is silently run: the baseline is no baseline."""

    name = "segment_instead_of_dense"
    number = 15
    seen = "the reverse of a silent fallback"
    scope = frozenset({"other_mask"})

    def scorer(self, base: Any) -> Any:
        """What ran is counted as what it was."""

        class Mutant(base):
            def _implementation(self, layout: PackedLayout) -> Any:
                return type(super()._implementation(layout)).SEGMENT

        return Mutant


class LastChunkPadded(ScorerFault):
    """The last chunk, which is not full, is padded into its last item: that is scored after the padding."""

    name = "last_chunk_padded"
    number = 16
    seen = "follows from fixed chunk sizes"
    circumstances: ClassVar[dict[str, Any]] = {"server_chunk_size": 8}

    def scorer(self, base: Any) -> Any:
        """A padding token for every item that is missing."""

        class Mutant(base):
            def _lay_out(self, query: Any, items: Any, start: int) -> PackedLayout:
                missing = self.config.chunk_size - len(items)
                if start > 0 and missing > 0:
                    items = [*items[:-1], [*items[-1], *[0] * missing]]
                return super()._lay_out(query, items, start)

        return Mutant


class SerialInside(ScorerFault):
    """The multi-item server is a serial one inside: every score is right, and nothing is gained. It attests the mask
    that was asked for."""

    name = "serial_inside"
    number = 24
    seen = "the wrong flag generation: --multi-item-scoring-delimiter became --enable-mis (sglang #22544)"
    timed = True

    def scorer(self, base: Any) -> Any:
        """One forward pass an item, in the context that the declared semantics gives it."""

        class Mutant(base):
            def _compute(self, layout: PackedLayout, implementation: Any, read: Any) -> Any:
                query = layout.token_ids[: layout.query_length].tolist()
                context = layout.semantics.serial_query(query, self.config.delimiter)
                scores = read.empty(layout.num_items)
                for i in range(layout.num_items):
                    item = layout.token_ids[layout.block(i)][:-1].tolist()
                    scores[i] = read.scores(self.backend.serial([*context, *item], read.labels, read.normalise))[0]
                return scores

        return Mutant
