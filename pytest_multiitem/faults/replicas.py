"""Faults of some answers only: those of one replica behind an address, one in a server's life, or planted ones."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import msgspec
import numpy as np
from starlette.responses import Response
from typing_extensions import override

from pytest_multiitem.errors import UsageError
from pytest_multiitem.faults.base import WHOLE, Fault
from pytest_multiitem.faults.wire import Exchange, JsonObject, Rows, ScoringFault, items_of, rescored, wants_softmax
from pytest_multiitem.scoring.layout import packed_length

#: By how much a planted score is off, at least and at most.
_LEAST, _MOST = 0.025, 0.3


class Connections:
    """Numbers the connections that scoring requests come over, from 1 on, as each is first seen."""

    def __init__(self) -> None:
        self._numbers: dict[Any, int] = {}

    def number(self, scope: Any) -> int:
        """The number of the connection of an ASGI scope: that of the client's address and port."""
        client = tuple(scope.get("client") or ())
        return self._numbers.setdefault(client, len(self._numbers) + 1)


class SomeAnswers(ScoringFault):
    """Some of the answers are wrong in all their rows: those of another replica, whose order of items is not this
    one's."""

    def is_wrong(self, exchange: Exchange) -> bool:
        """Whether the answer to a request is; called once for each scoring request, as it comes."""
        raise NotImplementedError

    async def answer(self, exchange: Exchange) -> Response | None:
        wrong = self.is_wrong(exchange)
        answer = await exchange.answer()
        return rescored(answer, lambda rows: misplaced(exchange.request, rows)) if wrong else answer


class ReplicaConnection(
    SomeAnswers, name="replica_connection", number=30, strengths=(3, 2, 4), accepts=WHOLE, thresholds=True
):
    """One of several replicas is wrong, and each connection is one replica's: of as many new connections as there are
    replicas, the last one's answers are the scores of other items.

    A run's look whether the server is ready is a connection, and its requests go over the next: with two replicas all
    of them are wrong, with more those of later connections.
    """

    seen = "tt-xla #5892"
    unit = "replicas"

    def begin(self) -> None:
        """Connections are counted for each server."""
        self._connections = Connections()

    def is_wrong(self, exchange: Exchange) -> bool:
        return self._connections.number(exchange.scope) % self.count == 0


class ReplicaRequest(
    SomeAnswers, name="replica_request", over_time=True, number=30, strengths=(7, 50), accepts=WHOLE, thresholds=True
):
    """One of several replicas is wrong, and requests go to each in turn: every so many scoring requests the answer is
    the scores of other items."""

    seen = "tt-xla #5892"
    unit = "replicas"

    def begin(self) -> None:
        """Scoring requests are counted as they come."""
        self._seen = 0

    def is_wrong(self, exchange: Exchange) -> bool:
        self._seen += 1
        return self._seen % self.count == 0


class WrongOnce(
    ScoringFault, name="wrong_once", over_time=True, number=40, strengths=(30, 5, 100), accepts=WHOLE, thresholds=True
):
    """Exactly one answer in the server's life is wrong: two rows of it are swapped, or, where no two differ, one is
    replaced. A rerun sees nothing of it."""

    seen = "pytest-rerunfailures #350: a verdict that a rerun launders"
    unit = "the answer with scores that is wrong"

    def begin(self) -> None:
        """Answers with scores are counted as they are given."""
        self._answered = 0

    async def answer(self, exchange: Exchange) -> Response | None:
        """The first and the last of the rows are swapped that are furthest apart."""
        answer = await exchange.answer()
        if answer is None or answer.status_code != 200:
            return answer
        self._answered += 1
        if self._answered != self.count:
            return answer
        return rescored(answer, lambda rows: swapped(exchange.request, rows))


@dataclass(frozen=True)
class Condition:
    """When a row is wrong. ``kind``: a key of `CONDITIONS`; ``last``: the second number, of a range."""

    kind: str
    number: int
    last: int | None = None

    @classmethod
    def parse(cls, text: str) -> Condition:
        """What a user typed. Raises ValueError."""
        found = re.fullmatch(r"([a-z_]+):(\d+)(?:-(\d+))?", text)
        if found is None or found[1] not in CONDITIONS or (found[3] is not None and found[1] != "label"):
            raise ValueError(text)
        condition = cls(found[1], int(found[2]), None if found[3] is None else int(found[3]))
        if condition.number < CONDITIONS[condition.kind] or (condition.last or condition.number) < condition.number:
            raise ValueError(text)
        return condition

    def __str__(self) -> str:
        return f"{self.kind}:{self.number}" + ("" if self.last is None else f"-{self.last}")


#: The conditions of a wrong row, and the least number of each.
CONDITIONS = {
    "item": 0, "length": 0, "min_tokens": 1, "min_items": 1, "label": 0, "connection": 1, "every": 1, "from": 1,
    "until": 1, "once": 1, "load": 1,
}  # fmt: skip


class WrongRow(ScoringFault, name="wrong_row", planned=False):
    """One row of an answer is wrong, by 0.025 to 0.3 in one label, where a condition holds: item:I (the one with index
    I), length:L (one of L tokens), min_tokens:S and min_items:N (of the packed request), label:A or label:A-B (the
    label with such an id), connection:K (every K-th new one), every:N, from:N, until:N and once:N (of the scoring
    requests, counted as they come), load:K (a request that comes while K-1 others are in flight).

    Which row, which label and how far off follow from the request alone: the same one again is as wrong again. A row
    of a softmax still sums to 1; a single label's softmax has nothing to move, and stays. Of texts, a length is that
    in characters.
    """

    seen = "planted: what a judge that leaves some scores unjudged lets through"
    condition: Condition = Condition("every", 1)

    @property
    @override
    def label(self) -> str:
        return f"{self.name}={self.condition}"

    @classmethod
    @override
    def parse(cls, text: str | None) -> Fault:
        """The fault under a condition. Raises UsageError."""
        fault = cls()
        if text is not None:
            try:
                fault.condition = Condition.parse(text)
            except ValueError:
                known = ", ".join(CONDITIONS)
                raise UsageError(
                    f"fault {cls.name}: {text!r} is no condition; expected NAME:NUMBER, or label:FIRST-LAST, with one "
                    f"of the names {known}, such as item:57 or once:63"
                ) from None
        return fault

    def begin(self) -> None:
        """Requests and connections are counted as they come."""
        self._seen = 0
        self._in_flight = 0
        self._connections = Connections()

    async def answer(self, exchange: Exchange) -> Response | None:
        self._seen += 1
        self._in_flight += 1
        try:
            at = self._places(exchange)
            answer = await exchange.answer()
        finally:
            self._in_flight -= 1
        if at is None:
            return answer

        def planted(rows: Rows) -> Rows:
            chosen = [index for index in at[0] if index < len(rows)]
            columns = [column for column in at[1] if column < rows.shape[1]]
            return wrong(exchange.request, rows, chosen, columns, str(self.condition)) if chosen and columns else rows

        return rescored(answer, planted)

    def _places(self, exchange: Exchange) -> tuple[list[int], list[int]] | None:
        """The rows and the columns one of which is to be wrong; None where the condition does not hold."""
        kind, number = self.condition.kind, self.condition.number
        items, labels = items_of(exchange.request), exchange.request["label_token_ids"]
        rows, columns = list(range(len(items))), list(range(len(labels)))
        match kind:
            case "item":
                rows = rows[number : number + 1]
            case "length":
                rows = [index for index in rows if len(items[index]) == number]
            case "label":
                last = self.condition.last or number
                columns = [at for at, label in enumerate(labels) if type(label) is int and number <= label <= last]
        holds = {
            "min_tokens": lambda: packed_length(len(exchange.request["query"]), list(map(len, items))) >= number,
            "min_items": lambda: len(items) >= number,
            "connection": lambda: self._connections.number(exchange.scope) % number == 0,
            "every": lambda: self._seen % number == 0,
            "from": lambda: self._seen >= number,
            "until": lambda: self._seen <= number,
            "once": lambda: self._seen == number,
            "load": lambda: self._in_flight >= number,
        }
        return (rows, columns) if rows and columns and holds.get(kind, lambda: True)() else None


def misplaced(request: JsonObject, rows: Rows) -> Rows:
    """Each item's scores [N, K] are those of the item after it; where that changes nothing, one row is wrong."""
    other = np.roll(rows, -1, axis=0)
    return other if np.abs(other - rows).max() >= _LEAST * rows.max() else anywhere_wrong(request, rows)


def anywhere_wrong(request: JsonObject, rows: Rows) -> Rows:
    """Scores [N, K] of which one is off."""
    return wrong(request, rows, range(len(rows)), range(rows.shape[1]), "")


def swapped(request: JsonObject, rows: Rows) -> Rows:
    """Two rows of [N, K] have changed places, those furthest apart in the first label; where all are alike, one row is
    wrong."""
    low, high = int(rows[:, 0].argmin()), int(rows[:, 0].argmax())
    if rows[high, 0] - rows[low, 0] < _LEAST * rows.max():
        return anywhere_wrong(request, rows)
    other = rows.copy()
    other[[low, high]] = rows[[high, low]]
    return other


def wrong(request: JsonObject, rows: Rows, chosen: Sequence[int], columns: Sequence[int], salt: str) -> Rows:
    """Scores [N, K] of which one of the ``chosen`` rows is off in one of the ``columns``, by 0.025 to 0.3.

    Drawn from the request and ``salt``. The other labels of a softmax share what is left of its sum, in their old
    proportions; over one label it stays as it is.
    """
    if wants_softmax(request) and rows.shape[1] == 1:
        return rows
    named = [request.get(name) for name in ("query", "items", "label_token_ids", "apply_softmax")]
    digest = blake2b(salt.encode() + msgspec.json.encode(named), digest_size=8).digest()
    draw = np.random.default_rng(int.from_bytes(digest, "big"))
    at, column = int(draw.choice(chosen)), int(draw.choice(columns))
    shift, other = float(draw.uniform(_LEAST, _MOST)), rows.copy()
    value, total = rows[at, column], rows[at].sum()
    if not wants_softmax(request):
        other[at, column] = value + shift if total + shift <= 1 else max(0.0, value - shift)
        return other
    moved = value + shift if value < total / 2 else value - shift
    left, rest = total - value, total - moved
    other[at] = rows[at] * (rest / left) if left > 0 else rest / (rows.shape[1] - 1)
    other[at, column] = moved
    return other
