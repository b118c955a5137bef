"""From what was asked to tables of scores: labels of each item, temperature, log-probabilities, pooled states, sets.

The scorer reads every label of a request at every readout; what is here picks, from that, each item's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytest_multiitem.scoring.readout import softmax
from pytest_multiitem.scoring.steps import Scores, ScoringSteps


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Scores to compute. ``labels``: K for all items; ``own_labels``: or a list for each of the N items; neither for a
    classification head. ``extraction``: the token that is read at, None for the items' ends. ``pooled``: with the
    states that the head reads."""

    query: Sequence[int]
    items: Sequence[Sequence[int]]
    labels: Sequence[int] = ()
    own_labels: Sequence[Sequence[int]] | None = None
    apply_softmax: bool = False
    item_first: bool = False
    temperature: float = 1.0
    logprobs: bool = False
    pooled: bool = False
    extraction: int | None = None

    @property
    def further(self) -> dict[str, int]:
        """What a step that scores items at their ends, as a project's fault may, need not know of."""
        return {} if self.extraction is None else {"extraction": self.extraction}


@dataclass(frozen=True, eq=False)
class Scored:
    """Tables of the shapes that `scoring.wire.score.ScoreResponse` says; None where they were not asked for."""

    scores: list[Any]
    prompt_tokens: int
    logprobs: list[Any] | None = None
    pooled: list[Any] | None = None


def scored(scorer: ScoringSteps, asked: Asked) -> Scored:
    """Compute what was asked. Raises WireError for a request over a limit."""
    return _by_labels(scorer, asked) if scorer.classes is None else _by_classes(scorer, asked, scorer.classes)


def _by_labels(scorer: ScoringSteps, asked: Asked) -> Scored:
    own = asked.own_labels
    read = asked.labels if own is None else list(dict.fromkeys(chain.from_iterable(own)))
    # All but the softmax over labels that all items share starts from the probabilities over the vocabulary: what
    # normalises them drops out of a softmax.
    plain = not asked.apply_softmax or asked.temperature != 1.0 or asked.logprobs or own is not None
    result = scorer.score(asked.query, asked.items, read, not plain, asked.item_first, **asked.further)
    parts = [result.scores]
    if own is not None:
        column = {label: number for number, label in enumerate(read)}
        columns = [np.array([column[label] for label in labels]) for labels in own]
        items = range(len(own)) if result.readouts is None else np.repeat(np.arange(len(own)), result.readouts).tolist()
        parts = [row[None, columns[item]] for row, item in zip(result.scores, items, strict=True)]
    logprobs = None
    if asked.logprobs or (plain and asked.apply_softmax):
        with np.errstate(divide="ignore"):
            log_probabilities = [np.log(part) for part in parts]
        if asked.apply_softmax:
            parts = [softmax(part, asked.temperature) for part in log_probabilities]
        if asked.logprobs:
            logprobs = _table(log_probabilities, result.readouts)
    return Scored(_table(parts, result.readouts), result.prompt_tokens, logprobs)


def _by_classes(scorer: ScoringSteps, asked: Asked, classes: int) -> Scored:
    columns = classes + (scorer.pooled if asked.pooled else 0)
    softened = asked.apply_softmax and (asked.temperature != 1.0 or asked.pooled)
    whole = asked.apply_softmax and not softened
    result = scorer.score(asked.query, asked.items, range(columns), whole, asked.item_first, **asked.further)
    scores, states = result.scores[:, :classes], result.scores[:, classes:]
    if softened:
        scores = softmax(scores, asked.temperature)
    pooled = _table([states], result.readouts) if asked.pooled else None
    return Scored(_table([scores], result.readouts), result.prompt_tokens, pooled=pooled)


def _table(parts: Sequence[Scores], readouts: NDArray[np.int64] | None) -> list[Any]:
    """The rows of all parts as lists, nested by item where items have several."""
    rows = [row for part in parts for row in part.tolist()]
    if readouts is None:
        return rows
    ends = np.cumsum(readouts)
    return [rows[end - count : end] for end, count in zip(ends.tolist(), readouts.tolist(), strict=True)]
