"""How this package's own servers listen: on loopback unless the user says otherwise, and until a signal."""

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
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def address_of(host: str) -> Address | None:
    """The IP address of a ``--host``; None for a name other than localhost, which is looked up nowhere."""
    try:
        return ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Whether a ``--host`` can be reached from this machine alone."""
    address = address_of(host)
    return address is not None and address.is_loopback


def bind(
    host: str,
    port: int,
    *,
    who: str = "the embedded engine",
    instead: str = "To reach it from elsewhere, tunnel to it",
) -> socket.socket:
    """As `bind_anywhere`, to a loopback address. Raises UsageError for another one; ``instead``: what to do then."""
    if not is_loopback(host):
        raise UsageError(
            f"--host is {host!r}; {who} has no access control and listens on loopback only: "
            f"expected 127.0.0.1, ::1 or localhost. {instead}."
        )
    return bind_anywhere(host, port)


def bind_anywhere(host: str, port: int) -> socket.socket:
    """A socket bound to an address of this machine, not yet listening: nobody connects before there is something to
    serve.

    Raises UsageError for what is no address, and for a port that cannot be had.
    """
    address = address_of(host)
    if address is None:
        raise UsageError(f"--host is {host!r}; expected an IP address of this machine, or localhost")
    if not 0 <= port <= 65_535:
        raise UsageError(f"--port is {port}; expected 0 (any free one) to 65535")
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    # asyncio switches Nagle's algorithm off only where the protocol is named; with it on, every answer
    # after the first on a kept-alive connection waits 40 ms for the client's delayed acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    _claim(lambda: listener.bind((str(address), port)), listener, host, port)
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
