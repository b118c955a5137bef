"""Connections that clients do not finish, and HTTP that is none, over the real sockets of a server of a fake model."""

import asyncio
import json
import socket
import threading
import time
from contextlib import contextmanager

import httpx
import pytest
from fake_backend import FakeBackend
from test_app import REQUEST, Blocking, error_of, make_service

from pytest_multiitem.engine.app import create_app
from pytest_multiitem.engine.connections import ConnectionLimits
from pytest_multiitem.engine.intake import Intake
from pytest_multiitem.engine.serve import server
from pytest_multiitem.engine.worker import Worker
from pytest_multiitem.transport.listening import bind

SHORT = ConnectionLimits(head=0.3, body=0.3, reading=0.3, farewell=0.3)
BODY = json.dumps(REQUEST).encode()
CHUNKED = b"POST /v1/score HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
HEAD = b"POST /v1/score HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(BODY)


@contextmanager
def serving(limits=SHORT, **service):
    """The server, its address, and what it serves."""
    served = make_service(**service)
    with bind("127.0.0.1", 0) as listener:
        listener.listen()
        running = server(create_app(served), served.worker, "warning", limits)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield running, listener.getsockname(), served
        finally:
            running.should_exit = True
            thread.join(10)
            assert not thread.is_alive() and served.worker.close(5)


def opened(address, sent=b""):
    connection = socket.create_connection(address, timeout=10)
    connection.sendall(sent)
    return connection


def read_all(connection):
    """What comes until the server closes the connection."""
    received = b""
    while part := connection.recv(65536):
        received += part
    return received


def answer(received):
    """Status and code of an answer that is an error."""
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"content-type: application/json" in head
    return int(head.split()[1]), json.loads(body)["error"]["code"]


def lives(address):
    url = f"http://{address[0]}:{address[1]}"
    return httpx.get(f"{url}/health", timeout=5, trust_env=False).status_code == 200


@pytest.mark.parametrize(
    ("sent", "refusal"),
    [
        (b"", None),
        (b"POST /v1/sc", (408, "request_timeout")),
        (HEAD, (408, "request_timeout")),
        (HEAD + BODY[:-1], (408, "request_timeout")),
        (CHUNKED + b"5\r\n12345\r\n", (408, "request_timeout")),
        (b"POST /nowhere HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n", None),
    ],
    ids=["nothing", "half a line", "no body", "half a body", "endless chunks", "a body nobody reads"],
)  # fmt: skip
def test_half_open_connections_are_closed(sent, refusal):
    with serving() as (running, address, _):
        for connection in [opened(address, sent) for _ in range(30)]:
            with connection:
                received = read_all(connection)
            if refusal:
                assert answer(received) == refusal
        assert lives(address) and len(running.server_state.connections) <= 1


def test_dripping_does_not_help():
    """The deadline is a total one."""
    with serving() as (_, address, _), opened(address) as connection:
        started = time.monotonic()
        with pytest.raises(OSError):  # noqa: PT012
            for byte in HEAD[:-4] + b"a" * 1000:
                connection.sendall(bytes([byte]))
                time.sleep(0.02)
        assert time.monotonic() - started < 5


def test_a_client_that_reads_no_answer_is_cut_off():
    """Its answer is larger than what sockets hold."""
    labels = [3] * 990
    body = json.dumps(REQUEST | {"items": [[]] * 400, "label_token_ids": labels}).encode()
    with serving() as (running, address, _):
        with opened(address, HEAD.replace(b"%d" % len(BODY), b"%d" % len(body)) + body):
            assert wait_until(lambda: running.server_state.connections)
            assert wait_until(lambda: not running.server_state.connections)
        assert lives(address)


def wait_until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_slow_work_is_no_slow_client():
    """What a client has sent in time may be computed for longer than any deadline, over and over again."""
    limits = ConnectionLimits(head=0.1, body=0.1, reading=0.1)
    with serving(limits, backend=FakeBackend(seconds_per_call=0.2)) as (_, address, _), httpx.Client() as client:
        for _ in range(2):
            assert client.post(f"http://{address[0]}:{address[1]}/v1/score", content=BODY).status_code == 200


def test_too_many_connections_are_closed_at_once():
    with serving(ConnectionLimits(most=3)) as (_, address, _):
        kept = [opened(address) for _ in range(3)]
        with opened(address) as further:
            assert further.recv(1) == b""
        for connection in kept:
            connection.close()
        assert wait_until(lambda: lives(address))


@pytest.mark.parametrize(
    "sent",
    [
        b"GARBAGE\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/score HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        CHUNKED + b"zz\r\n",
        b"GET /health HTTP/1.1\r\nhost: x\r\na: " + b"b" * 80_000,
    ],
)
def test_what_is_no_http_is_refused_as_everything_else(sent):
    with serving() as (_, address, _):
        with opened(address, sent) as connection:
            try:
                received = read_all(connection)
            except ConnectionResetError:  # it closed with bytes of ours unread
                received = None
        assert received is None or (answer(received) == (400, "invalid_http") and b"GARBAGE" not in received)
        assert lives(address)


def test_a_full_queue_refuses_and_says_when_to_ask_again():
    backend = Blocking()
    with serving(backend=backend, worker=Worker(2)) as (_, address, served):
        first = opened(address, HEAD + BODY)
        assert backend.entered.wait(5)
        queued = [opened(address, HEAD + BODY) for _ in range(2)]
        url = f"http://{address[0]}:{address[1]}/v1/score"

        assert wait_until(lambda: served.worker.waiting == 3)
        refusal = httpx.post(url, content=BODY, trust_env=False)
        assert error_of(refusal) == (503, "queue_full", None) and refusal.headers["retry-after"] == "1"
        assert error_of(httpx.post(url, content=b"{", trust_env=False)) == (400, "invalid_json", None)
        backend.release.set()
        for connection in (first, *queued):
            with connection:
                assert b"200 OK" in connection.recv(65536)
        assert httpx.post(url, content=BODY, trust_env=False).status_code == 200


def test_bytes_under_way_are_bounded():
    """Those of a client that stalls count; a client that goes gives its bytes back."""
    with serving(ConnectionLimits(), intake=Intake(len(BODY), len(BODY))) as (_, address, served):
        url = f"http://{address[0]}:{address[1]}/v1/score"
        with opened(address, HEAD + BODY[:-1]):
            assert wait_until(lambda: served.intake.held)
            refusal = httpx.post(url, content=BODY, trust_env=False)
            assert error_of(refusal) == (503, "queue_full", None) and refusal.headers["retry-after"] == "1"
        assert wait_until(lambda: not served.intake.held)
        assert httpx.post(url, content=BODY, trust_env=False).status_code == 200


def test_what_a_stopping_server_does_not_finish_is_refused():
    """The running request is finished; the queued ones, half a request and half a body are refused, in words."""
    backend = Blocking()
    with serving(ConnectionLimits(), backend=backend) as (running, address, _):
        first = opened(address, HEAD + BODY)
        assert backend.entered.wait(5)
        others = [opened(address, sent) for sent in (HEAD + BODY, HEAD + BODY, HEAD + BODY[:-1], HEAD[:-5])]
        assert wait_until(lambda: len(running.server_state.tasks) == 4)
        assert wait_until(lambda: len(running.server_state.connections) == 5)
        running.should_exit = True
        for connection in others:
            with connection:
                received = read_all(connection)
            assert answer(received) == (503, "shutting_down") and b"retry-after: 1" in received
        backend.release.set()
        with first:
            assert b"200 OK" in read_all(first)


def test_the_running_request_is_refused_where_it_takes_too_long(monkeypatch):
    monkeypatch.setattr("pytest_multiitem.engine.serve._RUNNING_GRACE_S", 0.1)
    backend = Blocking()
    with serving(backend=backend) as (running, address, _):
        with opened(address, HEAD + BODY) as connection:
            assert backend.entered.wait(5)
            running.should_exit = True
            assert answer(read_all(connection)) == (503, "shutting_down")
        backend.release.set()
    assert backend.calls == ["prefix", "segment"]


def test_the_event_loop_goes_on_while_a_text_is_read():
    class Slow:
        longest_token = 100

        def __init__(self):
            self.entered, self.release = threading.Event(), threading.Event()

        def encode(self, text):
            self.entered.set()
            assert self.release.wait(5)
            return [1]

    tokenizer = Slow()
    text = {"query": "a", "items": ["b"], "label_token_ids": [3]}
    with serving(tokenizer=tokenizer) as (_, address, _):
        url = f"http://{address[0]}:{address[1]}"

        async def scenario():
            async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=10) as client:
                asked = asyncio.create_task(client.post("/v1/score", json=text))
                await asyncio.to_thread(tokenizer.entered.wait, 5)
                assert (await client.get("/health", timeout=1)).status_code == 200
                tokenizer.release.set()
                return (await asked).status_code

        assert asyncio.run(scenario()) == 200
