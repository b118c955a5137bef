"""The null server: right shapes, real HTTP, and a process that never stays behind."""

import asyncio
import json
import random
import re
import signal
import socket
import subprocess
import sys
import time

import httpx
import numpy as np
import psutil
import pytest

from pytest_multiitem.bench.null_server import NullProtocol, canned_answers
from pytest_multiitem.bench.overhead import null_server
from pytest_multiitem.errors import UsageError
from pytest_multiitem.transport.client import ScoreClient, prepare

ITEMS = [[3], [4, 5], [6]]
REQUEST = prepare([1, 2], ITEMS, [7, 8])
POST = b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
MODULE = [sys.executable, "-m", "pytest_multiitem.bench.null_server"]


@pytest.fixture(scope="module")
def url():
    with null_server(len(ITEMS), 2) as address:
        yield address


def connect(url):
    return socket.create_connection(("127.0.0.1", httpx.URL(url).port), timeout=5)


def read_all(connection):
    """What comes until the server closes the connection."""
    with connection:
        return b"".join(iter(lambda: connection.recv(65_536), b""))


def responses(received):
    """(status, body) of each response in a stream of them."""
    found = []
    while received:
        head, _, rest = received.partition(b"\r\n\r\n")
        length = int(re.search(rb"content-length: (\d+)", head).group(1))
        found.append((int(head.split()[1]), rest[:length]))
        received = rest[length:]
    return found


def test_scores_of_the_right_shape(url):
    with ScoreClient(url) as client:
        first, second = client.send(REQUEST), client.send(REQUEST)
    assert first.shape == (3, 2)
    assert np.allclose(first.sum(axis=1), 1) and len(np.unique(first)) == 6
    assert (first == second).all()


def test_what_else_is_answered(url):
    assert httpx.get(f"{url}/health").status_code == 200
    assert httpx.get(f"{url}/get_server_info").json() == {"engine": "null", "num_items": 3, "num_labels": 2}
    assert httpx.post(f"{url}/v1/score?x=1", content=b"{}").json()["object"] == "scoring"
    assert httpx.get(f"{url}/v1/score").status_code == 404
    assert httpx.post(f"{url}/v1/other", content=b"x" * 200_000).status_code == 404


@pytest.mark.parametrize("seed", range(5))
def test_requests_in_any_pieces(url, seed):
    """Pipelined requests, cut anywhere, are each answered, in their order."""
    rng = random.Random(seed)
    wanted, sent = [], b""
    for number in range(rng.randint(2, 6)):
        if rng.random() < 0.5:
            body = bytes(rng.choices(b"abc\r\n", k=rng.choice([0, 1, 5, 70_000])))
            sent += POST % len(body) + body
            wanted.append("scores")
        else:
            sent += b"GET /%s HTTP/1.1\r\nhost: x\r\n\r\n" % rng.choice([b"health", b"none%d" % number])
            wanted.append("status" if sent.endswith(b"/health HTTP/1.1\r\nhost: x\r\n\r\n") else None)
    sent += b"GET /health HTTP/1.1\r\nhost: x\r\nConnection: close\r\n\r\n"
    wanted.append("status")
    connection = connect(url)
    while sent:
        cut = rng.choice([1, 3, 50, 1000, 100_000])
        connection.sendall(sent[:cut])
        sent = sent[cut:]
        if cut < 100:
            time.sleep(0.001)
            cut = rng.randint(100, 5000)
            connection.sendall(sent[:cut])
            sent = sent[cut:]
    found = responses(read_all(connection))
    assert [next(iter(set(json.loads(body)) & {"scores", "status"}), None) for _, body in found] == wanted


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET /health HTTP/2\r\n\r\n", 400),
        (b"x" * 70_000, 400),
        (b"POST /v1/score HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 411),
        (b"GET /health HTTP/1.0\r\n\r\n", 200),
        (b"GET /health HTTP/1.1\r\nConnection: Close\r\n\r\n", 200),
    ],
)
def test_the_connection_closes_after(url, sent, status):
    connection = connect(url)
    connection.sendall(sent)
    received = b""
    try:
        while part := connection.recv(65_536):
            received += part
    except ConnectionResetError:  # it closed with bytes of ours unread
        pass
    connection.close()
    assert [found for found, _ in responses(received)] == [status]


def test_a_client_that_asks_before_it_sends_the_body(url):
    connection = connect(url)
    connection.sendall(b"POST /v1/score HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.sendall(b"{}")
    assert connection.recv(65_536).startswith(b"HTTP/1.1 200 OK")
    connection.close()


def test_a_client_that_does_not_read_is_no_longer_read_from(url):
    connection = connect(url)
    connection.settimeout(0.2)

    def ask_for_ever():
        while True:
            connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n" * 10_000)

    with pytest.raises(TimeoutError):  # else the answers would pile up in the server
        ask_for_ever()
    connection.close()
    assert httpx.get(f"{url}/health").status_code == 200


def test_no_answer_waits_for_a_delayed_acknowledgement():
    """Also where the listening socket names no protocol, so that asyncio leaves Nagle's algorithm on."""

    async def run():
        protocols = []

        def factory():
            protocols.append(NullProtocol(canned_answers(1, 1)))
            return protocols[-1]

        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
            listener.bind(("127.0.0.1", 0))
            server = await asyncio.get_running_loop().create_server(factory, sock=listener)
            _, writer = await asyncio.open_connection(*listener.getsockname())
            while not (protocols and hasattr(protocols[0], "_transport")):
                await asyncio.sleep(0.001)
            accepted = protocols[0]._transport.get_extra_info("socket")
            nodelay = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            writer.close()
            server.close()
        return nodelay

    assert asyncio.run(asyncio.wait_for(run(), 5))


@pytest.mark.parametrize(("items", "labels"), [(0, 2), (3, 0), (-1, 2)])
def test_an_impossible_shape(items, labels):
    with pytest.raises(UsageError, match="at least 1"):
        canned_answers(items, labels)


def children():
    return {child.pid for child in psutil.Process().children()}


def refused(url):
    try:
        connect(url).close()
    except ConnectionRefusedError:
        return True
    return False


def test_the_process_is_gone_afterwards():
    before = children()
    with null_server(2) as url:
        started = children() - before
        assert len(started) == 1
    assert refused(url) and not any(map(psutil.pid_exists, started))


def test_the_process_is_gone_after_an_exception():
    seen = {}

    def fail():
        before = children()
        with null_server(2) as url:
            seen[url] = children() - before
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    for url, started in seen.items():
        assert refused(url) and started and not any(map(psutil.pid_exists, started))


def test_the_process_ends_with_one_that_is_killed():
    script = (
        "import time\nfrom pytest_multiitem.bench.overhead import null_server\n"
        "with null_server(2) as url:\n    print(url, flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as owner:
        url = owner.stdout.readline().strip()
        server = psutil.Process(owner.pid).children()[0]
        owner.kill()
    gone, _ = psutil.wait_procs([server], timeout=5)
    assert gone and refused(url)


def test_by_hand():
    with subprocess.Popen([*MODULE, "--port", "0", "--items", "4"], stdout=subprocess.PIPE, text=True) as process:
        url = process.stdout.readline().removeprefix("null server: ").strip()
        assert len(httpx.post(f"{url}/v1/score", content=b"{}").json()["scores"]) == 4
        taken = subprocess.run([*MODULE, "--port", str(httpx.URL(url).port)], capture_output=True, text=True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0
    assert taken.returncode == 2 and "error" in taken.stderr


def test_it_says_what_is_wrong():
    done = subprocess.run([*MODULE, "--port", "0", "--items", "0"], capture_output=True, text=True)
    assert done.returncode == 2 and "--items is 0" in done.stderr
