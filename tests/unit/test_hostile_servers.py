"""A client before hostile servers: each request ends within its time and memory, and in a failure that says why."""

import asyncio
import json
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np
import pytest

from hostile_servers import HOSTILE, answer, drips, says_too_little, served
from pytest_multiitem.bench.load import LoadShape, measure_load
from pytest_multiitem.transport import bounded
from pytest_multiitem.transport import client as client_module
from pytest_multiitem.transport.bounded import ANSWER_BYTES
from pytest_multiitem.transport.client import FailureKind, ScoreClient, ScoreFailure, prepare, read_scores, told

REQUEST = prepare([1, 2], [[3], [4, 5]], [7, 8])
#: Seconds that a request may take here, and how much later it may end: the machine has other work.
TIMEOUT, LATE = 0.4, 2.0
#: MiB that a client may grow by, whatever a server does: an answer is 1 MiB at most, and its JSON some times that.
GROWTH = 32


@pytest.fixture(params=HOSTILE)
def hostile(request):
    """A server that is hostile on every path, and the kinds of failure that are right."""
    how, kinds = HOSTILE[request.param]
    with served(on=how) as server:
        yield server, kinds


def test_a_request_for_scores_ends_in_time(hostile):
    server, kinds = hostile
    with ScoreClient(server.url, timeout=TIMEOUT, api_key="a-key-of-mine") as client:
        start = time.monotonic()
        with pytest.raises(ScoreFailure) as caught:
            client.send(REQUEST)
        assert time.monotonic() - start < TIMEOUT + LATE
    assert caught.value.kind.value in kinds, caught.value
    assert len(str(caught.value)) < 1000 and str(caught.value).isprintable()
    assert "a-key-of-mine" not in str(caught.value) and len(server.seen) == 1, "no redirect is followed"


def test_a_question_who_it_is_ends_in_time(hostile):
    server, _ = hostile
    with ScoreClient(server.url, timeout=TIMEOUT) as client:
        start = time.monotonic()
        told = [client.server_info(), client.model_info(), client.server_info(), client.model_info()]
        assert time.monotonic() - start < 3 * TIMEOUT + LATE
    assert not any(told) or set(told[0]) <= {"scores", "x", "sc\\u006fres", "vocab_size"}


#: Those that differ for a client whose requests overlap.
_OVERLAPPING = ("drips", "never_ends", "tiny_chunks", "bomb", "many_values", "informational", "redirects")


@pytest.mark.parametrize(
    "hostile",
    [name if name in _OVERLAPPING else pytest.param(name, marks=pytest.mark.slow) for name in HOSTILE],
    indirect=True,
)
def test_requests_that_overlap_end_in_time(hostile):
    server, kinds = hostile
    shape = LoadShape(concurrency=[4], duration=0.2, timeout=TIMEOUT)
    start = time.monotonic()
    report = measure_load(server.url, [REQUEST], shape)
    # the quiet request, the warm-up, and the senders' last ones
    assert time.monotonic() - start < 0.2 + 3 * TIMEOUT + LATE
    (level,) = report.levels
    assert level.successful == 0 and set(level.errors_by_kind) <= kinds | {"timeout", "connection"}


_CLIENT = """
import json, re, sys
from pathlib import Path
from pytest_multiitem.transport.client import ScoreClient, ScoreFailure, prepare

def peak():
    return int(re.search("VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024

request = prepare([1, 2], [[3], [4, 5]], [7, 8])
with ScoreClient("http://127.0.0.1:9") as client:
    client.server_info()
before, grown = peak(), {}
for name, url in json.load(sys.stdin).items():
    with ScoreClient(url, timeout=0.3) as client:
        for ask in (client.server_info, lambda: client.get("/health"), lambda: client.send(request)):
            try:
                ask()
            except ScoreFailure:
                pass
    grown[name] = peak() - before
print(json.dumps(grown))
"""


def test_no_server_makes_a_client_grow():
    with ExitStack() as running:
        urls = {name: running.enter_context(served(on=how)).url for name, (how, _) in HOSTILE.items()}
        child = subprocess.run([sys.executable, "-c", _CLIENT], input=json.dumps(urls), capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    grown = json.loads(child.stdout)
    assert set(grown) == set(HOSTILE) and max(grown.values()) < GROWTH, grown


def test_a_client_without_limits_would_grow():
    """The check above can fail: what the bomb unpacks to is larger than what is allowed."""
    with served(on=HOSTILE["bomb"][0]) as server:
        assert len(httpx.get(server.url, trust_env=False).content) > 3 * GROWTH * 2**20


def test_a_deadline_needs_no_main_thread():
    found = []

    def send(url):
        with ScoreClient(url, timeout=TIMEOUT) as client:
            try:
                client.send(REQUEST)
            except ScoreFailure as failure:
                found.append(failure.kind)

    with served(on=drips) as server:
        thread = threading.Thread(target=send, args=(server.url,))
        thread.start()
        thread.join(TIMEOUT + LATE)
    assert found == [FailureKind.TIMEOUT]


def test_a_server_that_takes_a_request_slowly_has_the_same_time():
    """The whole of a request counts, what is sent as well."""
    import socket

    large = prepare([1], [[token % 1000 for token in range(4_000_000)]], [7, 8])
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def take():
            connection, _ = listener.accept()
            with connection:
                while connection.recv(1000):
                    time.sleep(0.05)

        threading.Thread(target=take, daemon=True).start()
        with ScoreClient(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=TIMEOUT) as client:
            start = time.monotonic()
            with pytest.raises(ScoreFailure) as caught:
                client.send(large)
    assert caught.value.kind is FailureKind.TIMEOUT and time.monotonic() - start < TIMEOUT + LATE


def test_a_slow_server_within_its_time_is_read():
    """What drips and ends in time is an answer."""

    async def slow(asked):
        whole = answer(b'{"scores": [[0.25, 0.75], [0.5, 0.5]]}')
        for byte in range(0, len(whole), 16):
            yield whole[byte : byte + 16]
            yield 0.01

    with served(on=slow) as server, ScoreClient(server.url, timeout=20) as client:
        assert client.send(REQUEST).tolist() == [[0.25, 0.75], [0.5, 0.5]]


def test_a_busy_server_s_word_for_when_to_come_again_arrives():
    """The one header that is handed on: whatever else stands in it, or beside it, is dropped."""
    turns = iter([b"0", b"0, 5", b"9" * 5000])

    async def busy(asked):
        after = next(turns, None)
        if after is None:
            yield answer(b'{"scores": [[0.25, 0.75], [0.5, 0.5]]}')
        else:
            head = b"HTTP/1.1 503 Busy\r\nset-cookie: a=b\r\ncontent-length: 0\r\nretry-after: " + after + b"\r\n\r\n"
            yield head
        yield None

    with served(on=busy) as server, ScoreClient(server.url, timeout=TIMEOUT) as client:
        for _ in range(2):
            with pytest.raises(ScoreFailure) as caught:
                client.send(REQUEST)
            assert caught.value.status == 503
        assert len(server.seen) == 3, "asked again once, after 0 s; what is no number of seconds counts as none"
        assert client.send(REQUEST).shape == (2, 2)


def test_an_answer_that_was_there_before_the_request_is_none():
    with served(on=says_too_little) as server, ScoreClient(server.url, timeout=TIMEOUT) as client:
        assert client.send(REQUEST).shape == (2, 2)
        with pytest.raises(ScoreFailure, match="there before the request") as caught:
            client.send(REQUEST)
        assert caught.value.kind is FailureKind.CONNECTION


@pytest.mark.parametrize(("items", "labels"), [(1, 2), (500, 2), (40, 512)])
def test_the_largest_right_answer_is_read(items, labels):
    """Every digit of every score, indented: what a bound for the answer must leave room for."""
    rows = np.random.default_rng(1).random((items, labels)) * 1e-300
    content = json.dumps({"scores": rows.tolist(), "model": "m" * 1000, "usage": {"x": 1}}, indent=12).encode()
    request = prepare([1], [[2]] * items, range(labels))

    async def respond(asked):
        yield answer(content)
        yield None

    with served(on=respond) as server, ScoreClient(server.url, timeout=20) as client:
        assert (client.send(request) == rows).all()


def test_an_answer_packed_unasked_is_read():
    import gzip

    async def packs(asked):
        assert asked.headers["accept-encoding"] == "identity"
        yield answer(gzip.compress(b'{"scores": [[0.25, 0.75], [0.5, 0.5]]}'), b"content-encoding: gzip")
        yield None

    with served(on=packs) as server, ScoreClient(server.url, timeout=TIMEOUT) as client:
        assert client.send(REQUEST).tolist() == [[0.25, 0.75], [0.5, 0.5]]


def test_of_an_error_the_beginning_is_read():
    async def explains(asked):
        yield b"HTTP/1.1 500 Oops\r\ntransfer-encoding: chunked\r\n\r\n"
        while True:
            yield b"10000\r\n" + b"why: " + b"." * (65_536 - 5) + b"\r\n"

    with (
        served(on=explains) as server,
        ScoreClient(server.url, timeout=20) as client,
        pytest.raises(ScoreFailure) as caught,
    ):
        client.send(REQUEST)
    assert (caught.value.kind, caught.value.status) == (FailureKind.HTTP_ERROR, 500) and "why: ..." in str(caught.value)


def nested(depth):
    return json.loads("[" * depth + "]" * depth)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"a": 1, "a": 2}', {"a": 2}),
        (b'{"a": 1e400}', None),
        (b'{"a": NaN}', None),
        (b'{"a": ' + b"9" * 5000 + b"}", None),
        (b'{"a": ' + b"9" * 30 + b"}", {"a": "a number of 100 bits"}),
        (b'{"a": "\\ud800"}', None),
        (b'{"a": "\xff"}', None),
        (json.dumps({"a": nested(60)}).encode(), {"a": nested(60)}),
        (json.dumps({"a": nested(70)}).encode(), None),
        (b"[" * 100_000, None),
        (b'{"a\\u001b\\u202e": "b\\r\\n"}', {"a\\x1b\\u202e": "b\\r\\n"}),
        (b'{"a": "' + b"x" * 10_000 + b'"}', {"a": "x" * 4096}),
    ],
)  # fmt: skip
def test_what_a_server_tells_is_data_that_files_can_hold(content, expected):
    assert told(httpx.Response(200, content=content)) == expected


@pytest.mark.parametrize("models", [[], [1], ["m"], {}, None, [[]], [None, {"id": "n"}], 5])
def test_a_list_of_models_that_is_none(models):
    async def lists(asked):
        yield answer(json.dumps({"data": models}).encode())
        yield None

    with served({"/v1/models": lists}) as server, ScoreClient(server.url, timeout=TIMEOUT) as client:
        assert not (client.model_info() or {}).get("served_model_name")


def test_a_server_that_was_too_slow_to_say_who_it_is_is_not_asked_again():
    with served(on=drips) as server, ScoreClient(server.url, timeout=TIMEOUT) as client:
        assert client.server_info() is None and client.server_info() is None and client.model_info() is None
        assert len(server.seen) == 1


def test_the_limits_are_those_of_the_page():
    page = (Path(__file__).parents[2] / "docs/reference/untrusted-servers.md").read_text(encoding="utf-8")
    kib, mib = 2**10, 2**20
    for words in (
        f"| {client_module._BASE_BYTES // kib} KiB, and {client_module._SCORE_BYTES} bytes for each score |",
        f"| {ANSWER_BYTES // mib} MiB |",
        f"| {bounded._ERROR_BYTES // kib} KiB are read |",
        f"| {bounded._WIRE_SHARE} times that, and {bounded._WIRE_BYTES // mib} MiB |",
        f"| {client_module._FURTHER_VALUES:,}, and 4 for each score; {client_module._VALUES:,} in a description |",
        f"| {client_module._DEPTH} levels in a description;",
        f"| {client_module._TEXT:,} characters |",
        f"| {client_module._INFO_TIMEOUT:g} s, or the request's",
        f"| {bounded._CONNECT:g} s |",
    ):
        assert words in page, words
    assert f"at most\n{GROWTH} MiB" in page


def test_an_asynchronous_client_reads_what_is_right():
    from pytest_multiitem.transport.client import async_client, build

    async def ask(url):
        async with async_client(url, timeout=20, limits=httpx.Limits()) as http:
            return [await http.send(build(http, REQUEST)) for _ in range(3)]

    with served() as server:
        for response in asyncio.run(ask(server.url)):
            assert read_scores(response, REQUEST).shape == (2, 2)
