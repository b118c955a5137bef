"""Faults of the read-out: which entries of the vocabulary a label's score is taken from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from starlette.responses import Response
from typing_extensions import override

from pytest_multiitem.faults.base import WHOLE, ScoreRequest, ScorerFault
from pytest_multiitem.faults.wire import (
    Exchange,
    JsonObject,
    Rows,
    ScoresFault,
    ScoringFault,
    edited,
    encoded,
    wants_softmax,
)
from pytest_multiitem.scoring.steps import ScoreResult
from pytest_multiitem.scoring.vocabulary import Part

_SEED = 20_260_101
_EVERYWHERE: frozenset[Part] = frozenset({"multi", "other_mask", "extend", "serial"})
_SHARDS = 4
#: Ids that stand for a whole vocabulary: all of it would take seconds a request.
_READ = 4_096
#: Of the logarithm of the last probability that is read.
_DECIMALS = 3


class OtherLabels(ScorerFault):
    """Labels are read as other ids."""

    def read_as(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """The ids [K] that are read for ``labels`` [K]."""
        raise NotImplementedError

    @override
    def respond(self, request: ScoreRequest) -> ScoreResult:
        other = self.read_as(np.asarray(request.labels, dtype=np.int64)).tolist()
        return self.ask(replace(request, labels=other))


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
    strengths=(20, 100, 50_000),
    accepts=WHOLE,
    unit="most probable ids that are read",
):
    """Only the most probable ids are read, packed and serial alike: a label that is not among them gets the
    probability of the last one that is.

    Of a large vocabulary, 4,096 ids spread over it stand for all, and the last one that is read is estimated by them.
    """

    @override
    def respond(self, request: ScoreRequest) -> ScoreResult:
        size = self.vocab_size
        ids = np.linspace(0, size - 1, min(size, _READ)).astype(np.int64).tolist()
        result = self.ask(replace(request, apply_softmax=False))
        others = self.ask(replace(request, labels=ids, apply_softmax=False)).scores
        best = min(len(ids), max(1, round(self.count * len(ids) / size)))
        floor = np.partition(others, len(ids) - best, axis=1)[:, len(ids) - best, None]
        # In steps: a product of many columns rounds otherwise in another place, which is none of the fault's.
        scores = np.maximum(result.scores, np.exp(np.round(np.log(floor), _DECIMALS)))
        return replace(result, scores=scores / scores.sum(axis=1, keepdims=True) if request.apply_softmax else scores)


class LabelListsIgnored(ScoringFault, name="label_lists_ignored", number=35):
    """Labels of each item's own are accepted and not used: every item is scored at the labels of the longest list."""

    seen = "follows from a parameter that is known and not handed on"

    async def answer(self, exchange: Exchange) -> Response | None:
        """At as many of them as an item has itself; lists that are none are the server's to refuse."""
        answer, lists = await exchange.answer(), exchange.request["label_token_ids"]
        if answer is None or answer.status_code != 200 or not isinstance(lists[0], list):
            return answer
        longest = max(lists, key=len)
        return await exchange.answer({**exchange.request, "label_token_ids": [longest[: len(own)] for own in lists]})


class RowsSeeBefore(
    ScoringFault,
    seen="follows from a gather of rows that is off by one",
    strengths=(0.1, 1e-3, 1e-6),
    thresholds=True,
    unit="of a score, how much of it goes with that of the item before",
):
    """In some requests an item's scores have a share of those of the item before it."""

    def concerns(self, request: JsonObject) -> bool:
        """Whether a request is one of those."""
        raise NotImplementedError

    async def answer(self, exchange: Exchange) -> Response | None:
        """What a share takes from the first label goes to the last, so that rows sum as before."""

        def edit(body: JsonObject) -> bytes | None:
            rows = [list(row) for row in body["scores"]]
            for row, before in zip(rows[1:], body["scores"], strict=False):
                moved = float(self.strength or 0.0) * before[0] * row[0]
                row[0], row[-1] = row[0] - moved, row[-1] + moved
            return encoded({**body, "scores": rows})

        answer = await exchange.answer()
        return edited(answer, edit) if self.concerns(exchange.request) else answer


class LabelListsSeeBefore(RowsSeeBefore, name="label_lists_see_before"):
    """With labels of each item's own, an item's scores have a share of those of the item before it; with shared labels
    they are right."""

    def concerns(self, request: JsonObject) -> bool:
        return isinstance(request["label_token_ids"][0], list)


class TextSeesBefore(RowsSeeBefore, name="text_sees_before"):
    """A text's scores have a share of those of the text before it; token ids are scored right."""

    def concerns(self, request: JsonObject) -> bool:
        return isinstance(request["query"], str)


class TemperatureSeesBefore(RowsSeeBefore, name="temperature_sees_before"):
    """At a temperature, an item's scores have a share of those of the item before it; without one they are right."""

    def concerns(self, request: JsonObject) -> bool:
        return request.get("temperature") not in (None, 1.0) and not request.get("score_extraction_token")


class TextMassZero(
    ScoresFault,
    name="text_mass_zero",
    number=39,
    strengths=(1e-9, 1e-3),
    thresholds=True,
    unit="of the labels' probability, what is left",
):
    """In requests of text the labels have next to none of the vocabulary's probability; their softmax, and what token
    ids score, are as they were."""

    seen = "Qwen3-Reranker without its template; F19"

    def scores(self, request: JsonObject, rows: Rows) -> Rows:
        is_one = isinstance(request["query"], str) and not wants_softmax(request)
        return rows * float(self.strength or 0.0) if is_one else rows


class LabelMassZero(
    ScorerFault,
    name="label_mass_zero",
    number=39,
    scope=_EVERYWHERE,
    strengths=(1e-9, 1e-3),
    thresholds=True,
    unit="of the labels' probability, what is left",
):
    """The labels have next to none of the vocabulary's probability, packed and serial alike, and their softmax is as
    it was: a template is missing, or the ids are those of another tokenizer."""

    seen = "Qwen3-Reranker without its template; F19"

    @override
    def respond(self, request: ScoreRequest) -> ScoreResult:
        result = self.ask(request)
        return result if request.apply_softmax else replace(result, scores=result.scores * (self.strength or 0.0))
