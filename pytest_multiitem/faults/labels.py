"""Faults of the read-out: which entries of the vocabulary a label's score is taken from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from pytest_multiitem.faults.base import WHOLE, ScorerFault
from pytest_multiitem.scoring.steps import Ids, ScoreResult, Scores
from pytest_multiitem.scoring.vocabulary import Part

_SEED = 20_260_101
_EVERYWHERE: frozenset[Part] = frozenset({"multi", "other_mask", "extend", "serial"})
_SHARDS = 4
#: Items whose scores of the whole vocabulary are in memory together.
_AT_ONCE = 64


class OtherLabels(ScorerFault):
    """Labels are read as other ids."""

    def read_as(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """The ids [K] that are read for ``labels`` [K]."""
        raise NotImplementedError

    @override
    def score(
        self, query: Ids, items: Sequence[Ids], labels: Ids, apply_softmax: bool, item_first: bool = False
    ) -> ScoreResult:
        other = self.read_as(np.asarray(labels, dtype=np.int64)).tolist()
        return self.inner.score(query, items, other, apply_softmax, item_first)


class LabelShard(
    OtherLabels,
    name="label_shard",
    number=29,
    seen="TensorRT-LLM #15833",
    scope=frozenset({"multi", "other_mask", "extend"}),
    strengths=(3, 2, 4, 1),
    thresholds=True,
    accepts=(lambda s: s in range(1, _SHARDS + 1), f"the number of a shard, 1 to {_SHARDS}"),
    unit="the shard that is read wrongly",
):
    """Labels in one quarter of the vocabulary are read half a quarter off; those in the other three are right."""

    def read_as(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Within the shard, whose last half wraps to its first."""
        size = -(-self.vocab_size // _SHARDS)
        start = (self.count - 1) * size
        width = max(1, min(size, self.vocab_size - start))
        inside = (labels >= start) & (labels < start + width)
        return np.where(inside, start + (labels - start + width // 2) % width, labels)


class NoHead(OtherLabels, name="no_head", number=39, scope=_EVERYWHERE):
    """The head is a random one, packed and serial alike: labels are read as other ids, always the same ones. Scores
    follow the content, and mean nothing."""

    seen = "Qwen3-Embedding #15, #71; vllm #21681, #27857; llama.cpp #25447"

    def read_as(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """By a seeded permutation of the vocabulary."""
        return np.random.default_rng(_SEED).permutation(self.vocab_size)[labels]


class LabelsClipped(
    ScorerFault,
    name="labels_clipped",
    number=39,
    seen="llama.cpp #25447",
    scope=_EVERYWHERE,
    strengths=(20, 100),
    accepts=WHOLE,
    unit="most probable ids that are read",
):
    """Only the most probable ids are read, packed and serial alike: a label that is not among them gets the
    probability of the last one that is."""

    @override
    def score(
        self, query: Ids, items: Sequence[Ids], labels: Ids, apply_softmax: bool, item_first: bool = False
    ) -> ScoreResult:
        """From the probabilities of the whole vocabulary, of some items at a time."""
        everything = range(self.vocab_size)
        rows: list[Scores] = []
        tokens = 0
        for start in range(0, len(items), _AT_ONCE):
            part = self.inner.score(query, items[start : start + _AT_ONCE], everything, False, item_first)
            place = max(0, self.vocab_size - self.count)
            floor = np.partition(part.scores, place, axis=1)[:, place : place + 1]
            rows.append(np.maximum(part.scores[:, list(labels)], floor))
            tokens += part.prompt_tokens
        scores = np.concatenate(rows)
        if apply_softmax:
            scores = scores / scores.sum(axis=1, keepdims=True)
        return replace(part, scores=scores, prompt_tokens=tokens)
