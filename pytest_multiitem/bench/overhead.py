"""The harness's own time: what a request takes that nobody computes anything for.

Against a null server, the harness's timed call stands beside the same bytes over a bare socket, which is the least
that any client can take, and beside a plain ``requests.post(json=…)``, which encodes inside the clock.
"""

from __future__ import annotations

import importlib
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from typing import Any, Final

import httpx
import msgspec

from pytest_multiitem.bench.statistics import difference_interval, p50, percentiles, ratio_interval
from pytest_multiitem.servers.ports import HOST
from pytest_multiitem.transport.address import SCORE_PATH
from pytest_multiitem.transport.client import FailureKind, PreparedRequest, ScoreClient, ScoreFailure, read_scores

#: Calls of one kind in a row, as in a run of many requests; then the next kind has its turn.
BLOCK: Final = 10
_TIMEOUT: Final = 30.0  # seconds
_STOP_GRACE: Final = 5.0  # seconds between SIGTERM and SIGKILL
_RECEIVED_AT_ONCE: Final = 256 * 1024  # bytes
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)\r\n", re.IGNORECASE)
_NO_PROXY: Final = {"http": "", "https": ""}  # else the environment's would be asked for 127.0.0.1


@contextmanager
def null_server(num_items: int, num_labels: int = 2) -> Iterator[str]:
    """Run a null server for answers [``num_items``, ``num_labels``] in a process of its own; gives its URL.

    The process ends with the block, and with this process, however that ends. Raises ScoreFailure where it does
    not start.
    """
    with socket.create_server((HOST, 0), backlog=1024) as listener:
        url = f"http://{HOST}:{listener.getsockname()[1]}"
        options = ["--items", str(num_items), "--labels", str(num_labels), "--fd", str(listener.fileno())]
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest_multiitem.bench.null_server", *options, "--until-stdin-ends"],
            pass_fds=[listener.fileno()],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for us; we then stop the server
        )
    with process:
        try:
            # The socket listens already: this waits until the process accepts, and fails once it has ended.
            with ScoreClient(url, timeout=_TIMEOUT) as client:
                client.get("/health")
            yield url
        finally:
            process.terminate()
            try:
                process.wait(_STOP_GRACE)
            except subprocess.TimeoutExpired:
                process.kill()


def measure_overhead(url: str, request: PreparedRequest, *, repeats: int = 200, warmup: int = 20) -> dict[str, Any]:
    """Times in milliseconds of ``repeats`` calls of each kind against the null server at ``url``, after ``warmup``.

    The kinds take turns in blocks of 10 calls, in an order that turns round, so that drift of the machine hits all
    alike. ``harness``: `ScoreClient.timed_send`, as timed runs call it. ``raw_socket``: the same bytes over a socket.
    ``requests_post``: with the package requests; null where it is not installed. Each: ``samples_ms`` and percentiles.
    ``added_ms_p50``: median harness less median raw socket, with a 95 % bootstrap interval.
    ``requests_over_harness``: ratio of medians, with its interval. ``outside_the_clock``: what timed runs leave
    out. Raises ScoreFailure or OSError where the server does not answer as it should.
    """
    address = url + SCORE_PATH
    body = msgspec.json.decode(request.body)
    requests: Any = None
    with suppress(ImportError):  # this package does not depend on it
        requests = importlib.import_module("requests")
    with ScoreClient(url, timeout=_TIMEOUT) as client, closing(_RawSocket(client.build(request))) as raw:
        answer = client.timed_send(request)[1]
        read_scores(answer, request)
        calls = {
            "harness": lambda: client.timed_send(request)[0],
            "raw_socket": _timed(raw.exchange),
            "requests_post": _timed(lambda: requests.post(address, json=body, proxies=_NO_PROXY)),
            "encode": _timed(lambda: msgspec.json.encode(body)),
            "build": _timed(lambda: client.build(request)),
            "decode": _timed(lambda: read_scores(answer, request)),
        }
        if requests is None:
            del calls["requests_post"]
        times = _interleaved(calls, repeats=repeats, warmup=warmup)
    harness, floor, plain = times["harness"], times["raw_socket"], times.get("requests_post")
    return {
        "num_items": request.num_items,
        "request_bytes": len(request.body),
        "response_bytes": len(answer.content),
        "samples": repeats,
        "harness": _summary(harness),
        "raw_socket": _summary(floor),
        "requests_post": None if plain is None else _summary(plain),
        "added_ms_p50": p50(harness) - p50(floor),
        "added_ms_interval_95": difference_interval(harness, floor),
        "requests_over_harness": None if plain is None else p50(plain) / p50(harness),
        "requests_over_harness_interval_95": None if plain is None else ratio_interval(plain, harness),
        "outside_the_clock": {f"{kind}_ms_p50": p50(times[kind]) for kind in ("encode", "build", "decode")},
    }


def _timed(call: Callable[[], Any]) -> Callable[[], float]:
    """The call, giving the seconds that it takes."""

    def timed() -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    return timed


def _interleaved(calls: Mapping[str, Callable[[], float]], *, repeats: int, warmup: int) -> dict[str, list[float]]:
    """Milliseconds of ``repeats`` calls of each kind; entry i of all kinds was measured in the same block."""
    for call in calls.values():
        for _ in range(warmup):
            call()
    times: dict[str, list[float]] = {kind: [] for kind in calls}
    for block, begin in enumerate(range(0, repeats, BLOCK)):
        for kind in times if block % 2 else reversed(times):
            times[kind] += [1000 * calls[kind]() for _ in range(min(BLOCK, repeats - begin))]
    return times


def _summary(times: Sequence[float]) -> dict[str, Any]:
    return {**percentiles(times), "samples_ms": list(times)}


class _RawSocket:
    """A warm connection that sends the bytes of an HTTP request and reads to the end of the answer: no client of
    this wire can do with less."""

    def __init__(self, request: httpx.Request) -> None:
        lines = [b"%s %s HTTP/1.1" % (request.method.encode(), request.url.raw_path)]
        lines += [name + b": " + value for name, value in request.headers.raw]
        self._bytes = b"\r\n".join(lines) + b"\r\n\r\n" + request.content
        self._socket = socket.create_connection((request.url.host, request.url.port or 80), timeout=_TIMEOUT)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def exchange(self) -> bytes:
        """Send the request; the answer's body. Raises ScoreFailure for one that is not 200, OSError for none."""
        self._socket.sendall(self._bytes)
        received = bytearray()
        whole = None
        while whole is None or len(received) < whole:
            part = self._socket.recv(_RECEIVED_AT_ONCE)
            if not part:
                raise ConnectionError("the server closed the connection within its answer")
            received += part
            if whole is None and (end := received.find(b"\r\n\r\n")) >= 0:
                length = _CONTENT_LENGTH.search(received, 0, end + 2)
                if not received.startswith(b"HTTP/1.1 200 ") or length is None:
                    excerpt = bytes(received[:100]).decode("latin-1")
                    raise ScoreFailure(FailureKind.BAD_RESPONSE, f"expected 200 with a Content-Length, got {excerpt!r}")
                whole = end + 4 + int(length.group(1))
        return bytes(received[end + 4 :])
