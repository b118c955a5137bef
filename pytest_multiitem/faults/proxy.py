"""A reverse proxy with faults of the wire: it makes any scoring server behind it a faulty one.

Run as ``multiitem proxy …`` or ``python -m pytest_multiitem.faults.proxy …``.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from pytest_multiitem.errors import UsageError
from pytest_multiitem.faults.active import ActiveFaults
from pytest_multiitem.faults.base import AsgiApp, WireFault
from pytest_multiitem.faults.catalogue import catalogue
from pytest_multiitem.faults.wire import answer_of, refusal
from pytest_multiitem.scoring.wire.errors import WireError
from pytest_multiitem.transport.address import Address
from pytest_multiitem.transport.listening import bind, listen, until_signal, while_connected
from pytest_multiitem.untrusted.secrets import without_credentials

_PROG = "multiitem proxy"

#: Seconds that running requests get to end, after SIGTERM or SIGINT.
_GRACE_S = 1
#: Seconds to connect to the server behind; an answer may take as long as the client waits.
_CONNECT_S = 10.0
#: Seconds an idle connection is kept: fewer than servers do (uvicorn: 5), so that none is used while it is closed.
_IDLE_S = 2.0

#: Headers of one connection, not of what it carries; `expect` is settled by the time a body is here.
_HOP_BY_HOP = frozenset(
    {
        b"connection", b"expect", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection",
        b"te", b"trailer", b"transfer-encoding", b"upgrade",
    }
)  # fmt: skip

#: The path prefix, with ``--each``, of the server as it is.
_HEALTHY = "healthy"


class Forward:
    """An ASGI application that has every request answered by the server at ``upstream``.

    ``upstream``: an address, with or without a path prefix. Bodies go through as they are, compressed ones too. A
    server that gives no answer is a 502; where the client goes away, so does the request to the server.
    """

    def __init__(self, http: httpx.AsyncClient, upstream: str) -> None:
        self._http = http
        self._upstream = httpx.URL(Address(upstream))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise ValueError(f"a proxy of HTTP was asked for {scope['type']}")
        try:
            body = await Request(scope, receive).body()
            answer = await while_connected(asyncio.create_task(self._answer(scope, body)), receive)
        except ClientDisconnect:
            return
        await answer(scope, receive, send)

    async def _answer(self, scope: Any, body: bytes) -> Response:
        path = self._upstream.raw_path.rstrip(b"/") + scope["raw_path"].partition(b"?")[0]
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        headers = _end_to_end(scope["headers"], b"host", b"content-length")
        request = httpx.Request(
            scope["method"], self._upstream.copy_with(raw_path=path + query), headers=headers, content=body
        )
        try:
            response = await self._http.send(request, stream=True)
            try:
                content = b"".join([chunk async for chunk in response.aiter_raw()])
            finally:
                await response.aclose()
        except httpx.HTTPError as error:
            what = f"the server behind this proxy, {self._upstream}, gave no answer: {error!r}"
            return refusal(WireError(502, "bad_gateway", what))
        return answer_of(response.status_code, _end_to_end(response.headers.raw), content)


class Each:
    """Every fault under a path prefix of its own, ``/LABEL/…``; ``/healthy/…`` is ``app`` as it is.

    ``only``: the labels that are served; none: all faults of the wire, at any strength. A fault's state, if any, begins
    with the first request under its prefix.
    """

    def __init__(self, app: AsgiApp, only: Sequence[str] = ()) -> None:
        self._healthy = app
        self._only = frozenset(only)
        self._apps: dict[str, AsgiApp] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        _, label, path = f"{scope['path']}/".split("/", 2)
        _, _, raw_path = (scope["raw_path"] + b"/").split(b"/", 2)
        try:
            app = self._below(label)
        except UsageError as error:
            await refusal(WireError(404, "not_found", str(error)))(scope, receive, send)
            return
        # One slash was added at the end, in case that the label is all there is.
        await app({**scope, "path": f"/{path}"[:-1] or "/", "raw_path": (b"/" + raw_path)[:-1] or b"/"}, receive, send)

    def _below(self, label: str) -> AsgiApp:
        """What is served under a prefix. Raises UsageError for one that is no fault of the wire, or is not served."""
        if label == _HEALTHY:
            return self._healthy
        faults = wire_faults([label])
        label = faults.labels[0]
        if self._only and label not in self._only:
            served = ", ".join(sorted(self._only))
            raise UsageError(f"this proxy serves no /{label}; expected one of {served}, {_HEALTHY}")
        if label not in self._apps:
            self._apps[label] = faults.before(self._healthy)
        return self._apps[label]


def wire_faults(texts: Sequence[str]) -> ActiveFaults:
    """The faults of the wire that a user names. Raises UsageError for one that is none."""
    active = ActiveFaults.parse(texts)
    inside = [fault.label for fault in active.faults if not isinstance(fault, WireFault)]
    if inside:
        known = ", ".join(name for name, kind in catalogue().items() if issubclass(kind, WireFault))
        raise UsageError(
            f"{inside[0]} is a fault inside the engine, and a proxy stands before one; use multiitem serve "
            f"--fault {inside[0]}, or a fault of the wire: {known}"
        )
    return active


def proxy(argv: Sequence[str]) -> int:
    """Parse ``argv``, then forward until SIGTERM or SIGINT; the exit code (`transport.listening.until_signal`)."""
    parser = argparse.ArgumentParser(prog=_PROG, description=__doc__, allow_abbrev=False)
    parser.add_argument("--upstream", required=True, metavar="URL", help="the server behind the proxy")
    parser.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="NAME[=STRENGTH]",
        help="a fault of the wire (multiitem faults lists them); may be given several times",
    )
    parser.add_argument(
        "--each",
        action="store_true",
        help="each fault alone, under its own path prefix /NAME[=STRENGTH]; without --fault, every fault of the wire",
    )
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address (default: %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="0: any free one (default: %(default)s)")
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    return until_signal(_PROG, lambda: _run(parser.parse_args(argv)))


def _run(arguments: argparse.Namespace) -> int:
    try:
        upstream = Address(arguments.upstream)
    except ValueError as error:
        raise UsageError(f"--upstream is {without_credentials(arguments.upstream)!r}: {error}") from None
    faults = wire_faults(arguments.fault)
    labels = ", ".join(faults.labels) or ("every fault of the wire" if arguments.each else "no fault")
    with bind(arguments.host, arguments.port, who="the proxy") as listener:
        host, port = listener.getsockname()[:2]
        listen(listener, arguments.host, port)
        address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        each = "each of " if arguments.each else ""
        sys.stdout.write(f"{_PROG}: {address} in front of {upstream} with {each}{labels}\n")
        sys.stdout.flush()
        asyncio.run(
            _serve(listener, upstream, lambda app: Each(app, faults.labels) if arguments.each else faults.before(app))
        )
    return 0


async def _serve(listener: socket.socket, upstream: Address, with_faults: Callable[[AsgiApp], AsgiApp]) -> None:
    timeout = httpx.Timeout(None, connect=_CONNECT_S)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=_IDLE_S)
    login = None if upstream.login is None else httpx.BasicAuth(*upstream.login)
    async with httpx.AsyncClient(timeout=timeout, limits=limits, auth=login, trust_env=False) as http:
        config = uvicorn.Config(
            with_faults(Forward(http, upstream)),
            log_config=None,
            log_level="warning",
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,  # those of the server behind are handed on
            date_header=False,
            timeout_graceful_shutdown=2 * _GRACE_S,
        )
        await _Server(config).serve(sockets=[listener])


class _Server(uvicorn.Server):
    """Hangs up on requests that do not end in time; cancelled, as uvicorn does it, each would get a 500."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server.shutdown`."""
        asyncio.get_running_loop().call_later(_GRACE_S, self._hang_up)
        await super().shutdown(sockets)

    def _hang_up(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def _end_to_end(headers: Sequence[tuple[bytes, bytes]], *dropped: bytes) -> list[tuple[bytes, bytes]]:
    """The headers that are handed on."""
    named = [value for name, value in headers if name.lower() == b"connection"]
    own = {name.strip().lower() for value in named for name in value.split(b",")}
    return [(name, value) for name, value in headers if name.lower() not in {*_HOP_BY_HOP, *own, *dropped}]


if __name__ == "__main__":
    sys.exit(proxy(sys.argv[1:]))
