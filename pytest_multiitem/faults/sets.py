"""Faults of setwise scoring alone: items with one readout at their end are right."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from starlette.responses import Response
from typing_extensions import override

from pytest_multiitem.faults.base import ScorerFault, mixed
from pytest_multiitem.faults.wire import Exchange, ScoringFault, edited, encoded
from pytest_multiitem.scoring.steps import Ids, Reading, ScoreResult


class SetShifted(ScorerFault, name="set_shifted", seen="follows from an index of readouts that starts at 1"):
    """The readouts of an item come shifted by one: each is that of the one before it, and the first is the last."""

    @override
    def pack(self, query: Ids, items: Sequence[Ids], read: Reading) -> ScoreResult:
        """Within each item; one readout alone is right."""
        result = self.inner.pack(query, items, read)
        if read.extraction is None:
            return result
        counts = [list(item).count(read.extraction) for item in items]
        starts = np.cumsum([0, *counts[:-1]])
        rows = [
            start + (place - 1) % count for start, count in zip(starts, counts, strict=True) for place in range(count)
        ]
        return replace(result, scores=result.scores[rows])


class SetSeesBefore(
    ScorerFault,
    name="set_sees_before",
    seen="follows from a mask that ends at extraction tokens",
    strengths=(1.0, 1e-3, 1e-6),
    thresholds=True,
    unit="of a readout, how much of it is what it is behind the set before",
):
    """A set sees the set before it; what is scored at an item's end sees nobody."""

    @override
    def pack(self, query: Ids, items: Sequence[Ids], read: Reading) -> ScoreResult:
        """Each behind the one before it, whose own readouts are dropped."""
        if read.extraction is None:
            return self.inner.pack(query, items, read)
        counts = [list(item).count(read.extraction) for item in items]
        right = self.inner.pack(query, items, read)
        result = self.inner.pack(query, [items[0], *([*a, *b] for a, b in itertools.pairwise(items))], read)
        rows: list[int] = []
        at = 0
        for before, own in zip([0, *counts[:-1]], counts, strict=True):
            rows += range(at + before, at + before + own)
            at += before + own
        return replace(right, scores=mixed(right.scores, result.scores[rows], self.strength))


class SetTemperatureIgnored(ScoringFault, name="set_temperature_ignored", number=35, seen="sglang 0.5.23, setwise"):
    """A temperature is accepted and not applied in setwise scoring; elsewhere it is applied."""

    async def answer(self, exchange: Exchange) -> Response | None:
        """The answer of temperature 1, to what the server does not refuse."""
        answer, request = await exchange.answer(), exchange.request
        is_one = request.get("score_extraction_token") is not None and request.get("temperature") is not None
        if answer is None or answer.status_code != 200 or not is_one:
            return answer
        return await exchange.answer({**request, "temperature": None})


class SetLogprobsEmpty(ScoringFault, name="set_logprobs_empty", number=35, seen="sglang 0.5.23, setwise"):
    """Token log-probabilities that were asked for in setwise scoring are an empty list; elsewhere they are there."""

    async def answer(self, exchange: Exchange) -> Response | None:
        """Of requests with an extraction token."""
        answer = await exchange.answer()
        if exchange.request.get("score_extraction_token") is None:
            return answer
        return edited(
            answer, lambda body: encoded({**body, "token_logprobs": []}) if body.get("token_logprobs") else None
        )
