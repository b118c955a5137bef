"""Connections that end: what a client does not send, or does not read, in time is cut off, in the wire's own words.

uvicorn has a time-out for idle connections only. One that opens a connection and sends nothing, half a request, or a
byte now and then would keep it, and what it has sent, for ever.
"""

from __future__ import annotations

import asyncio
import resource
import sys
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from pytest_multiitem.engine.worker import shutting_down
from pytest_multiitem.scoring.wire.errors import WireError


def _most() -> int:
    """2,048, or three quarters of the files that the process may open: a server without any left fails otherwise."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 2048 if files == resource.RLIM_INFINITY else min(2048, files * 3 // 4)


@dataclass(frozen=True, kw_only=True)
class ConnectionLimits:
    """``most``: connections at the same time; further ones are closed at once. The rest in seconds. ``head``: from the
    connection, or the first byte of a further request, to the end of the headers. ``body``: from there to the end of
    the body. ``reading``: that a client may leave an answer unread. ``farewell``: to take the last bytes."""

    most: int = field(default_factory=_most)
    head: float = 10.0
    body: float = 60.0
    reading: float = 30.0
    farewell: float = 2.0


def protocol_with(limits: ConnectionLimits) -> type[asyncio.Protocol]:
    """What uvicorn is to serve connections with."""
    return type("Connection", (_Connection,), {"limits": limits})


class _Connection(H11Protocol):
    """uvicorn's connection, with deadlines, and with refusals in the shape of every other error."""

    limits: ClassVar[ConnectionLimits]

    _phase: tuple[str, float] | None = None
    _deadline: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.limits.most:
            transport.abort()
            return
        self._expect(("request", self.limits.head))

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect(None)
        self._stop_waiting_for_reader()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._expect_what_is_missing()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._expect_what_is_missing()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(self.limits.reading, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop_waiting_for_reader()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        what, _, _ = str(sys.exc_info()[1] or msg).partition(":")  # without the bytes that the client has sent
        self._refuse(WireError(400, "invalid_http", f"the request is no valid HTTP: {what}"))

    def shutdown(self) -> None:
        if self.conn.their_state is h11.SEND_BODY or (self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]):
            self._refuse(shutting_down())
        else:
            super().shutdown()

    def _expect_what_is_missing(self) -> None:
        """Start the clock of what the client has begun to send, and stop that of what it has sent."""
        if self.conn.their_state is h11.SEND_BODY:
            self._expect(("body", self.limits.body))
        elif self.conn.their_state is h11.IDLE and self.timeout_keep_alive_task is None:
            self._expect(("request", self.limits.head))
        else:
            self._expect(None)

    def _expect(self, phase: tuple[str, float] | None) -> None:
        if phase == self._phase:
            return  # the deadline is a total: a byte now and then does not move it
        self._phase = phase
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if phase is None else self.loop.call_later(phase[1], self._expired, *phase)

    def _expired(self, what: str, seconds: float) -> None:
        if what == "request" and not self.conn.trailing_data[0]:
            self.transport.close()  # a client that has asked nothing would take an answer for that to its next request
            return
        message = f"the {what} was not complete after {seconds:g} s; send it in one go"
        self._refuse(WireError(408, "request_timeout", message))

    def _refuse(self, error: WireError) -> None:
        """Answer instead of the application, where no answer has begun, and close the connection."""
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = error.body()
            headers = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
            events = (
                h11.Response(
                    status_code=error.status,
                    headers=[*(headers | error.headers).items()],
                    reason=HTTPStatus(error.status).phrase.encode(),
                ),
                h11.Data(data=body),
                h11.EndOfMessage(),
            )
            for event in events:
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
        self.loop.call_later(self.limits.farewell, self.transport.abort)

    def _stop_waiting_for_reader(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
