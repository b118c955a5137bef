"""Faults of the scores' values: drift, rounding, noise, and values that have nothing to do with the request."""

from __future__ import annotations

from hashlib import blake2b

import msgspec
import numpy as np
from numpy.typing import NDArray
from starlette.responses import Response

from pytest_multiitem.faults.wire import (
    Exchange,
    JsonObject,
    Rows,
    ScoresFault,
    ScoringFault,
    items_of,
    rescored,
    wants_softmax,
)
from pytest_multiitem.scoring.vocabulary import Part

_SEED = 20_260_101
_EVERYWHERE: frozenset[Part] = frozenset({"multi", "other_mask", "extend", "serial"})


class Drift(
    ScoresFault,
    name="drift",
    number=18,
    seen="follows from the design; graded, to measure what the gates can see",
    scope=frozenset({"multi", "other_mask"}),
    strengths=(1e-1, 1.5e-2, 1e-3, 1e-4, 1e-6),
    accepts=(lambda s: 0 < s < 0.5, "a number above 0 and below 0.5"),  # it moves towards 0.5, and stays within 0 and 1
    unit="score",
):
    """Scores of a pair of labels are off by exactly the strength, towards 0.5, always in the same way.

    With softmax or without, and in whichever order the labels stand: what a request says of itself agrees with what
    another one says, so that only a reference shows the fault. Other numbers of labels are scored rightly.
    """

    def scores(self, request: JsonObject, rows: Rows) -> Rows:
        """The share of the lower label id moves; each row keeps its sum."""
        labels, strength = request["label_token_ids"], self.strength or 0.0
        if rows.shape[1] != 2:
            return rows
        total = rows.sum(axis=1)
        low = int(labels[1] < labels[0])
        share = rows[:, low] / total
        moved = np.where(share < 0.5, share + strength, share - strength)
        columns = (moved, 1 - moved) if low == 0 else (1 - moved, moved)
        return np.stack(columns, axis=1) * total[:, None]


class ModelDrift(Drift, name="model_drift", number=0, scope=_EVERYWHERE, strengths=(1e-1,)):
    """The model itself is computed wrongly, packed and serial alike: a build that agrees with itself."""

    seen = "a wrong constant of the model (a norm's epsilon, a rotary base) is the same on every path"


class Rounded(ScoresFault, name="rounded", number=18):
    """Scores have two decimal places."""

    def scores(self, request: JsonObject, rows: Rows) -> Rows:
        return np.round(rows, 2)


class Bf16Softmax(ScoresFault, name="bf16_softmax", number=18):
    """Scores are bfloat16: eight bits of precision, as of a softmax that is computed in it."""

    def scores(self, request: JsonObject, rows: Rows) -> Rows:
        return to_bfloat16(rows)


class Constant(ScoresFault, name="constant", number=19, seen="vLLM #21681", scope=_EVERYWHERE):
    """Every item gets the same scores, whatever the request is."""

    def scores(self, request: JsonObject, rows: Rows) -> Rows:
        """K, K-1, …, 1, as shares of their sum: no two labels alike, and a distribution in any case."""
        shares = np.arange(rows.shape[1], 0, -1, dtype=np.float64)
        return np.tile(shares / shares.sum(), (len(rows), 1))


class Random(ScoresFault, name="random", number=19, seen="vLLM #21681", scope=_EVERYWHERE):
    """Scores are a hash of query, item and label: never the same for two items, always for one, and without meaning."""

    def scores(self, request: JsonObject, rows: Rows) -> Rows:
        """[N, K] within 0 and 1; shares of 1 where the softmax was asked for, else of less."""
        items, labels = items_of(request), request["label_token_ids"]
        drawn = np.empty((len(items), len(labels)))
        query = msgspec.json.encode(request["query"])
        for i, item in enumerate(items):
            content = query + msgspec.json.encode(item)
            for k, label in enumerate(labels):
                digest = blake2b(content + msgspec.json.encode(label), digest_size=8).digest()
                drawn[i, k] = (int.from_bytes(digest, "big") + 1) / (2**64 + 1)
        return drawn / (drawn.sum(axis=1, keepdims=True) if wants_softmax(request) else len(labels))


class Nondeterministic(
    ScoringFault,
    name="nondeterministic",
    number=25,
    seen="sglang /v1/decisions: 0.07 across batch composition",
    scope=frozenset({"multi", "other_mask", "extend"}),
    strengths=(0.07, 1e-3),
    unit="score",
    inconclusive_counts=True,
):
    """Scores move by noise up to the strength, another one for each request, the same request sent again included."""

    def begin(self) -> None:
        """Noise of a generator of its own: servers that are started alike err alike."""
        self._noise = np.random.default_rng(_SEED)

    async def answer(self, exchange: Exchange) -> Response | None:
        """Noise on every score, or on the first of a softmax."""
        strength = self.strength or 0.0

        def moved(rows: Rows) -> Rows:
            noisy = np.clip(rows + self._noise.uniform(-strength, strength, rows.shape), 0, 1)
            return _with_first(rows, noisy[:, 0]) if wants_softmax(exchange.request) else noisy

        return rescored(await exchange.answer(), moved)


def to_bfloat16(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Finite values, rounded to bfloat16 by way of float32, each to nearest, ties to even."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    even = (bits >> np.uint32(16)) & np.uint32(1)
    kept = (bits + np.uint32(0x7FFF) + even) & np.uint32(0xFFFF_0000)
    return kept.view(np.float32).astype(np.float64)


def _with_first(rows: Rows, first: NDArray[np.float64]) -> Rows:
    """``rows`` [N, K] of a softmax with other first scores [N]; the other labels share what that leaves of each row's
    sum, in their old proportions. A softmax over one label has nothing to move."""
    if rows.shape[1] == 1:
        return rows
    moved = rows.copy()
    moved[:, 0] = first
    others = rows[:, 1:].sum(axis=1, keepdims=True)
    left = np.maximum(others + rows[:, :1] - moved[:, :1], 0)
    equal = np.full((len(rows), rows.shape[1] - 1), 1 / (rows.shape[1] - 1))
    moved[:, 1:] = left * np.divide(rows[:, 1:], others, out=equal, where=others > 0)
    return moved
