"""Faults of a model with a classification head alone: what is read at labels is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from starlette.responses import Response
from typing_extensions import override

from pytest_multiitem.faults.base import ScorerFault, mixed
from pytest_multiitem.faults.prompted import PromptedFault
from pytest_multiitem.faults.wire import Exchange, JsonObject, edited, encoded
from pytest_multiitem.scoring.steps import Ids, Reading, ScoreResult
from pytest_multiitem.transport.address import SCORE_PATH


class ClassesShifted(ScorerFault, name="classes_shifted", seen="follows from another order of id2label"):
    """The logits of a head's classes come in the order of the class after each."""

    @override
    def pack(self, query: Ids, items: Sequence[Ids], read: Reading) -> ScoreResult:
        """What else than logits is read behind them stays."""
        result, classes = self.inner.pack(query, items, read), self.classes
        if classes is None or read.extraction is not None:
            return result
        order = [*((number + 1) % classes for number in range(classes)), *range(classes, result.scores.shape[1])]
        return replace(result, scores=result.scores[:, order])


class ClassesSeeBefore(
    ScorerFault,
    name="classes_see_before",
    seen="follows from a mask of the causal path alone",
    strengths=(1.0, 1e-3, 1e-6),
    thresholds=True,
    unit="of a logit, how much of it is what it is behind the item before",
):
    """With a head, an item sees the item before it; what is scored at labels, or at extraction tokens, sees nobody."""

    @override
    def pack(self, query: Ids, items: Sequence[Ids], read: Reading) -> ScoreResult:
        """Each behind the one before it."""
        if self.classes is None or read.extraction is not None:
            return self.inner.pack(query, items, read)
        right, pairs = self.inner.pack(query, items, read), pairwise(items)
        wrong = self.inner.pack(query, [items[0], *([*before, *own] for before, own in pairs)], read)
        return replace(right, scores=mixed(right.scores, wrong.scores, self.strength))


class PooledShifted(PromptedFault, name="pooled_shifted", number=13, seen="follows from an index that starts at 1"):
    """The states that the head reads come shifted by one item, the last first; the scores are right."""

    paths = frozenset({SCORE_PATH})

    async def answer(self, exchange: Exchange) -> Response | None:
        """Of requests that ask for them."""
        answer = await exchange.answer()

        def edit(body: JsonObject) -> bytes | None:
            states = body.get("pooled_hidden_states")
            return None if not states else encoded({**body, "pooled_hidden_states": [states[-1], *states[:-1]]})

        return edited(answer, edit)


class ClassTemperatureIgnored(
    PromptedFault, name="class_temperature_ignored", number=35, seen="sglang 0.5.23, setwise with a head"
):
    """A temperature is accepted and not applied to the classes of sets; elsewhere it is applied."""

    paths = frozenset({SCORE_PATH})

    async def answer(self, exchange: Exchange) -> Response | None:
        """Of requests without labels, which only a head answers."""
        answer, request = await exchange.answer(), exchange.request
        is_one = request.get("score_extraction_token") is not None and request.get("temperature") is not None
        if answer is None or answer.status_code != 200 or not is_one or request.get("label_token_ids") is not None:
            return answer
        return await exchange.answer({**request, "temperature": None})
