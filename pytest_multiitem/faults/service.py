"""Faults of the service: what other requests, long inputs, new shapes and time do to an answer."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

from starlette.responses import Response

from pytest_multiitem.faults.wire import Exchange, JsonObject, ScoringFault, items_of, refusal
from pytest_multiitem.scoring.wire.errors import WireError

#: What a number of requests in flight may be.
TOGETHER = (lambda s: s >= 2 and float(s).is_integer(), "a whole number of at least 2")
#: Of a request that is too long and cut by half each time, more than any length asks for.
_MOST_CUTS = 64
_TOO_LONG = re.compile(r"too long|maximum|at most \d+ .*tokens|context length|exceed", re.IGNORECASE)
#: Refusals in the same words that no shorter input helps against.
_NOT_ITS_LENGTH = re.compile(r"token_id_|too_many_items|vocab", re.IGNORECASE)

#: The exit status of a process that the kernel killed for memory, as a shell tells it.
_KILLED = 137


class SharedBoundaries(ScoringFault, name="shared_boundaries", number=17):
    """A request that comes while another one runs is split into items at the lengths of the other one's items.

    A request that is alone is answered rightly; so is one whose items are texts.
    """

    @property
    def least(self) -> int:
        """In flight together, the request included, from which on it is answered wrongly."""
        return 2

    def begin(self) -> None:
        """Lengths of the requests in flight, in the order of their arrival."""
        self._in_flight: dict[object, list[int]] = {}

    async def answer(self, exchange: Exchange) -> Response | None:
        """Split at the lengths of the first of those in flight."""
        items = items_of(exchange.request)
        if not all(isinstance(item, list) for item in items):
            return await exchange.answer()
        first = next(iter(self._in_flight.values()), None)
        other = first if len(self._in_flight) + 1 >= self.least else None
        ticket = object()
        self._in_flight[ticket] = [len(item) for item in items]
        try:
            if other is None:
                return await exchange.answer()
            return await exchange.answer({**exchange.request, "items": split_at(items, other)})
        finally:
            del self._in_flight[ticket]


class FirstItemTable(
    SharedBoundaries,
    name="first_item_table",
    number=37,
    strengths=(2, 3),
    accepts=TOGETHER,
    thresholds=True,
    seen="planted into sglang",
):
    """From a number of requests in flight together on, a request is split into items at the lengths of the first one's
    items."""

    unit = "requests in flight"

    @property
    def least(self) -> int:
        return self.count


class Busy(
    ScoringFault,
    name="busy",
    number=31,
    strengths=(4, 2, 8, 16, 32),
    thresholds=True,
    circumstances={"effort": "normal"},
    accepts=TOGETHER,
    seen="mlx-lm #965, sglang #4593, vllm #51187",
):
    """From a number of scoring requests in flight at the same time on, answers mix: a request that comes on top of the
    others is scored with the query and the items of one of them, recycled or cut to as many items as it has.

    Where all the others are equal to it, nothing shows.
    """

    unit = "requests in flight"

    def begin(self) -> None:
        """Requests in flight, in the order of their arrival."""
        self._in_flight: dict[object, JsonObject] = {}

    async def answer(self, exchange: Exchange) -> Response | None:
        """The content of the first one in flight that is another; labels and whatever else is asked stay its own."""
        own, ticket = exchange.request, object()
        crowded = len(self._in_flight) + 1 >= self.count
        other = next((each for each in self._in_flight.values() if _content(each) != _content(own)), None)
        self._in_flight[ticket] = own
        try:
            if other is None or not crowded:
                return await exchange.answer()
            answer = await exchange.answer({**own, **_content(other, len(items_of(own)))})
            # What the server refuses shows nothing of the fault: the client's own request is what it is asked then.
            return answer if answer is None or answer.status_code == 200 else await exchange.answer()
        finally:
            del self._in_flight[ticket]


class CoalescedQueries(ScoringFault, name="coalesced_queries", number=36, seen="xinference #5269"):
    """A scoring request that comes while one with as many items and the same labels runs gets that one's answer,
    though its query is another."""

    def begin(self) -> None:
        """What is to be answered to each request in flight, by what requests are told apart by, and its query."""
        self._running: dict[str, tuple[Any, asyncio.Future[Response | None]]] = {}

    async def answer(self, exchange: Exchange) -> Response | None:
        """Where the other one gets no scores, its own."""
        request = exchange.request
        rest = {name: value for name, value in request.items() if name not in ("query", "items")}
        key = repr((sorted(rest.items(), key=lambda each: each[0]), len(items_of(request))))
        running = self._running.get(key)
        if running is not None and running[0] != request["query"]:
            answer = await asyncio.shield(running[1])
            if answer is not None and answer.status_code == 200:
                return answer
            return await exchange.answer()
        promise: asyncio.Future[Response | None] = asyncio.get_running_loop().create_future()
        mine = self._running.setdefault(key, (request["query"], promise))[1] is promise
        answer = None
        try:
            answer = await exchange.answer()
            return answer
        finally:
            if mine:
                del self._running[key]
            promise.set_result(answer)


class Truncates(ScoringFault, name="truncates", number=20, seen="vLLM #34539"):
    """Input that is too long is cut at its end until the server takes it, and answered with status 200."""

    async def answer(self, exchange: Exchange) -> Response | None:
        """Cut the longest of query and items by half, and try again."""
        first = answer = await exchange.answer()
        request = exchange.request
        for _ in range(_MOST_CUTS):
            if answer is None or not is_too_long(answer):
                break
            shorter = cut(request)
            if shorter is None:
                break
            request = shorter
            answer = await exchange.answer(request)
        return answer if answer is None or answer.status_code == 200 else first


class Recompiles(
    ScoringFault,
    name="recompiles",
    number=22,
    seen="sgl-jax: 1.5 to 8 times",
    strengths=(8.0,),
    accepts=(lambda s: 1 < s < float("inf"), "a number above 1"),
    unit="times as long",
    timed=True,
    inconclusive_counts=True,
):
    """The first request of a shape after its warm-up takes the strength times as long, by 50 ms at least.

    A shape is the length of the query and the sorted lengths of the items; its first request is the warm-up.
    """

    _LEAST_S: ClassVar[float] = 0.05

    def begin(self) -> None:
        """Count requests by shape."""
        self._seen: Counter[Any] = Counter()

    async def answer(self, exchange: Exchange) -> Response | None:
        """Wait after the second request of a shape."""
        shape = (len(exchange.request["query"]), *sorted(map(len, items_of(exchange.request))))
        self._seen[shape] += 1
        slow = self._seen[shape] == 2
        start = time.perf_counter()
        answer = await exchange.answer()
        if slow:
            took = time.perf_counter() - start
            await asyncio.sleep(max(self._LEAST_S, took * ((self.strength or 1.0) - 1)))
        return answer


class Dies(ScoringFault, name="dies", number=23, strengths=(3.0,), unit="answered requests", own_process=True):
    """The process ends, as if killed, at the scoring request that follows those it has answered; the strength says
    how many these are."""

    seen = "sglang #9142"
    accepts = (lambda s: s >= 1 and s.is_integer(), "a whole number of at least 1")

    def begin(self) -> None:
        """Count answers."""
        self._answered = 0

    async def answer(self, exchange: Exchange) -> Response | None:
        """No clean-up at the end, as a process that is killed has none."""
        if self._answered >= (self.strength or 0.0):
            os._exit(_KILLED)
        answer = await exchange.answer()
        self._answered += 1
        return answer


class Hangs(ScoringFault, name="hangs", number=23, seen="sglang #9142", circumstances={"request_timeout": 1.0}):
    """The first scoring request is answered, no other one ever; /health still is."""

    def begin(self) -> None:
        """The first request is the one that finds the server ready."""
        self._answered = False

    async def answer(self, exchange: Exchange) -> Response | None:
        """Wait until the client has enough."""
        if not self._answered:
            self._answered = True
            return await exchange.answer()
        await exchange.client_gone()
        return None


class HealthOnly(ScoringFault, name="health_only", number=23, seen="sglang #9142"):
    """/health answers 200, every scoring request 503, from the first one on: such a server never becomes ready."""

    async def answer(self, exchange: Exchange) -> Response | None:
        return refusal(WireError(503, "engine_unavailable", "the server is up, but its engine does not answer"))


def _content(request: JsonObject, count: int | None = None) -> JsonObject:
    """The query and the items of a request; ``count``: recycled or cut to as many items."""
    items = items_of(request)
    if count is not None:
        items = [items[index % len(items)] for index in range(count)]
    return {"query": request["query"], "items": items}


def split_at(items: Sequence[list[Any]], lengths: Sequence[int]) -> list[list[Any]]:
    """The tokens of ``items`` in their order, split again at other lengths, recycled or cut so that as many items
    come out.

    The last item takes what is left, and each item gets a token as long as there is one for each.
    """
    tokens = [token for item in items for token in item]
    split, start = [], 0
    for index in range(len(items) - 1):
        room = len(tokens) - start - (len(items) - 1 - index)
        length = max(min(lengths[index % len(lengths)], room), min(1, max(room, 0)))
        split.append(tokens[start : start + length])
        start += length
    return [*split, tokens[start:]]


def is_too_long(answer: Response) -> bool:
    """Whether an answer refuses a request for its length, by its code or in words that servers have for it."""
    if answer.status_code not in (400, 413, 422):
        return False
    text = bytes(answer.body).decode(errors="replace")
    return "sequence_too_long" in text or bool(_TOO_LONG.search(text) and not _NOT_ITS_LENGTH.search(text))


def cut(request: JsonObject) -> JsonObject | None:
    """The request with the longest of its query and items cut by half; None where nothing is left."""
    query, items = request["query"], items_of(request)
    longest = max(len(query), *map(len, items))
    if longest < 2:
        return None

    def short(content: Any) -> Any:
        return content[: longest // 2] if len(content) == longest else content

    return {**request, "query": short(query), "items": [short(item) for item in items]}
