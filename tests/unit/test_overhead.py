"""The harness's own time: what is compared is the same, and the figures follow from the samples."""

import json
import socket
import sys
import threading
from contextlib import closing

import msgspec
import numpy as np
import pytest

from pytest_multiitem.bench import overhead, statistics
from pytest_multiitem.bench.overhead import BLOCK, measure_overhead, null_server
from pytest_multiitem.transport.client import FailureKind, ScoreClient, ScoreFailure, prepare

REQUEST = prepare([1, 2], [[3], [4, 5]], [7, 8])
ANSWER = b'{"scores": [[0.25, 0.75], [0.5, 0.5]]}'
OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(ANSWER), ANSWER)


@pytest.fixture(scope="module")
def measured():
    with null_server(2, 2) as url:
        return measure_overhead(url, REQUEST, repeats=25, warmup=2)


def test_figures_follow_from_the_samples(measured):
    harness, floor, plain = (measured[kind]["samples_ms"] for kind in ("harness", "raw_socket", "requests_post"))
    assert len(harness) == len(floor) == len(plain) == measured["samples"] == 25
    assert min(harness + floor + plain) > 0
    assert measured["added_ms_p50"] == np.median(harness) - np.median(floor)
    low, high = measured["added_ms_interval_95"]
    assert low <= measured["added_ms_p50"] <= high
    assert measured["requests_over_harness"] == np.median(plain) / np.median(harness)
    assert measured["harness"]["p50"] == np.median(harness)
    assert measured["harness"]["p95"] is None and "90 are needed" in measured["harness"]["reasons"]["p95"]
    assert set(measured["outside_the_clock"]) == {"encode_ms_p50", "build_ms_p50", "decode_ms_p50"}
    assert measured["request_bytes"] == len(REQUEST.body) and measured["num_items"] == 2


def test_the_result_is_json(measured):
    assert json.loads(msgspec.json.encode(measured))["samples"] == 25


def test_without_the_package_requests(monkeypatch):
    monkeypatch.setitem(sys.modules, "requests", None)
    with null_server(2, 2) as url:
        found = measure_overhead(url, REQUEST, repeats=3, warmup=0)
    assert found["requests_post"] is None and found["requests_over_harness"] is None
    assert len(found["harness"]["samples_ms"]) == 3


def test_a_server_of_another_shape():
    with null_server(3, 2) as url, pytest.raises(ScoreFailure) as caught:
        measure_overhead(url, REQUEST, repeats=3)
    assert caught.value.kind is FailureKind.BAD_RESPONSE


@pytest.fixture
def recorder():
    """Starts servers that answer one request a connection with given bytes; gives the URL and what was received."""
    listeners = []

    def start(*answers):
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)
        received = []

        def run():
            for answer in answers:
                connection = listener.accept()[0]
                with connection:
                    got = b""
                    while not got.endswith(REQUEST.body):
                        got += connection.recv(65_536)
                    received.append(got)
                    connection.sendall(answer)

        threading.Thread(target=run, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}", received

    yield start
    for listener in listeners:
        listener.close()


def test_the_raw_socket_sends_what_the_harness_sends(recorder):
    url, received = recorder(OK, OK)
    with ScoreClient(url, api_key="key") as client:
        client.timed_send(REQUEST)
        with closing(overhead._RawSocket(client.build(REQUEST))) as raw:
            assert raw.exchange() == ANSWER
    assert received[0] == received[1]
    assert b"uthorization: Bearer key" in received[0]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n", ScoreFailure),
        (b"HTTP/1.1 200 OK\r\n\r\nno length", ScoreFailure),
        (OK[:-5], ConnectionError),
        (b"", ConnectionError),
    ],
)
def test_a_raw_exchange_that_fails(recorder, answer, error):
    url, _ = recorder(answer)
    with (
        ScoreClient(url) as client,
        closing(overhead._RawSocket(client.build(REQUEST))) as raw,
        pytest.raises(error),
    ):
        raw.exchange()


def test_kinds_take_turns_in_blocks():
    order = []
    calls = {name: lambda name=name: order.append(name) or float(len(order)) for name in "ab"}
    times = overhead._interleaved(calls, repeats=2 * BLOCK + 5, warmup=1)
    assert "".join(order) == "ab" + "b" * BLOCK + "a" * BLOCK + "a" * BLOCK + "b" * BLOCK + "b" * 5 + "a" * 5
    assert len(times["a"]) == len(times["b"]) == 2 * BLOCK + 5
    assert times["a"][:BLOCK] == [1000.0 * (2 + BLOCK + i + 1) for i in range(BLOCK)]


def test_the_interval_of_a_difference():
    rng = np.random.default_rng(0)
    floor = rng.exponential(1.0, 100)
    low, high = statistics.difference_interval(floor + 5 + rng.normal(0, 0.1, 100), floor)
    assert 4 < low <= high < 6
    assert statistics.difference_interval([1.0, 2.0], [1.0, 2.0]) is None


def test_a_null_server_that_does_not_start(monkeypatch):
    monkeypatch.setattr(overhead, "_STOP_GRACE", 1.0)
    with pytest.raises(ScoreFailure) as caught, null_server(0):
        pytest.fail("it has started")
    assert caught.value.kind is FailureKind.CONNECTION
