"""A scoring server that computes nothing: what a request to it takes is the harness's own time, and the wire's.

``python -m pytest_multiitem.bench.null_server --items 500 --labels 2``

Every ``POST /v1/score`` gets the same answer, encoded ahead, of the shape named on the command line. Request
bodies are counted and thrown away: to parse thousands of token ids takes longer than all the rest of the exchange.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import Final, cast

import msgspec
import numpy as np

from pytest_multiitem.errors import UsageError
from pytest_multiitem.scoring.wire.errors import ErrorBody, ErrorDetail
from pytest_multiitem.scoring.wire.score import ScoreResponse, encode_score_response
from pytest_multiitem.servers.ports import HOST

_BACKLOG: Final = 1024
_MAX_HEAD: Final = 64 * 1024
_REQUEST_LINE = re.compile(rb"([A-Z]+) ([^ ?\r\n]+)(?:\?[^ \r\n]*)? HTTP/1\.([01])\r\n")
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,15})[ \t]*\r\n", re.IGNORECASE)
_TRANSFER_ENCODING = re.compile(rb"\r\ntransfer-encoding:", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection:[^\r]*\bclose\b", re.IGNORECASE)
_CONTINUE = re.compile(rb"\r\nexpect:[ \t]*100-continue", re.IGNORECASE)

#: (method, path) → a whole response.
Answers = Mapping[tuple[bytes, bytes], bytes]


def canned_answers(num_items: int, num_labels: int, *, seed: int = 20_260_101) -> Answers:
    """Every response of a null server whose scores are ``num_items`` rows of ``num_labels``.

    Scores are random, so that they are as long as real ones; each row sums to 1. Raises UsageError for no items or
    no labels.
    """
    for flag, count in (("--items", num_items), ("--labels", num_labels)):
        if count < 1:
            raise UsageError(f"{flag} is {count}; expected a whole number of at least 1")
    rows = np.random.default_rng(seed).dirichlet(np.ones(num_labels), num_items)
    health = _response(b"200 OK", b'{"status":"ok"}')
    info = _response(b"200 OK", b'{"engine":"null","num_items":%d,"num_labels":%d}' % (num_items, num_labels))
    return {
        (b"POST", b"/v1/score"): _response(
            b"200 OK", encode_score_response(ScoreResponse(scores=rows.tolist(), model="null"))
        ),
        (b"GET", b"/health"): health,
        (b"GET", b"/health_generate"): health,
        (b"GET", b"/get_server_info"): info,
        (b"GET", b"/server_info"): info,
    }


def _response(status: bytes, body: bytes, *, close: bool = False) -> bytes:
    closing = b"connection: close\r\n" if close else b""
    head = b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%s\r\n"
    return head % (status, len(body), closing) + body


def _refusal(status: bytes, message: str) -> bytes:
    """An error response after which the connection closes."""
    detail = ErrorDetail(message=message, type="invalid_request_error")
    return _response(status, msgspec.json.encode(ErrorBody(error=detail)), close=True)


class NullProtocol(asyncio.Protocol):
    """One connection: HTTP/1.1 with keep-alive and pipelining; request bodies have a Content-Length."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._head = b""  # of a head that has not ended yet
        self._answer: bytes | None = None  # to the request whose body is being read
        self._body_left = 0
        self._close = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)
        # asyncio does this only where the listening socket names its protocol. With Nagle's algorithm, every
        # answer but the first would wait 40 ms for the client's delayed acknowledgement.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        """Take some bytes, of a part of a request or of several requests."""
        while data:
            if self._answer is None:
                data = self._read_head(data)
                if self._answer is None:
                    return
            taken = min(self._body_left, len(data))
            self._body_left -= taken
            data = data[taken:]
            if not self._body_left:
                self._transport.write(self._answer)
                self._answer = None
                if self._close:
                    self._transport.close()
                    return

    def _read_head(self, data: bytes) -> bytes:
        """Take a head, or a part of one; returns the bytes after it."""
        data = self._head + data if self._head else data
        end = data.find(b"\r\n\r\n") + 4
        if end < 4 and len(data) <= _MAX_HEAD:
            self._head = data
            return b""
        self._head = b""
        head, rest = data[:end], data[end:]
        line = _REQUEST_LINE.match(head)
        length = _CONTENT_LENGTH.search(head)
        if end < 4 or line is None:
            self._answer, self._close = _refusal(b"400 Bad Request", "expected an HTTP/1.1 request"), True
        elif _TRANSFER_ENCODING.search(head):
            self._answer, self._close = _refusal(b"411 Length Required", "expected a Content-Length"), True
        else:
            method, path, minor = line.groups()
            self._body_left = int(length.group(1)) if length else 0
            self._close = minor == b"0" or _CLOSE.search(head) is not None
            self._answer = self._answers.get((method, path)) or _response(b"404 Not Found", b"{}")
            if self._body_left and not rest and _CONTINUE.search(head):
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return rest

    def pause_writing(self) -> None:
        """Read nothing further from a client that does not read its answers."""
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """The client reads again."""
        self._transport.resume_reading()


async def serve(listener: socket.socket, answers: Answers, *, ends_with_stdin: bool = False) -> None:
    """Answer on a bound socket until SIGTERM or SIGINT, or until standard input ends, if that is asked for."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if ends_with_stdin:  # held by whoever started this process: it ends when that process does, however it ends
        lifeline = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lifeline), sys.stdin)
        ended = asyncio.create_task(lifeline.read())
        ended.add_done_callback(lambda _: stop.set())
    server = await loop.create_server(lambda: NullProtocol(answers), sock=listener, backlog=_BACKLOG)
    await stop.wait()
    server.close()


def main(argv: Sequence[str]) -> int:
    """Parse ``argv`` and serve; the exit status: 0 after a signal, 2 where it cannot start."""
    parser = argparse.ArgumentParser(prog="null_server", description=__doc__, allow_abbrev=False)
    parser.add_argument("--host", default=HOST, help="(default: %(default)s)")
    parser.add_argument("--port", type=int, default=30099, help="0: any free one (default: %(default)s)")
    parser.add_argument("--items", type=int, default=500, metavar="N", help="rows of an answer (default: %(default)s)")
    parser.add_argument("--labels", type=int, default=2, metavar="K", help="scores a row (default: %(default)s)")
    parser.add_argument("--fd", type=int, metavar="FD", help="an inherited listening socket, instead of host and port")
    parser.add_argument("--until-stdin-ends", action="store_true", help="end with the process that holds the input")
    args = parser.parse_args(argv)
    try:
        answers = canned_answers(args.items, args.labels)
        inherited = None if args.fd is None else socket.socket(fileno=args.fd)
        with inherited or socket.create_server((args.host, args.port), backlog=_BACKLOG) as listener:
            host, port = listener.getsockname()[:2]
            sys.stdout.write(f"null server: http://{host}:{port}\n")
            sys.stdout.flush()
            asyncio.run(serve(listener, answers, ends_with_stdin=args.until_stdin_ends))
    except (UsageError, OSError, OverflowError) as error:
        sys.stderr.write(f"null_server: error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
