"""What an answer may take: one time limit from the first byte that is sent to the last that comes, and so many bytes.

httpx limits the time between two bytes, and nothing else: a server that drips, that never ends, or whose answer unpacks
to a thousand times its size keeps such a client for ever, or fills its memory. The transports here read the whole
answer within the limits, before httpx sees any of it, and hand on its status, its body, and the seconds after which a
busy server wants to be asked again: no header of a server chooses a decoder, a character set, a cookie or an address.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from ssl import SSLContext
from typing import Any, Final

import httpcore
import httpx

#: Bytes of an answer of which nothing else is known.
ANSWER_BYTES: Final = 1024 * 1024
#: Bytes of an answer of another status than 200 that are read; of what is longer, the beginning.
_ERROR_BYTES: Final = 64 * 1024
#: The request's extension that says how many bytes its answer may have.
ANSWER_LIMIT: Final = "pytest_multiitem.answer_bytes"
#: Bytes on the wire for each byte of an answer, at most, and beside it: chunks, headers, informational answers.
_WIRE_SHARE, _WIRE_BYTES = 4, 1024 * 1024
#: Seconds that a connection may take, of the whole.
_CONNECT: Final = 10.0
#: Seconds for which an unused connection is kept: less than the 5 after which uvicorn closes it, perhaps just as a
#: request is sent on it.
KEPT: Final = 4.0
_WRITTEN_AT_ONCE: Final = 256 * 1024
#: The header that says when to ask again; digits are handed on, and nothing else that may stand in it.
_AFTER, _AFTER_DIGITS = b"retry-after", 9
_WINDOW_BITS: Final = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}


class OversizedAnswer(httpx.RemoteProtocolError):
    """An answer has more bytes than any that the request allows."""


class ForeignEncoding(httpx.DecodingError):
    """An answer is encoded in a way that was not asked for and is not known."""


class BoundedTransport(httpx.BaseTransport):
    """Connections for one client, which sends one request at a time. A request's read timeout is for the whole."""

    def __init__(self, verify: SSLContext | None) -> None:
        self._wire = _Wire()
        self._pool = httpcore.ConnectionPool(ssl_context=verify, network_backend=self._wire, keepalive_expiry=KEPT)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """The answer, whole. Raises httpx.TransportError."""
        assert isinstance(request.stream, httpx.SyncByteStream)
        body = _Body(request)
        timeout = _timeout_of(request)
        self._wire.begin(timeout, body.limit)
        url = request.url
        with _named_by_httpx(timeout):
            answer = self._answer(
                httpcore.Request(
                    request.method,
                    httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                    headers=request.headers.raw,
                    content=request.stream,
                    extensions=request.extensions,
                )
            )
            try:
                if not self._wire.has_read:  # it came with the answer before
                    raise httpx.RemoteProtocolError("the answer was there before the request was sent")
                assert isinstance(answer.stream, Iterable)
                for chunk in answer.stream:
                    body.add(chunk)
                    self._wire.left()
                    if body.is_enough(answer.status):
                        break
            finally:
                answer.close()
        return _response(answer.status, body, answer.headers, answer.extensions)

    def _answer(self, request: httpcore.Request) -> httpcore.Response:
        """The answer as it begins.

        A server may close a kept connection at any moment, also while the next request is under way (RFC 9112, 9.3.1).
        Where nothing has come back on one, the request is sent once more, on a new connection: a server is the same
        after two of it as after one.
        """
        try:
            return self._pool.handle_request(request)
        except (httpcore.NetworkError, httpcore.RemoteProtocolError):
            if self._wire.has_connected or self._wire.has_read:
                raise
            return self._pool.handle_request(request)

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()


class AsyncBoundedTransport(httpx.AsyncBaseTransport):
    """Connections for one client whose requests may overlap."""

    def __init__(self, verify: SSLContext | None, limits: httpx.Limits) -> None:
        self._http = httpx.AsyncHTTPTransport(verify=verify or False, limits=limits, trust_env=False)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The answer, whole. Raises httpx.TransportError."""
        body, timeout = _Body(request), _timeout_of(request)
        try:
            async with asyncio.timeout(timeout):
                answer = await self._http.handle_async_request(request)
                assert isinstance(answer.stream, httpx.AsyncByteStream)
                try:
                    async for chunk in answer.stream:
                        body.add(chunk)
                        if body.is_enough(answer.status_code):
                            break
                finally:
                    await answer.stream.aclose()
        except TimeoutError:
            raise httpx.ReadTimeout(_late(timeout)) from None
        return _response(answer.status_code, body, answer.headers.raw, answer.extensions)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()


class _Body:
    """The bytes of an answer as they come."""

    def __init__(self, request: httpx.Request) -> None:
        self.limit: int = request.extensions.get(ANSWER_LIMIT, ANSWER_BYTES)
        self._first = b""
        self._bytes: bytearray | None = None

    def add(self, chunk: bytes) -> None:
        """Raises OversizedAnswer."""
        if self._bytes is None:
            if not self._first:
                self._first = chunk
                self._check(len(chunk))
                return
            self._bytes = bytearray(self._first)
        self._bytes += chunk
        self._check(len(self._bytes))

    def is_enough(self, status: int) -> bool:
        """Whether an answer that is an error has told what a message can quote; what follows is not read."""
        return status != 200 and len(self._bytes or self._first) >= _ERROR_BYTES

    def decoded(self, encodings: Iterable[bytes]) -> bytes:
        """The whole, unpacked where the server packed it unasked. Raises OversizedAnswer and ForeignEncoding."""
        content = self._first if self._bytes is None else bytes(self._bytes)
        for encoding in encodings:
            if encoding not in _WINDOW_BITS:
                raise ForeignEncoding(f"the answer's content-encoding is {encoding[:40]!r}, which was not asked for")
            content = self._unpacked(content, _WINDOW_BITS[encoding])
        return content

    def _unpacked(self, content: bytes, window_bits: int) -> bytes:
        unpacker = zlib.decompressobj(window_bits)
        try:
            unpacked = unpacker.decompress(content, self.limit + 1)
        except zlib.error as error:
            raise ForeignEncoding(f"the answer cannot be unpacked: {error}") from None
        self._check(len(unpacked))
        if not unpacker.eof:
            raise ForeignEncoding("the answer cannot be unpacked: it ends early")
        return unpacked

    def _check(self, size: int) -> None:
        if size > self.limit:
            raise OversizedAnswer(f"the answer has more than {self.limit} bytes, the most that this request allows")


def _response(status: int, body: _Body, headers: Iterable[tuple[bytes, bytes]], extensions: Any) -> httpx.Response:
    """The status and the body of an answer, and of its headers only in how many seconds to ask again."""
    headers = [(name.lower(), value) for name, value in headers]
    codings = [value for name, value in headers if name == b"content-encoding"]
    after = [(name, value) for name, value in headers if name == _AFTER and _is_short_number(value)]
    names = [word.strip().lower() for value in codings for word in value.split(b",")]
    packed = [name for name in reversed(names) if name not in (b"", b"identity")]
    try:
        content = body.decoded(packed)
    except (OversizedAnswer, ForeignEncoding):
        if status == 200:
            raise
        content = b""  # the status says enough
    return httpx.Response(status, headers=after[:1], content=content, extensions=extensions)


def _is_short_number(value: bytes) -> bool:
    return value.isdigit() and len(value) <= _AFTER_DIGITS


def _timeout_of(request: httpx.Request) -> float:
    timeout: float = request.extensions["timeout"]["read"]
    return timeout


def _late(timeout: float) -> str:
    return f"no whole answer within {timeout:g} s"


@contextmanager
def _named_by_httpx(timeout: float) -> Iterator[None]:
    """httpcore's exceptions under the names that httpx has for them."""
    try:
        yield
    except (_Late, httpcore.ReadTimeout, httpcore.WriteTimeout):
        raise httpx.ReadTimeout(_late(timeout)) from None
    except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError) as error:
        raise getattr(httpx, type(error).__name__)(str(error)) from error


class _Late(Exception):
    """The time of a request is over."""


class _Wire(httpcore.NetworkBackend):
    """The network as one client's requests see it, each within its limits."""

    def __init__(self) -> None:
        self._network = httpcore.SyncBackend()
        self._end = 0.0
        self._bytes_left = 0
        self.has_connected = self.has_read = False

    def begin(self, timeout: float, answer_bytes: int) -> None:
        """A request is about to be sent."""
        self._end = time.monotonic() + timeout
        self._bytes_left = _WIRE_SHARE * answer_bytes + _WIRE_BYTES
        self.has_connected = self.has_read = False

    def left(self, most: float | None = None) -> float:
        """Seconds that are left. Raises _Late where none are."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise _Late
        return left if most is None else min(left, most)

    def received(self, count: int) -> None:
        """Raises OversizedAnswer."""
        self.has_read = self.has_read or count > 0
        self._bytes_left -= count
        if self._bytes_left < 0:
            raise OversizedAnswer("the answer, its headers and its chunks have more bytes than any that is expected")

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """As httpcore's, within the time that is left."""
        self.has_connected = True
        stream = self._network.connect_tcp(host, port, self.left(_CONNECT), local_address, socket_options)
        return _Stream(stream, self)


class _Stream(httpcore.NetworkStream):
    """A connection, of which each step has the time that is left to the request."""

    def __init__(self, stream: httpcore.NetworkStream, wire: _Wire) -> None:
        self._stream, self._wire = stream, wire

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """As httpcore's."""
        data = self._stream.read(max_bytes, self._wire.left())
        self._wire.received(len(data))
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """As httpcore's; in parts, each of which has the time that is left."""
        for start in range(0, len(buffer), _WRITTEN_AT_ONCE):
            self._stream.write(buffer[start : start + _WRITTEN_AT_ONCE], self._wire.left())

    def close(self) -> None:
        """As httpcore's."""
        self._stream.close()

    def start_tls(
        self, ssl_context: SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        """As httpcore's."""
        secured = self._stream.start_tls(ssl_context, server_hostname, self._wire.left(_CONNECT))
        return _Stream(secured, self._wire)

    def get_extra_info(self, info: str) -> Any:
        """As httpcore's."""
        return self._stream.get_extra_info(info)
