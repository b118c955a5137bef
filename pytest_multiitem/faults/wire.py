"""How a fault of the wire stands before a scoring server: ASGI middleware around ``POST /v1/score`` alone.

The middleware takes a request in whole, hands it to the fault, and sends what the fault makes of it. Everything else
goes by untouched, streamed answers too: other paths, bodies that are no scoring request, answers without scores.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from pytest_multiitem.faults.base import AsgiApp, WireFault
from pytest_multiitem.scoring.wire import WireError
from pytest_multiitem.transport.client import SCORE_PATH

JsonObject = dict[str, Any]
Rows = NDArray[np.float64]

Headers = Iterable[tuple[bytes, bytes]]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


@dataclass(frozen=True)
class Answer:
    """A whole HTTP answer; names of headers are lower-case."""

    status: int
    headers: Headers
    body: bytes

    @classmethod
    def refusal(cls, error: WireError) -> Answer:
        """The answer that is an error."""
        body = error.body()
        return cls(error.status, _with_length([(b"content-type", b"application/json")], body), body)

    async def send(self, send: Send) -> None:
        """Send it whole."""
        await send({"type": "http.response.start", "status": self.status, "headers": list(self.headers)})
        await send({"type": "http.response.body", "body": self.body})

    def json(self) -> JsonObject | None:
        """The body of a status 200 that is a JSON object; None for any other answer."""
        return _json_object(self.body) if self.status == 200 else None

    def with_body(self, body: bytes) -> Answer:
        """The same answer with another body, and its length."""
        return Answer(self.status, _with_length(self.headers, body), body)


class Exchange:
    """One scoring request, and the means to have it answered.

    ``request``: decoded; it has a query, at least one item and labels, of which nothing further is known.
    """

    def __init__(
        self, app: AsgiApp, scope: Message, received: list[Message], receive: Receive, request: JsonObject
    ) -> None:
        self._app = app
        self._scope = scope
        self._received = received
        self._receive = receive
        self.request = request

    async def answer(self, request: JsonObject | None = None) -> Answer | None:
        """What the server behind answers to ``request``, or to the client's own; None where the client has gone."""
        # A compressed answer could not be read, and the fault would silently not happen.
        received, headers = self._received, _without(self._scope["headers"], b"accept-encoding")
        if request is not None:
            body = msgspec.json.encode(request)
            received = [{"type": "http.request", "body": body, "more_body": False}]
            headers = _with_length(headers, body)
        status: int | None = None
        answered: Headers = ()
        chunks: list[bytes] = []

        async def keep(message: Message) -> None:
            nonlocal status, answered
            if message["type"] == "http.response.start":
                status = message["status"]
                answered = tuple((name.lower(), value) for name, value in message.get("headers", ()))
            elif message["type"] == "http.response.body":
                chunks.append(message.get("body", b""))

        await self._app({**self._scope, "headers": headers}, _replayed(received, self._receive), keep)
        return None if status is None else Answer(status, answered, b"".join(chunks))

    async def client_gone(self) -> None:
        """Return when the client has gone away."""
        while (await self._receive())["type"] != "http.disconnect":
            pass


#: What a fault does with a request: the answer that the client gets, or None for no answer at all.
Handler = Callable[[Exchange], Awaitable[Answer | None]]


class ScoringFault(WireFault):
    """A fault that shows at ``POST /v1/score`` alone."""

    def handler(self) -> Handler:
        """A new handler, with state of its own where the fault has any."""
        raise NotImplementedError

    def wrap(self, app: AsgiApp) -> AsgiApp:
        """See `WireFault.wrap`."""
        return _ScoringMiddleware(app, self.handler())


class AnswerFault(ScoringFault):
    """A fault that changes answers with scores, whatever the request was."""

    def changed(self, request: JsonObject, body: JsonObject) -> bytes | None:
        """The body of the changed answer; None leaves it as it is."""
        raise NotImplementedError

    def handler(self) -> Handler:
        """See `ScoringFault.handler`."""

        async def handle(exchange: Exchange) -> Answer | None:
            answer = await exchange.answer()
            body = answer.json() if answer is not None else None
            if answer is None or body is None or "scores" not in body:
                return answer
            changed = self.changed(exchange.request, body)
            return answer if changed is None else answer.with_body(changed)

        return handle


class ScoresFault(AnswerFault):
    """A fault that changes the scores, and leaves the rest of an answer."""

    def scores(self, request: JsonObject, rows: Rows) -> Rows:
        """The changed scores [N', K] of an answer whose scores were ``rows`` [N, K]."""
        raise NotImplementedError

    def changed(self, request: JsonObject, body: JsonObject) -> bytes | None:
        """See `AnswerFault.changed`; scores that are no matrix are left alone."""
        rows = matrix(body["scores"])
        return None if rows is None else encoded({**body, "scores": self.scores(request, rows).tolist()})


def encoded(body: JsonObject) -> bytes:
    """A body as JSON; with NaN and Infinity, which JSON has not, as many a server writes them."""
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()


def softmax_asked(request: JsonObject) -> bool:
    """Whether a row is a distribution over the labels."""
    return request.get("apply_softmax") is True


def items_of(request: JsonObject) -> list[Any]:
    """The items: texts, or lists of token ids."""
    items = request["items"]
    return [items] if isinstance(items, str) else list(items)


class _ScoringMiddleware:
    def __init__(self, app: AsgiApp, handle: Handler) -> None:
        self._app = app
        self._handle = handle

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or (scope["method"], scope["path"]) != ("POST", SCORE_PATH):
            await self._app(scope, receive, send)
            return
        received = await _whole(receive)
        request = _scoring_request(b"".join(message.get("body", b"") for message in received))
        if request is None:
            await self._app(scope, _replayed(received, receive), send)
            return
        answer = await self._handle(Exchange(self._app, scope, received, receive, request))
        if answer is not None:
            await answer.send(send)


async def _whole(receive: Receive) -> list[Message]:
    """All messages of a request: its body, or what there is of it before the client goes away."""
    received = [await receive()]
    while received[-1].get("more_body"):
        received.append(await receive())
    return received


def _replayed(received: list[Message], receive: Receive) -> Receive:
    """``received`` once more, then what comes."""
    waiting = deque(received)

    async def replay() -> Message:
        return waiting.popleft() if waiting else await receive()

    return replay


def _without(headers: Headers, *names: bytes) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in headers if name not in names]


def _with_length(headers: Headers, body: bytes) -> list[tuple[bytes, bytes]]:
    return [*_without(headers, b"content-length", b"transfer-encoding"), (b"content-length", b"%d" % len(body))]


def _json_object(body: bytes) -> JsonObject | None:
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return decoded if isinstance(decoded, dict) else None


def _scoring_request(body: bytes) -> JsonObject | None:
    """The decoded body where query, items and labels are of a kind that a fault can work on."""
    request = _json_object(body) or {}
    query, items, labels = (request.get(name) for name in ("query", "items", "label_token_ids"))
    several = isinstance(items, list) and {type(item) for item in items} in ({str}, {list})
    well_formed = isinstance(query, str | list) and query and (isinstance(items, str) or several)
    return request if well_formed and isinstance(labels, list) and labels else None


def matrix(scores: Any) -> Rows | None:
    """Scores as [N, K]; None for what is no matrix of numbers."""
    try:
        rows = np.asarray(scores, dtype=np.float64)
    except (TypeError, ValueError):
        return None
    return rows if rows.ndim == 2 and rows.size else None
