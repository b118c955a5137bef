"""Faults of the answer's form: its order, its normalisation, and bodies that are no scores at all."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from starlette.responses import Response

from pytest_multiitem.faults.wire import (
    AnswerFault,
    Exchange,
    JsonObject,
    Rows,
    ScoresFault,
    ScoringFault,
    encoded,
    items_of,
    matrix,
    rescored,
    wants_softmax,
)
from pytest_multiitem.scoring.wire.errors import internal_error


class Permuted(ScoresFault, name="permuted", number=13):
    """Scores come in the order of item length, shortest first, instead of the order of the items."""

    def scores(self, request: JsonObject, rows: Rows) -> Rows:
        """The rows, sorted by the lengths of their items; stable."""
        lengths = [len(item) for item in items_of(request)]
        return rows[np.argsort(lengths, kind="stable")] if len(lengths) == len(rows) else rows


class DuplicatesMerged(ScoresFault, name="duplicates_merged", number=13):
    """Items that are equal get one row of scores, so that the list is shorter than the items."""

    def scores(self, request: JsonObject, rows: Rows) -> Rows:
        """The rows of the first of each item."""
        keys = [item if isinstance(item, str) else tuple(item) for item in items_of(request)]
        if len(keys) != len(rows):
            return rows
        first = {key: index for index, key in reversed(list(enumerate(keys)))}
        return rows[sorted(first.values())]


class SortedAnswer(ScoresFault, name="sorted_answer", number=36, seen="llama_index #20599, Milvus #53672"):
    """Scores come sorted by the first label's, the highest first, without a word on which item each belongs to."""

    def scores(self, request: JsonObject, rows: Rows) -> Rows:
        """Stable: equal scores keep their order."""
        return rows[np.argsort(-rows[:, 0], kind="stable")]


class TemperatureIgnored(ScoringFault, name="temperature_ignored", number=35, seen="sglang 0.5.23, setwise"):
    """A temperature is accepted and not applied: the answer is that of temperature 1."""

    async def answer(self, exchange: Exchange) -> Response | None:
        """A temperature that is none is the server's to refuse, as is one without a softmax."""
        answer = await exchange.answer()
        if answer is None or answer.status_code != 200 or exchange.request.get("temperature") is None:
            return answer
        return await exchange.answer({**exchange.request, "temperature": None})


class TokenLogprobsEmpty(AnswerFault, name="token_logprobs_empty", number=35, seen="sglang 0.5.23, setwise"):
    """Token log-probabilities that were asked for are an empty list."""

    def changed(self, body: JsonObject) -> bytes | None:
        return encoded({**body, "token_logprobs": []}) if body.get("token_logprobs") is not None else None


class LabelsSwapped(ScoresFault, name="labels_swapped", number=14):
    """Each row has the scores of its labels in reverse order."""

    def scores(self, request: JsonObject, rows: Rows) -> Rows:
        return rows[:, ::-1]


class SoftmaxOverItems(ScoringFault, name="softmax_over_items", number=14):
    """With apply_softmax, probabilities are normalised over the items instead of over the labels."""

    async def answer(self, exchange: Exchange) -> Response | None:
        """Ask for plain probabilities: their columns are what a softmax along the wrong axis normalises."""
        if not wants_softmax(exchange.request):
            return await exchange.answer()
        return rescored(await exchange.answer({**exchange.request, "apply_softmax": False}), _shares_of_items)


class SoftmaxIgnored(ScoringFault, name="softmax_ignored", number=14):
    """apply_softmax means its opposite: true gets plain probabilities, false gets the softmax."""

    async def answer(self, exchange: Exchange) -> Response | None:
        """Ask for the other one."""
        flag = exchange.request.get("apply_softmax")
        if flag is not None and not isinstance(flag, bool):
            return await exchange.answer()  # a wrong type is the server's to refuse
        return await exchange.answer({**exchange.request, "apply_softmax": not flag})


class NotFinite(AnswerFault):
    """The first score of the last item is ``value``."""

    value: float

    def changed(self, body: JsonObject) -> bytes | None:
        scores: Any = body["scores"]
        if matrix(scores) is None:
            return None
        return encoded({**body, "scores": [*scores[:-1], [self.value, *scores[-1][1:]]]})


class NotANumber(NotFinite, name="nan", number=21, value=math.nan):
    """The first score of the last item is NaN, a literal that JSON has not."""


class Infinity(NotFinite, name="infinity", number=21, value=math.inf):
    """The first score of the last item is Infinity, a literal that JSON has not."""


class ShortList(ScoresFault, name="short_list", number=21):
    """The scores of the last item are missing."""

    def scores(self, request: JsonObject, rows: Rows) -> Rows:
        return rows[:-1]


class WrongLabelCount(ScoresFault, name="wrong_label_count", number=21):
    """Each item has one score too many: a zero behind those that were asked for."""

    def scores(self, request: JsonObject, rows: Rows) -> Rows:
        """The rows and a zero each: their sums stay, so that only the shape shows it."""
        return np.pad(rows, ((0, 0), (0, 1)))


class ErrorUnder200(AnswerFault, name="error_under_200", number=21):
    """Each scoring request is answered with an error body under HTTP status 200."""

    def changed(self, body: JsonObject) -> bytes | None:
        return internal_error().body()


class TruncatedJson(AnswerFault, name="truncated_json", number=21):
    """The JSON of an answer ends in its middle, under a content length that agrees."""

    def changed(self, body: JsonObject) -> bytes | None:
        whole = encoded(body)
        return whole[: len(whole) // 2]


def _shares_of_items(rows: Rows) -> Rows:
    sums = rows.sum(axis=0)
    return np.divide(rows, sums, out=np.full_like(rows, 1 / len(rows)), where=sums > 0)
