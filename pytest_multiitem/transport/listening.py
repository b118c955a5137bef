"""How this package's own servers listen: on loopback only, and until a signal."""

from __future__ import annotations

import asyncio
import ipaddress
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any, NoReturn, TypeVar

from starlette.requests import ClientDisconnect

from pytest_multiitem.errors import MultiItemError, UsageError

T = TypeVar("T")


def bind(host: str, port: int, *, who: str = "the embedded engine") -> socket.socket:
    """A socket bound to a loopback address, not yet listening: nobody connects before there is something to serve.

    ``who``: the server, for messages. Raises UsageError for another address, and for a port that cannot be had.
    """
    name = "127.0.0.1" if host == "localhost" else host
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        address = None
    if address is None or not address.is_loopback:
        raise UsageError(
            f"--host is {host!r}; {who} has no access control and listens on loopback only: "
            "expected 127.0.0.1, ::1 or localhost. To reach it from elsewhere, tunnel to it."
        )
    if not 0 <= port <= 65_535:
        raise UsageError(f"--port is {port}; expected 0 (any free one) to 65535")
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    # asyncio switches Nagle's algorithm off only where the protocol is named; with it on, every answer
    # after the first on a kept-alive connection waits 40 ms for the client's delayed acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    _claim(lambda: listener.bind((name, port)), listener, host, port)
    return listener


def listen(listener: socket.socket, host: str, port: int) -> None:
    """Listen; where two servers were bound to the same port, the second one fails only here.

    Raises UsageError.
    """
    _claim(listener.listen, listener, host, port)


def _claim(step: Callable[[], None], listener: socket.socket, host: str, port: int) -> None:
    try:
        step()
    except OSError as error:
        listener.close()
        raise UsageError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; stop what uses the port, or choose "
            "another with --port (0: any free one)"
        ) from error


def until_signal(prog: str, run: Callable[[], int]) -> int:
    """The exit code of a server's command: what ``run`` returns, or 0 where SIGTERM or SIGINT ended it.

    What argparse ends with is that; 2, with a message on standard error, where the server cannot start. uvicorn takes
    the signals over while it runs, and raises them again when it is done.
    """
    previous = {number: signal.signal(number, _stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        return run()
    except _Stopped:
        return 0
    except SystemExit as stop:  # argparse has printed its message, or the help
        return int(stop.code or 0)
    except MultiItemError as error:
        sys.stderr.write(f"{prog}: error: {error}\n")
        return 2
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class _Stopped(BaseException):
    """SIGTERM or SIGINT arrived; like KeyboardInterrupt, no `except Exception` may swallow it."""


def _stop(signum: int, frame: FrameType | None) -> NoReturn:
    raise _Stopped


async def disconnection(receive: Callable[[], Awaitable[Any]]) -> None:
    """Return when an ASGI application's client has gone; the body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def while_connected(work: asyncio.Future[T], receive: Callable[[], Awaitable[Any]]) -> T:
    """The result of work for a client that waits for it. Raises ClientDisconnect as soon as the client goes away."""
    gone = asyncio.create_task(disconnection(receive))
    try:
        waited: set[asyncio.Future[Any]] = {work, gone}
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ClientDisconnect
        return work.result()
    finally:
        gone.cancel()
        work.cancel()
