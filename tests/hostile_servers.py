"""Servers that do to a client whatever HTTP and JSON allow, and more; each listens on 127.0.0.1, in a thread.

A server is hostile on the paths it is told to be, and healthy on the others: it scores by a hash of query and item, the
same packed as serially, so that a run's gates can pass.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

DELIMITER = 151_643
_OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
_CHUNKED = _OK + b"transfer-encoding: chunked\r\n\r\n"
_BLOCK = b"A" * 65_536
_BOMB = 128  # MiB; less than an answer may have, once it is packed


@dataclass
class Asked:
    """A request: its path, its headers and its body as JSON; ``target``: the server's own address."""

    path: str
    headers: Mapping[str, str]
    body: Any
    server: str


#: What a server does next: send bytes, wait some seconds, or be ready for another request. Its end is the connection's.
Piece = bytes | float | None
Hostility = Callable[[Asked], AsyncIterator[Piece]]


def answer(content: bytes, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    """A whole answer."""
    length = b"content-length: %d" % len(content)
    return b"\r\n".join([b"HTTP/1.1 " + status, b"content-type: application/json", length, *headers, b"", content])


async def drips(asked: Asked) -> AsyncIterator[Piece]:
    """A byte of the body now and then."""
    yield _OK + b"content-length: 1000000\r\n\r\n"
    while True:
        yield b" "
        yield 0.05


async def drips_headers(asked: Asked) -> AsyncIterator[Piece]:
    """A byte of the headers now and then."""
    yield b"HTTP/1.1 200 OK\r\nx: "
    while True:
        yield b"a"
        yield 0.05


async def never_ends(asked: Asked) -> AsyncIterator[Piece]:
    """A chunked body without an end, as fast as it is read."""
    yield _CHUNKED
    while True:
        yield b"%x\r\n%s\r\n" % (len(_BLOCK), _BLOCK)


async def tiny_chunks(asked: Asked) -> AsyncIterator[Piece]:
    """The same in chunks of two bytes, each of which costs more than it holds."""
    yield _CHUNKED
    while True:
        yield b"2\r\n  \r\n" * 8192


async def bomb(asked: Asked) -> AsyncIterator[Piece]:
    """A small body that unpacks to more than a hundred megabytes, although nothing packed was asked for."""
    yield answer(_bomb(), b"content-encoding: gzip")


async def bomb_in_bomb(asked: Asked) -> AsyncIterator[Piece]:
    """The same, packed twice."""
    yield answer(zlib.compress(_bomb()), b"content-encoding: gzip, deflate")


async def foreign_encoding(asked: Asked) -> AsyncIterator[Piece]:
    """An encoding that needs a library to unpack."""
    yield answer(b"\x1b" + bytes(100), b"content-encoding: br")


async def deep_json(asked: Asked) -> AsyncIterator[Piece]:
    """JSON that nests deeper than any stack."""
    yield answer(b'{"scores": [[0, 1], [0, 1]], "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}")


async def many_values(asked: Asked) -> AsyncIterator[Piece]:
    """A body of ordinary size that is a hundred times as large once it is read."""
    yield answer(b'{"scores": [%s[]]}' % (b"[]," * 85_000 if asked.path == "/v1/score" else b"[]," * 340_000))


async def huge_numbers(asked: Asked) -> AsyncIterator[Piece]:
    """Numbers that no float and hardly an integer holds."""
    yield answer(b'{"scores": [[1e400, 1], [0, %s]], "vocab_size": %s}' % (b"9" * 5000, b"9" * 4000))


async def not_a_number(asked: Asked) -> AsyncIterator[Piece]:
    """What Python's own JSON reader takes for a number."""
    yield answer(b'{"scores": [[NaN, 1], [-Infinity, 1]], "dtype": NaN}')


async def informational(asked: Asked) -> AsyncIterator[Piece]:
    """Interim answers without an end."""
    while True:
        yield b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" * 1000


async def endless_headers(asked: Asked) -> AsyncIterator[Piece]:
    """Headers without an end."""
    yield b"HTTP/1.1 200 OK\r\n"
    while True:
        yield b"x-header: a\r\n" * 1000


async def redirects(asked: Asked) -> AsyncIterator[Piece]:
    """To itself, in a circle; the place holds what it was sent."""
    key = asked.headers.get("authorization", "").encode()
    place = b"location: %s%s?stolen=%s" % (asked.server.encode(), asked.path.encode(), key)
    yield answer(b"", place, b"set-cookie: stolen=" + key, status=b"307 Temporary Redirect")


async def half_open(asked: Asked) -> AsyncIterator[Piece]:
    """Less of a body than it promises, and the connection stays."""
    yield _OK + b'content-length: 500\r\n\r\n{"scores": [[0.5'
    yield 60.0


async def says_too_little(asked: Asked) -> AsyncIterator[Piece]:
    """More of a body than it promises: the rest would be the answer to the next request."""
    whole = answer(b'{"scores": [[0.25, 0.75], [0.5, 0.5]]}')
    yield whole + whole
    yield None


async def scores_twice(asked: Asked) -> AsyncIterator[Piece]:
    """Two answers in one: which one is read depends on the reader."""
    yield answer(b'{"scores": [[0.25, 0.75], [0.5, 0.5]], "sc\\u006fres": [[0.5, 0.5], [0.5, 0.5]]}')


async def foreign_charset(asked: Asked) -> AsyncIterator[Piece]:
    """Characters in an encoding that is none of text."""
    content = zlib.compress(b'{"scores": [[0, 1], [0, 1]]}')
    yield answer(content).replace(b"application/json", b"application/json; charset=zlib_codec")


async def huge_info(asked: Asked) -> AsyncIterator[Piece]:
    """A hundred megabytes of valid JSON."""
    yield _OK + b'content-length: 104857603\r\n\r\n["' + b"a" * (1 << 20)
    for _ in range(99):
        yield b"a" * (1 << 20)
    yield b'a"]'


#: Every hostility by name, with the kinds of failure that a scoring request may end in.
HOSTILE: Mapping[str, tuple[Hostility, set[str]]] = {
    "drips": (drips, {"timeout"}),
    "drips_headers": (drips_headers, {"timeout"}),
    "never_ends": (never_ends, {"bad_response"}),
    "tiny_chunks": (tiny_chunks, {"bad_response", "timeout"}),
    "bomb": (bomb, {"bad_response"}),
    "bomb_in_bomb": (bomb_in_bomb, {"bad_response"}),
    "foreign_encoding": (foreign_encoding, {"bad_response"}),
    "deep_json": (deep_json, {"bad_json"}),
    "many_values": (many_values, {"bad_response"}),
    "huge_numbers": (huge_numbers, {"bad_json", "bad_response"}),
    "not_a_number": (not_a_number, {"bad_json"}),
    "informational": (informational, {"bad_response", "timeout"}),
    "endless_headers": (endless_headers, {"connection"}),
    "redirects": (redirects, {"http_error"}),
    "half_open": (half_open, {"timeout"}),
    "scores_twice": (scores_twice, {"bad_response"}),
    "foreign_charset": (foreign_charset, {"bad_json"}),
    "huge_info": (huge_info, {"bad_response"}),
}


@cache
def _bomb() -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    parts = [packer.compress(bytes(1 << 20)) for _ in range(_BOMB)]
    return b"".join([*parts, packer.flush()])


def scores_of(body: Mapping[str, Any]) -> list[list[float]]:
    """Scores by a hash of query and item: those of a server that neither leaks nor rounds."""
    query = [token for token in body["query"] if token != DELIMITER]
    rows = []
    for item in body["items"]:
        digest = hashlib.sha256(repr((query, item)).encode()).digest()
        logits = np.array([digest[label % 32] + digest[(label // 32) % 32] for label in body["label_token_ids"]]) / 128
        weights = np.exp(logits)
        total = weights.sum() if body.get("apply_softmax", True) else 4 * weights.sum()
        rows.append((weights / total).tolist())
    return rows


@dataclass
class Server:
    """A running server: its address, the heads of the requests it has seen, what it says of itself."""

    url: str
    seen: list[Asked] = field(default_factory=list)


@contextmanager
def served(
    hostile: Mapping[str, Hostility] | None = None,
    *,
    info: Mapping[str, Any] | None = None,
    on: Hostility | None = None,
) -> Iterator[Server]:
    """Run a server: ``hostile`` by path, ``on`` every path where given; ``info``: what it says of itself otherwise."""
    ready, loop = threading.Event(), asyncio.new_event_loop()
    server = Server("")
    tasks: set[asyncio.Task[Any]] = set()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            again = True
            while again:
                asked = await _asked(reader, server.url)
                server.seen.append(asked)
                again = False
                async for piece in (on or (hostile or {}).get(asked.path) or _healthy(info or {}))(asked):
                    if piece is None:
                        again = True
                    elif isinstance(piece, float):
                        await asyncio.sleep(piece)
                    else:
                        writer.write(piece)
                        await writer.drain()
        writer.close()
        tasks.discard(task)

    async def run() -> None:
        listener = await asyncio.start_server(converse, "127.0.0.1", 0)
        server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        ready.set()
        await stop.wait()
        listener.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    _bomb()  # not while a client waits
    stop = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(run(),), daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()


async def _asked(reader: asyncio.StreamReader, server: str) -> Asked:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines) if value}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Asked(first.split()[1], headers, json.loads(body) if body else None, server)


def _healthy(info: Mapping[str, Any]) -> Hostility:
    async def respond(asked: Asked) -> AsyncIterator[Piece]:
        if asked.path == "/v1/score":
            content: Any = {"scores": scores_of(asked.body)}
        elif asked.path == "/get_server_info" and info:
            content = info
        elif asked.path == "/health":
            content = {}
        else:
            yield answer(b"{}", status=b"404 Not Found")
            yield None
            return
        yield answer(json.dumps(content).encode())
        yield None

    return respond
