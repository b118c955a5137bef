"""How a fault of the wire stands before a scoring server: ASGI middleware around ``POST`` to some paths alone.

The middleware takes a request in whole, hands it to the fault, and sends what the fault makes of it. Everything else
goes by untouched, streamed answers too: other paths, bodies that are no request of theirs, answers without scores.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from copy import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec
import numpy as np
from numpy.typing import NDArray
from starlette.datastructures import MutableHeaders
from starlette.responses import Response

from pytest_multiitem.faults.base import AsgiApp, WireFault
from pytest_multiitem.scoring.wire.errors import WireError
from pytest_multiitem.transport.address import SCORE_PATH
from pytest_multiitem.transport.listening import disconnection

JsonObject = dict[str, Any]
Rows = NDArray[np.float64]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]


def answer_of(status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> Response:
    """A whole HTTP answer with just these headers; their names are lower-case."""
    answer = Response(body, status)
    answer.raw_headers = list(headers)
    return answer


def refusal(error: WireError) -> Response:
    """The answer that is an error."""
    return Response(error.body(), error.status, media_type="application/json")


def edited(answer: Response | None, edit: Callable[[JsonObject], bytes | None]) -> Response | None:
    """An answer whose body is what ``edit`` makes of it; None leaves it alone, as is an answer without scores."""
    body = decoded_object(bytes(answer.body)) if answer is not None and answer.status_code == 200 else None
    content = edit(body) if body is not None and "scores" in body else None
    if answer is None or content is None:
        return answer
    return with_body(answer, content)


def with_body(answer: Response, content: bytes) -> Response:
    """An answer with another body."""
    headers = MutableHeaders(raw=list(answer.raw_headers))
    _set_length(headers, content)
    return answer_of(answer.status_code, headers.raw, content)


def rescored(answer: Response | None, change: Callable[[Rows], Rows]) -> Response | None:
    """An answer with other scores [N', K] in the place of its own [N, K]; those that are no matrix are left alone."""

    def edit(body: JsonObject) -> bytes | None:
        rows = matrix(body["scores"])
        return None if rows is None else encoded({**body, "scores": change(rows).tolist()})

    return edited(answer, edit)


@dataclass(frozen=True, eq=False)
class Exchange:
    """One request, and the means to have it answered by ``app``.

    ``scope``, ``received``, ``receive``: the request as ASGI has it; its messages, and what brings further ones.
    ``request``: decoded, and as `PathFault.fits` says.
    """

    app: AsgiApp
    scope: Message
    received: list[Message]
    receive: Receive
    request: JsonObject

    async def answer(self, request: JsonObject | None = None) -> Response | None:
        """What the server behind answers to ``request``, or to the client's own; None where the client has gone."""
        received, headers = self.received, MutableHeaders(raw=list(self.scope["headers"]))
        del headers["accept-encoding"]  # a compressed answer could not be read: the fault would silently not happen
        if request is not None:
            body = msgspec.json.encode(request)
            received = [{"type": "http.request", "body": body, "more_body": False}]
            _set_length(headers, body)
        started: Message | None = None
        chunks: list[bytes] = []

        async def keep(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = message
            elif message["type"] == "http.response.body":
                chunks.append(message.get("body", b""))

        await self.app({**self.scope, "headers": headers.raw}, replayed(received, self.receive), keep)
        if started is None:
            return None
        named = [(name.lower(), value) for name, value in started.get("headers", ())]
        return answer_of(started["status"], named, b"".join(chunks))

    async def client_gone(self) -> None:
        """Return when the client has gone away."""
        await disconnection(self.receive)


class PathFault(WireFault):
    """A fault that shows at some paths alone, in requests that are JSON objects."""

    paths: ClassVar[frozenset[str]]

    def begin(self) -> None:
        """Set the state that one server's fault begins with, where it has any."""

    async def answer(self, exchange: Exchange) -> Response | None:
        """The answer that the client gets, or None for no answer at all."""
        raise NotImplementedError

    def fits(self, request: JsonObject) -> bool:
        """Whether a request is one that the fault can work on."""
        return True

    def wrap(self, app: AsgiApp) -> AsgiApp:
        fault = copy(self)
        fault.begin()

        async def middleware(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in self.paths:
                await app(scope, receive, send)
                return
            received = await whole(receive)
            request = decoded_object(b"".join(message.get("body", b"") for message in received))
            if request is None or not self.fits(request):
                await app(scope, replayed(received, receive), send)
                return
            answer = await fault.answer(Exchange(app, scope, received, receive, request))
            if answer is not None:
                await answer(scope, receive, send)

        return middleware


class ScoringFault(PathFault):
    """A fault that shows at ``POST /v1/score`` alone."""

    paths = frozenset({SCORE_PATH})

    def fits(self, request: JsonObject) -> bool:
        """It has a query, at least one item and labels, of which nothing further is known."""
        query, items, labels = (request.get(name) for name in ("query", "items", "label_token_ids"))
        several = isinstance(items, list) and {type(item) for item in items} in ({str}, {list})
        well_formed = isinstance(query, str | list) and bool(query) and (isinstance(items, str) or several)
        return well_formed and isinstance(labels, list) and bool(labels)


class AnswerFault(ScoringFault):
    """A fault that changes answers with scores, whatever the request was."""

    def changed(self, body: JsonObject) -> bytes | None:
        """The body of the changed answer; None leaves it as it is."""
        raise NotImplementedError

    async def answer(self, exchange: Exchange) -> Response | None:
        return edited(await exchange.answer(), self.changed)


class ScoresFault(ScoringFault):
    """A fault that changes the scores, and leaves the rest of an answer."""

    def scores(self, request: JsonObject, rows: Rows) -> Rows:
        """The changed scores [N', K] of an answer whose scores were ``rows`` [N, K]."""
        raise NotImplementedError

    async def answer(self, exchange: Exchange) -> Response | None:
        return rescored(await exchange.answer(), lambda rows: self.scores(exchange.request, rows))


def encoded(body: JsonObject) -> bytes:
    """A body as JSON; with NaN and Infinity, which JSON has not, as many a server writes them."""
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()


def wants_softmax(request: JsonObject) -> bool:
    """Whether a row is a distribution over the labels."""
    return request.get("apply_softmax") is True


def items_of(request: JsonObject) -> list[Any]:
    """The items: texts, or lists of token ids."""
    items = request["items"]
    return [items] if isinstance(items, str) else list(items)


async def whole(receive: Receive) -> list[Message]:
    """All messages of a request: its body, or what there is of it before the client goes away."""
    received = [await receive()]
    while received[-1].get("more_body"):
        received.append(await receive())
    return received


def replayed(received: list[Message], receive: Receive) -> Receive:
    """``received`` once more, then what comes."""
    waiting = deque(received)

    async def replay() -> Message:
        return waiting.popleft() if waiting else await receive()

    return replay


def _set_length(headers: MutableHeaders, body: bytes) -> None:
    del headers["transfer-encoding"]
    headers["content-length"] = str(len(body))


def decoded_object(body: bytes) -> JsonObject | None:
    """The JSON object of a body; None where it is none."""
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return decoded if isinstance(decoded, dict) else None


def matrix(scores: Any) -> Rows | None:
    """Scores as [N, K]; None for what is no matrix of numbers."""
    try:
        rows = np.asarray(scores, dtype=np.float64)
    except (TypeError, ValueError):
        return None
    return rows if rows.ndim == 2 and rows.size else None
