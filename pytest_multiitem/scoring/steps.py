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
    """``scores`` [N, K] in item order; ``prompt_tokens``: tokens of all sequences that were computed."""

    scores: Scores
    prompt_tokens: int


@dataclass(frozen=True)
class Reading:
    """What a request reads at each score position: K label token ids, and whether a softmax over them is wanted."""

    labels: Ids
    apply_softmax: bool

    @property
    def normalise(self) -> bool:
        """Whether the full-vocabulary normaliser is needed."""
        return not self.apply_softmax

    def scores(self, readout: Readout) -> Scores:
        """[n, K]."""
        return readout.scores(self.apply_softmax)

    def empty(self, num_items: int) -> Scores:
        """[N, K] of NaN, so that an item that nothing filled cannot pass for a score."""
        return np.full((num_items, len(self.labels)), np.nan)


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

    def score(
        self, query: Ids, items: Sequence[Ids], labels: Ids, apply_softmax: bool, item_first: bool = False
    ) -> ScoreResult:
        """Score N items behind a query (at least one token) at K labels.

        Every limit is checked before the backend is called. ``item_first`` counts in serial mode
        only. Raises WireError for a request over a limit or with the delimiter inside its content.
        """
        return self.inner.score(query, items, labels, apply_softmax, item_first)

    def score_alone(self, tokens: Ids, read: Reading) -> Scores:
        """The scores [K] at the last token of one sequence, by one causal forward pass."""
        return self.inner.score_alone(tokens, read)

    def check_content(self, query: Ids, items: Sequence[Ids]) -> None:
        """Content without the delimiter: inside an item it would split the item in two. Raises WireError."""
        self.inner.check_content(query, items)

    def pack(self, query: Ids, items: Sequence[Ids], read: Reading) -> ScoreResult:
        """One packed sequence per chunk; all chunks are laid out and checked before the first runs."""
        return self.inner.pack(query, items, read)

    def lay_out(self, query: Ids, items: Sequence[Ids], start: int) -> PackedLayout:
        """The packed sequence of one chunk; ``start``: the number of its first item in the request."""
        return self.inner.lay_out(query, items, start)

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
