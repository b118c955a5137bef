"""The HTTP client: what counts as scores, and how everything else is named."""

import json
import socket
import ssl
import statistics
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import takewhile
from pathlib import Path

import httpx
import numpy as np
import pytest
from fake_backend import VOCAB, FakeBackend
from hypothesis import given
from hypothesis import strategies as st
from sockets import listening

from pytest_multiitem.engine.app import create_app
from pytest_multiitem.engine.scorer import Scorer
from pytest_multiitem.engine.service import Service
from pytest_multiitem.errors import UsageError
from pytest_multiitem.scoring.config import ScorerConfig
from pytest_multiitem.transport.client import FailureKind, ScoreClient, ScoreFailure, prepare, read_scores
from pytest_multiitem.transport.listening import bind

REQUEST = prepare([1, 2], [[3], [4, 5]], [7, 8])
OK = {"scores": [[0.25, 0.75], [0.5, 0.5]]}


def client_of(handler, **more):
    """A client whose requests ``handler`` answers."""
    client = ScoreClient("http://stub", **more)
    client._http = httpx.Client(base_url=client.url, transport=httpx.MockTransport(handler))
    return client


def answer(status=200, **more):
    return client_of(lambda request: httpx.Response(status, **more))


def failure(client):
    with pytest.raises(ScoreFailure) as caught:
        client.send(REQUEST)
    assert str(caught.value).startswith(caught.value.kind.value + ": ")
    return caught.value


def test_scores():
    scores = answer(json=OK | {"model": "m", "object": "scoring"}).send(REQUEST)
    assert scores.dtype == np.float64 and scores.tolist() == OK["scores"]


def test_whole_numbers_are_scores():
    assert answer(json={"scores": [[0, 1], [1, 0]]}).send(REQUEST).tolist() == [[0.0, 1.0], [1.0, 0.0]]


def test_the_request_on_the_wire():
    seen = []

    def handler(request):
        seen.append((request.method, request.url.path, httpx.Response(200, content=request.content).json()))
        return httpx.Response(200, json=OK)

    client = client_of(handler)
    client.score((1, 2), ((3,), (4, 5)), (7, 8))
    client.score([1, 2], [[3], [4, 5]], [7, 8], apply_softmax=False)
    body = {"model": "default", "query": [1, 2], "items": [[3], [4, 5]], "label_token_ids": [7, 8]}
    assert seen == [
        ("POST", "/v1/score", body | {"apply_softmax": True}),
        ("POST", "/v1/score", body | {"apply_softmax": False}),
    ]


@pytest.mark.parametrize("status", [400, 404, 422, 500, 503, 302, 204])
def test_another_status_than_200(status):
    found = failure(answer(status, text="the reason"))
    assert (found.kind, found.status) == (FailureKind.HTTP_ERROR, status)
    assert f"HTTP {status}" in str(found) and "the reason" in str(found)


@pytest.mark.parametrize(
    ("refusals", "header", "pauses"),
    [(1, "1", [1]), (3, "2", [2, 2, 2]), (4, "1", None), (1, "60", None), (1, "-1", None), (1, "soon", None),
     (1, None, None)],
)  # fmt: skip
def test_a_busy_server_is_asked_again_when_it_says_so(refusals, header, pauses, monkeypatch):
    """But not for ever, not after a long time, and not where it only fails."""
    asked, slept = [], []
    monkeypatch.setattr("pytest_multiitem.transport.client.time.sleep", slept.append)

    def handler(request):
        asked.append(request.content)
        if len(asked) > refusals:
            return httpx.Response(200, json=OK)
        return httpx.Response(503, headers={} if header is None else {"retry-after": header}, text="busy")

    client = client_of(handler)
    if pauses is None:
        assert failure(client).status == 503
    else:
        assert client.send(REQUEST).tolist() == OK["scores"]
        assert slept == pauses and len(set(asked)) == 1
    assert len(asked) <= 4


def test_a_busy_server_is_not_asked_again_beyond_the_time_limit(monkeypatch):
    monkeypatch.setattr("pytest_multiitem.transport.client.time.sleep", None)
    client = client_of(lambda request: httpx.Response(503, headers={"retry-after": "3"}), timeout=2.0)
    assert failure(client).status == 503


@pytest.mark.parametrize("status", [200, 500])
def test_scores_under_another_status_do_not_count(status):
    client = answer(status, json=OK)
    if status == 200:
        assert client.send(REQUEST).shape == (2, 2)
    else:
        assert failure(client).kind is FailureKind.HTTP_ERROR


@pytest.mark.parametrize(
    "text", ["CUDA out of memory. Tried to allocate 2 GiB", "RESOURCE_EXHAUSTED: Out of memory while allocating"]
)
def test_out_of_memory(text):
    found = failure(answer(500, text=text))
    assert (found.kind, found.status) == (FailureKind.OOM, 500)


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>", b'{"scores": [[0.25, 0.75], [0.5', b'{"scores": [[NaN, 1], [0, 1]]}', b'{"scores": [[Infinity',
     b"\xff\xfe", b'{"scores": "\xff"}', b'{"scores": [[1e999, 1], [0, 1]]}', b"[" * 5000,
     b'{"scores": [[-Infinity, 1], [0, 1]]}', b'{"scores": [[2e308, 1], [0, 1]]}', b'{"scores": [["a", 1], [0',
     b'{"scores": [[0, 1], [0, 1]], "model": "\xff"}', b'{"scores": [[0, 1], [0, 1]], "usage": NaN}',
     b'{"scores": [[0, 1], [0, 1]]} {}', b'{"scores": [[0, 1], [0, 1]], "x": ' + b"[" * 5000],
)  # fmt: skip
def test_what_is_no_json(content):
    found = failure(answer(content=content))
    assert (found.kind, found.status) == (FailureKind.BAD_JSON, 200)


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "boom", "code": "internal_error"}},
        {},
        [],
        [[0.25, 0.75], [0.5, 0.5]],
        None,
        "scores",
        7,
        {"scores": None},
        {"scores": {}},
        {"scores": "0.5"},
        {"scores": []},
        {"scores": [[0.25, 0.75]]},
        {"scores": [[0.25, 0.75], [0.5, 0.5], [0.5, 0.5]]},
        {"scores": [0.25, 0.75]},
        {"scores": [[0.25, 0.75], [0.5]]},
        {"scores": [[0.25, 0.75], [0.5, 0.25, 0.25]]},
        {"scores": [[0.25, 0.75], []]},
        {"scores": [[0.25, 0.75], {"0": 0.5, "1": 0.5}]},
        {"scores": [[0.25, 0.75], "ab"]},
        {"scores": [[0.25, 0.75], [None, 0.5]]},
        {"scores": [[0.25, 0.75], [True, 0.5]]},
        {"scores": [[0.25, 0.75], ["0.5", 0.5]]},
        {"scores": [[0.25, 0.75], [[0.5], 0.5]]},
        {"scores": [[0.25, 0.75], [10**400, 0.5]]},
        {"scores": [[0.25, 0.75], [-(10**309), 0.5]]},
    ],
    ids=str,
)
def test_a_200_that_is_no_answer(body):
    found = failure(answer(content=json.dumps(body)))
    assert (found.kind, found.status) == (FailureKind.BAD_RESPONSE, 200)


def test_an_error_body_under_200_is_quoted():
    assert "boom" in str(failure(answer(json={"error": {"message": "boom"}})))


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([[0.25, 0.75]], "expected 2 rows of 2 scores, got 1 rows of 2: "),
        ([[0.25, 0.75], [0.5]], "expected 2 rows of 2 scores, got 2 rows of 1 or 2: "),
        ([[0.25, "x"], [0.5, 0.5]], "expected 2 rows of 2 scores: Expected `float`, got `str` - at `$.scores[0][1]`"),
    ],
)
def test_a_wrong_shape_is_told_with_what_came(scores, message):
    assert message in str(failure(answer(json={"scores": scores})))


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["scores", "x"]), inner, max_size=2),
    max_leaves=8,
)


@given(body=JUNK, wrap=st.booleans())
def test_any_json_gives_scores_of_the_right_shape_or_a_failure(body, wrap):
    response = httpx.Response(200, json={"scores": body} if wrap else body)
    try:
        scores = read_scores(response, REQUEST)
    except ScoreFailure:
        return
    assert scores.shape == (2, 2) and np.isfinite(scores).all()


@pytest.mark.parametrize("error", [httpx.ReadTimeout, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.WriteTimeout])
def test_no_answer_in_time(error):
    def handler(request):
        raise error("slow")

    found = failure(client_of(handler))
    assert (found.kind, found.status) == (FailureKind.TIMEOUT, None)
    assert "http://stub/v1/score did not answer in time" in str(found)


@pytest.mark.parametrize("error", [httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError])
def test_a_broken_connection(error):
    def handler(request):
        raise error("gone")

    found = failure(client_of(handler))
    assert (found.kind, found.status) == (FailureKind.CONNECTION, None) and "gone" in str(found)


def test_a_refused_connection():
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))  # bound, and nobody listens
        with ScoreClient(f"http://127.0.0.1:{holder.getsockname()[1]}") as client:
            assert failure(client).kind is FailureKind.CONNECTION


def speaks(answer_bytes, hold=0.0):
    """A server that accepts one connection, reads, sends these bytes and hangs up after ``hold`` seconds."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run():
        with listener, listener.accept()[0] as connection:
            connection.recv(65_536)
            connection.sendall(answer_bytes)
            time.sleep(hold)

    threading.Thread(target=run, daemon=True).start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_server_that_hangs():
    with ScoreClient(speaks(b"", hold=1.0), timeout=0.1) as client:
        assert failure(client).kind is FailureKind.TIMEOUT


def test_a_server_that_hangs_up_within_the_body():
    url = speaks(b'HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{"scores": [[0.25')
    with ScoreClient(url) as client:
        assert failure(client).kind is FailureKind.CONNECTION


def drops(answered, how):
    """A server that answers ``answered`` requests of a connection and closes it when the next one has come."""
    content = json.dumps(OK).encode()
    whole = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(content), content)
    listener, seen = bind("127.0.0.1", 0), []
    listener.listen()

    def run():
        while True:
            try:
                connection = listener.accept()[0]
            except OSError:  # the test is over
                return
            requests = connection.makefile("rb")
            for number in range(answered + 1):
                head = [line.lower() for line in takewhile(bytes.strip, requests)]
                requests.read(sum(int(line.split()[1]) for line in head if line.startswith(b"content-length")))
                if not head:
                    break
                seen.append(number)
                if number < answered:
                    connection.sendall(whole)
            if how == "reset":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            requests.close()
            connection.close()

    threading.Thread(target=run, daemon=True).start()
    return listener, f"http://127.0.0.1:{listener.getsockname()[1]}", seen


@pytest.mark.parametrize("how", ["closed", "reset"])
def test_a_kept_connection_that_the_server_closes_is_no_failure(how):
    listener, url, seen = drops(1, how)
    with listener, ScoreClient(url, timeout=10) as client:
        answers = [client.send(REQUEST).tolist() for _ in range(3)]
        assert client.get("/health").status_code == 200
        client.close()
        listener.shutdown(socket.SHUT_RDWR)
    assert answers == [OK["scores"]] * 3 and seen == [0, 1, 0, 1, 0, 1, 0]


@pytest.mark.parametrize("how", ["closed", "reset"])
def test_a_new_connection_that_the_server_closes_is_a_failure_at_once(how):
    listener, url, seen = drops(0, how)
    with listener, ScoreClient(url, timeout=10) as client:
        assert failure(client).kind is FailureKind.CONNECTION
        listener.shutdown(socket.SHUT_RDWR)
    assert seen == [0], "one request, and no other"


def test_server_info():
    assert answer(json={"dtype": "float32"}).server_info() == {"dtype": "float32"}
    for useless in (answer(404), answer(text="no json"), answer(json=[1])):
        assert useless.server_info() is None


def knowing(known, seen):
    """A client of a server that has these paths; ``seen`` takes down what was asked for."""

    def handler(request):
        seen.append(request.url.path)
        return httpx.Response(200, json=known[request.url.path]) if request.url.path in known else httpx.Response(404)

    return client_of(handler)


@pytest.mark.parametrize("path", ["/get_server_info", "/server_info", None])
def test_a_server_is_asked_for_its_arguments_where_it_has_told_them(path):
    seen = []
    client = knowing({"/model_info": {"model_path": "m"}} | ({path: {"dtype": "auto"}} if path else {}), seen)
    expected = {"dtype": "auto"} if path else None
    assert client.server_info() == expected
    first = len(seen)
    assert client.server_info() == expected and seen[first:] == ([path] if path else [])


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({"/model_info": {"model_path": "m"}, "/v1/models": {"data": [{"id": "n"}]}}, {"model_path": "m"}),
        ({"/v1/models": {"data": [{"id": "n", "max_model_len": 9}]}}, {"served_model_name": "n", "max_model_len": 9}),
        ({"/v1/models": {"data": []}}, None),
        ({}, None),
    ],
)
def test_the_served_model(known, expected):
    info = knowing(known, []).model_info()
    assert info == expected or {k: v for k, v in info.items() if k != "id"} == expected


def test_a_server_that_did_not_answer_is_asked_again():
    answers = iter([httpx.ConnectError("gone"), httpx.Response(200, json={"dtype": "float32"})])

    def handler(request):
        found = next(answers)
        if isinstance(found, Exception):
            raise found
        return found

    client = client_of(handler)
    assert client.server_info() is None
    assert client.server_info() == {"dtype": "float32"}


def test_a_timed_request_is_read_by_its_caller():
    seconds, response = answer(500, text="boom").timed_send(REQUEST)
    assert seconds > 0 and response.status_code == 500


@pytest.fixture(scope="module")
def served():
    """The embedded application on a socket bound as ``multiitem serve`` binds it; gives its URL."""
    scorer = Scorer(FakeBackend(), ScorerConfig(delimiter=999))
    service = Service(
        scorer=scorer, tokenizer=None, model="m", vocab_size=VOCAB, max_positions=4096, probe_ids=[0, 1], info={}
    )
    with listening(create_app(service)) as url:
        yield url
    service.worker.close(1)


def test_requests_of_one_client_share_a_connection(served):
    with ScoreClient(served) as client:
        ports = set()
        for _ in range(3):
            _, response = client.timed_send(REQUEST)
            ports.add(response.extensions["network_stream"].get_extra_info("client_addr"))
            assert read_scores(response, REQUEST).shape == (2, 2)
        assert len(ports) == 1


def test_another_connection_is_one_of_its_own(served):
    with ScoreClient(served, timeout=7.0, api_key="K") as client, client.another() as other:
        ports = {
            each.timed_send(REQUEST)[1].extensions["network_stream"].get_extra_info("client_addr")
            for each in (client, other)
        }
        assert len(ports) == 2 and type(other) is ScoreClient and other.url == client.url
        assert other._http.headers["authorization"] == "Bearer K" and other._http.timeout == client._http.timeout


def test_no_answer_waits_for_a_delayed_acknowledgement(served):
    """Nagle's algorithm on the server's side costs 40 ms an answer from the second one on a connection."""
    with ScoreClient(served) as client:
        client.send(REQUEST)
        seconds = [client.timed_send(REQUEST)[0] for _ in range(20)]
    assert statistics.median(seconds) < 0.03


CERTIFICATE = Path(__file__).with_name("localhost.pem")  # its own authority, for 127.0.0.1; a key that guards nothing


@pytest.fixture
def encrypted():
    """An https server that tells which path and which authorization it was asked with; gives its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body = json.dumps({"path": self.path, "authorization": self.headers["authorization"]}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"https://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join(10)
    server.server_close()


def test_tls_path_prefix_and_key(encrypted):
    with ScoreClient(f"{encrypted}/team/v9", api_key="K", ca_file=CERTIFICATE) as client:
        assert client.get("/health").json() == {"path": "/team/v9/health", "authorization": "Bearer K"}
    with ScoreClient(encrypted, ca_file=CERTIFICATE) as client:
        assert client.get("/health").json() == {"path": "/health", "authorization": None}


def test_a_certificate_that_nobody_vouches_for_is_no_connection(encrypted):
    with ScoreClient(encrypted) as client, pytest.raises(ScoreFailure) as caught:
        client.get("/health")
    assert caught.value.kind is FailureKind.CONNECTION and "certificate" in str(caught.value).lower()


def test_a_file_without_authorities_is_named(tmp_path):
    path = tmp_path / "empty.pem"
    path.write_text("nothing")
    with pytest.raises(UsageError, match=r"empty\.pem holds no certificate authority"):
        ScoreClient("https://127.0.0.1:9", ca_file=path)
