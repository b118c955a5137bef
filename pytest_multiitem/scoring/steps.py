"""The steps from a request to its scores, by name: a scorer implements them, and a fault of it changes one.

`engine.scorer.Scorer` implements them all, and takes each by way of its ``steps``: itself, or the faults in front of
it (`faults.base.ScorerFault`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytest_multiitem.scoring.config import MaskImpl, ScorerConfig
from pytest_multiitem.scoring.layout import PackedLayout
from pytest_multiitem.scoring.readout import Readout

Ids = Sequence[int]
#: The token ids of one text.
Encode = Callable[[str], list[int]]
Scores = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ScoreResult:
    """``scores`` [N, K] in item order; ``prompt_tokens``: tokens of all sequences that were computed. ``readouts`` [N]:
    how many rows each item has where it is not one, and then there are R rows in all: item by item, and in an item by
    place."""

    scores: Scores
    prompt_tokens: int
    readouts: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Reading:
    """What a request reads at each score position: K label token ids, and whether a softmax over them is wanted.

    ``raw``: the logits themselves are the scores, of a classification head that no softmax was asked for.
    ``extraction``: the token that is read at, wherever it stands in an item; None: an item's end is read.
    """

    labels: Ids
    apply_softmax: bool
    raw: bool = False
    extraction: int | None = None

    @property
    def normalise(self) -> bool:
        """Whether the full-vocabulary normaliser is needed."""
        return not self.apply_softmax and not self.raw

    def scores(self, readout: Readout) -> Scores:
        """[n, K]."""
        if self.raw:
            return readout.label_logits.astype(np.float64)
        return readout.scores(self.apply_softmax)

    def empty(self, readouts: int) -> Scores:
        """[R, K] of NaN, so that an item that nothing filled cannot pass for a score."""
        return np.full((readouts, len(self.labels)), np.nan)


class ScoringSteps:
    """What a scorer does, one step a method; each is that of ``inner``, unless a subclass changes it.

    ``inner``: the scorer, or a mutant of it; the scorer itself has none, for it implements every step.
    """

    inner: ScoringSteps

    @property
    def config(self) -> ScorerConfig:
        """How it scores."""
        return self.inner.config

    @property
    def vocab_size(self) -> int:
        """V: token ids are below it."""
        return self.inner.vocab_size

    def tokenise(self, query: str, items: Sequence[str], encode: Encode) -> tuple[list[int], list[list[int]]]:
        """The token ids of a query and of its items, by what encodes one text. May be called from any thread."""
        return self.inner.tokenise(query, items, encode)

    @property
    def classes(self) -> int | None:
        """C of a model with a classification head, whose labels are the numbers of its classes; None: a causal LM."""
        return self.inner.classes

    @property
    def pooled(self) -> int:
        """How many numbers the state has that a classification head reads: the labels from C on. 0: it is not given."""
        return self.inner.pooled

    def score(
        self,
        query: Ids,
        items: Sequence[Ids],
        labels: Ids,
        apply_softmax: bool,
        item_first: bool = False,
        extraction: int | None = None,
    ) -> ScoreResult:
        """Score N items behind a query (at least one token) at K labels.

        Every limit is checked before the backend is called. ``item_first`` counts in serial mode
        only. ``extraction``: read at each of this token's places in an item, and not at its end. Raises WireError for a
        request over a limit, with the delimiter inside its content, or with extraction tokens where none may be, or
        none where one must.
        """
        return self.inner.score(query, items, labels, apply_softmax, item_first, extraction)

    def score_alone(self, tokens: Ids, read: Reading) -> Scores:
        """The scores [K] at the last token of one sequence, by one causal forward pass."""
        return self.inner.score_alone(tokens, read)

    def score_places_alone(self, tokens: Ids, places: Sequence[int], read: Reading) -> Scores:
        """The scores [n, K] at n places of one sequence, by one causal forward pass."""
        return self.inner.score_places_alone(tokens, places, read)

    def check_content(self, query: Ids, items: Sequence[Ids]) -> None:
        """Content without the delimiter: inside an item it would split the item in two. Raises WireError."""
        self.inner.check_content(query, items)

    def pack(self, query: Ids, items: Sequence[Ids], read: Reading) -> ScoreResult:
        """One packed sequence per chunk; all chunks are laid out and checked before the first runs."""
        return self.inner.pack(query, items, read)

    def lay_out(self, query: Ids, items: Sequence[Ids], start: int) -> PackedLayout:
        """The packed sequence of one chunk; ``start``: the number of its first item in the request."""
        return self.inner.lay_out(query, items, start)

    def extract(self, layout: PackedLayout, token: int) -> PackedLayout:
        """The packed sequence of one chunk, to be read at each place of a token in its items."""
        return self.inner.extract(layout, token)

    def implementation(self, layout: PackedLayout) -> MaskImpl:
        """The mask implementation that a packed sequence is computed by: DENSE or SEGMENT."""
        return self.inner.implementation(layout)

    def compute(self, layout: PackedLayout, implementation: MaskImpl, read: Reading) -> Scores:
        """The scores [N, K] of one packed sequence, computed by DENSE or SEGMENT."""
        return self.inner.compute(layout, implementation, read)

    def lay_out_batch(self, query: Ids, items: Sequence[Ids], hit: bool) -> PackedLayout:
        """One batch of prefill+extend behind its query, which was in the cache already (``hit``) or not."""
        return self.inner.lay_out_batch(query, items, hit)

    def flush_cache(self) -> None:
        """Forget every cached prefix; the counters go on."""
        self.inner.flush_cache()

    def executed(self) -> dict[str, Any]:
        """What ran since the start (`engine.scorer.Executed`); may be called from any thread."""
        return self.inner.executed()
