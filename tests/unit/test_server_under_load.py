"""The embedded server as a process of its own, under requests that are bad, long, many, and given up."""

import itertools
import json
import random
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import psutil
import pytest
from bad_requests import DELIMITER, GOOD, TEXT, bad_requests

#: Memory above idle that the documentation promises for the tiny checkpoint.
MOST_MIB = 1024
#: Seconds within which /health answers.
HEALTH_S = 1.0
QUEUED = 16
SENDERS = 8


class Server:
    """A running server."""

    def __init__(self, *argv):
        command = [sys.executable, "-m", "pytest_multiitem.engine.serve", "--port", "0", *argv]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        lines = []
        for line in self.process.stderr:
            lines.append(line)
            if " on http://" in line:
                self.url = line.split(" on ")[1].strip()
                break
        else:
            raise AssertionError("the server did not start: " + "".join(lines))
        self.log = lines
        self._reader = threading.Thread(target=lambda: lines.extend(self.process.stderr))
        self._reader.start()

    @property
    def address(self):
        host, port = self.url.removeprefix("http://").split(":")
        return host, int(port)

    def client(self, timeout=60):
        return httpx.Client(base_url=self.url, timeout=timeout, trust_env=False)

    def stop(self):
        """Its exit status."""
        self.process.terminate()
        try:
            return self.process.wait(20)
        finally:
            self.process.kill()
            self._reader.join(5)

    @contextmanager
    def watched(self):
        """/health answers in time and memory stays bounded until the block ends."""
        watcher = subprocess.Popen(
            [sys.executable, "-I", "-c", WATCHER, *map(str, self.address), str(self.process.pid)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert watcher.stdout.readline() == "watching\n"
            yield
            slowest, largest, looked = json.loads(watcher.communicate("over\n", timeout=60)[0])
        finally:
            watcher.kill()
            watcher.communicate()
        print(f"{self.url}: /health {slowest:.3f} s in {looked}, {largest:.0f} MiB above idle")  # noqa: T201
        assert looked > 5 and slowest < HEALTH_S
        assert largest < MOST_MIB


#: In a process of its own, for this one is as busy as the server: the slowest answer of /health in seconds, without
#: those that other processes kept it from a core, and the server's memory above that of the start in MiB.
WATCHER = """
import http.client, json, psutil, sys, threading, time
from pathlib import Path
host, port, pid = sys.argv[1:]
process, over = psutil.Process(int(pid)), threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), over.set()), daemon=True).start()
idle, slowest, largest, looked = process.memory_info().rss, 0.0, 0, 0
def weigh():
    global largest
    while not over.wait(0.004):
        largest = max(largest, process.memory_info().rss - idle)
threading.Thread(target=weigh).start()
def runnable(task):
    try:
        return int(Path(task, "schedstat").read_text().split()[1]) / 1e9  # seconds ready to run, but without a core
    except OSError:  # it has ended, or such a system does not say
        return 0.0
def without_a_core():
    return runnable("/proc/thread-self"), {task: runnable(task) for task in Path(f"/proc/{pid}/task").glob("*")}
connection = http.client.HTTPConnection(host, int(port), timeout=60)
print("watching", flush=True)
while not over.wait(0.01):
    mine, its = without_a_core()
    started = time.monotonic()
    connection.request("GET", "/health")
    answer = connection.getresponse()
    assert answer.status == 200 and answer.read()
    took, looked = time.monotonic() - started, looked + 1
    if took > slowest:
        mine_then, its_then = without_a_core()
        took -= mine_then - mine + max((its_then[task] - its.get(task, 0.0) for task in its_then), default=0.0)
        slowest = max(slowest, took)
print(json.dumps([slowest, largest / 2**20, looked]))
"""


@pytest.fixture(scope="module", params=["pytorch", "jax"])
def server(request):
    argv = ("--multi-item-scoring-delimiter", str(DELIMITER), "--max-queued-requests", str(QUEUED))
    running = Server("--backend", request.param, *argv)
    yield running
    assert running.stop() == 0
    assert "Traceback" not in "".join(running.log)


def slowly(*values):
    """A parameter of a test that takes long."""
    return pytest.param(*values, marks=pytest.mark.slow)


def error_of(response):
    assert response.headers["content-type"] == "application/json"
    assert response.json().keys() == {"error"} and response.json()["error"].keys() == {
        "message",
        "type",
        "param",
        "code",
    }
    return response.status_code, response.json()["error"]["code"]


@pytest.mark.parametrize("count", [320, slowly(12_000)])
def test_bad_requests_are_refused_one_by_one(server, count):
    """None kills it, none is a failure of the server, and it goes on to answer good ones."""
    with server.client() as client:
        right = [client.post("/v1/score", json=good).json()["scores"] for good in (GOOD, TEXT)]

    def send(seed):
        refused = Counter()
        with server.client() as client:
            for bad in bad_requests(seed, count // SENDERS):
                answer = client.request(bad.method, bad.path, content=bad.content, headers=bad.headers)
                status, code = error_of(answer)
                assert 400 <= status < 500, f"{bad.kind}: {status} {code}: {bad.content[:200]!r}"
                refused[code] += 1
        return refused

    with server.watched(), ThreadPoolExecutor(SENDERS) as pool:
        refused = sum(pool.map(send, range(SENDERS)), Counter())
    assert sum(refused.values()) == count and len(refused) > 15
    with server.client() as client:
        assert [client.post("/v1/score", json=good).json()["scores"] for good in (GOOD, TEXT)] == right


@pytest.mark.parametrize("clients", [32, slowly(256)])
def test_many_clients_get_their_own_scores_or_are_told_to_wait(server, clients):
    """Every one sends at the same moment, and again when it was told to."""
    draw = random.Random(11)
    requests = [
        {
            "query": [draw.randrange(DELIMITER) for _ in range(5)],
            "items": [[draw.randrange(DELIMITER) for _ in range(draw.randint(0, 40))] for _ in range(12)],
            "label_token_ids": [draw.randrange(DELIMITER) for _ in range(3)],
        }
        for _ in range(clients)
    ]
    with server.client() as client:
        right = [client.post("/v1/score", json=request).json()["scores"] for request in requests]
    together = threading.Barrier(clients)

    def ask(number):
        with server.client() as client:
            # Threads of so many clients can wait 5 s for their turn; by then the server gives an idle connection up.
            client.headers["connection"] = "close"
            together.wait(60)
            for waited in itertools.count():
                answer = client.post("/v1/score", json=requests[number])
                if answer.status_code == 200:
                    assert answer.json()["scores"] == right[number]
                    return waited
                assert error_of(answer) == (503, "queue_full")
                time.sleep(int(answer.headers["retry-after"]))

    with server.watched(), ThreadPoolExecutor(clients) as pool:
        waited = [*pool.map(ask, range(clients))]
    assert waited.count(0) >= QUEUED
    if clients > 100:
        assert waited.count(0) < clients, "none was refused"


@pytest.mark.parametrize(
    ("mask", "tokens"), [("segment", 8_000), slowly("segment", 40_000), slowly("dense", 8_000), slowly("dense", 20_000)]
)
@pytest.mark.parametrize("backend", ["pytorch", "jax"])
def test_a_long_item_needs_no_more_memory_than_promised(backend, mask, tokens):
    argv = ("--multi-item-scoring-delimiter", str(DELIMITER), "--multi-item-mask-impl", mask)
    server = Server("--backend", backend, *argv, "--max-multi-item-seq-len", "131072")
    item = [number * 7919 % DELIMITER for number in range(tokens)]
    try:
        with server.watched(), server.client(300) as client:
            for request in ({"query": [1, 2, 3], "items": [item, [4]]}, {"query": item, "items": [[1], [4]]}):
                answer = client.post("/v1/score", json=request | {"label_token_ids": [7, 8]})
                assert answer.status_code == 200, answer.text
    finally:
        assert server.stop() == 0


@pytest.mark.slow
def test_half_open_connections_are_closed_and_disturb_nobody(server):
    parts = (
        b"",
        b"POST /v1/sc",
        b"POST /v1/score HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n{",
        b"GET / HTTP/1.1\r\n",
    )
    opened = [socket.create_connection(server.address, timeout=90) for _ in range(300)]
    process = psutil.Process(server.process.pid)
    with server.watched(), server.client() as client:
        for connection, sent in zip(opened, itertools.cycle(parts), strict=False):
            connection.sendall(sent)
        right = client.post("/v1/score", json=GOOD).json()["scores"]
        for connection in opened:
            with connection:
                while connection.recv(65536):
                    pass
        assert client.post("/v1/score", json=GOOD).json()["scores"] == right
    assert len(process.net_connections()) < 10


@pytest.mark.parametrize("mask", ["dense", "segment"])
@pytest.mark.parametrize("backend", ["pytorch", "jax"])
@pytest.mark.slow
def test_a_request_given_up_while_it_is_computed_frees_the_engine(backend, mask):
    """The next one waits for a step of it, not for its end."""
    argv = ("--multi-item-scoring-delimiter", str(DELIMITER), "--multi-item-scoring-chunk-size", "0")
    server = Server("--backend", backend, *argv, "--multi-item-mask-impl", mask)
    count, length = (64, 30) if mask == "dense" else (160, 2000)
    items = [[(row * 31 + at * 7919) % DELIMITER for at in range(180)] for row in range(count)]
    long = {"query": [at * 31 % DELIMITER for at in range(length)], "items": items, "label_token_ids": [7, 8]}
    try:
        with server.client() as client:
            for _ in range(2):  # the second time nothing is compiled
                started = time.monotonic()
                assert client.post("/v1/score", json=long).status_code == 200
                whole = time.monotonic() - started
            client.post("/v1/score", json=GOOD)
        body = json.dumps(long).encode()
        head = b"POST /v1/score HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
        waits = []
        for _ in range(5):
            with socket.create_connection(server.address) as connection:
                connection.sendall(head + body)
                time.sleep(whole * 0.2)
            started = time.monotonic()
            with server.client() as client:
                assert client.post("/v1/score", json=GOOD).status_code == 200
            waits.append(time.monotonic() - started)
        print(f"{backend} {mask}: {whole:.2f} s whole, given up: {sorted(waits)}")  # noqa: T201
        assert sorted(waits)[2] < whole * 0.4
    finally:
        assert server.stop() == 0


@pytest.mark.parametrize("backend", [slowly("jax"), "pytorch"])
def test_sigterm_finishes_or_refuses_what_was_sent(backend):
    server = Server("--backend", backend, "--multi-item-scoring-delimiter", str(DELIMITER))
    clients = 24
    with server.client() as client:
        right = client.post("/v1/score", json=GOOD).json()["scores"]
    body = json.dumps(GOOD | {"items": [*GOOD["items"], *[[number] * 30 for number in range(400)]]}).encode()
    head = b"POST /v1/score HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
    opened = [socket.create_connection(server.address, timeout=30) for _ in range(clients)]
    for connection in opened:
        connection.sendall(head + body)
    with server.client() as client:
        while client.get("/get_server_info").json()["executed"]["requests"] < 2:
            time.sleep(0.01)
    status = server.stop()
    answers = Counter()
    for connection in opened:
        with connection:
            received = b"".join(iter(lambda connection=connection: connection.recv(65536), b""))
        head, _, content = received.partition(b"\r\n\r\n")
        answers[int(head.split()[1])] += 1
        if b" 200 " in head:
            assert json.loads(content)["scores"][: len(right)] != []
        else:
            assert json.loads(content)["error"]["code"] == "shutting_down" and b"retry-after" in head
    assert status == 0 and answers.keys() == {200, 503} and sum(answers.values()) == clients
    assert "Traceback" not in "".join(server.log)
