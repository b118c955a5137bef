"""Each fault of the wire does what it says, and nothing else."""

import asyncio
import json
import math
import os
import time
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from fake_backend import VOCAB, FakeBackend

from pytest_multiitem.engine.app import create_app
from pytest_multiitem.engine.scorer import Scorer
from pytest_multiitem.engine.service import Service
from pytest_multiitem.errors import UsageError
from pytest_multiitem.faults.active import ActiveFaults
from pytest_multiitem.faults.base import WireFault
from pytest_multiitem.faults.catalogue import catalogue, fault
from pytest_multiitem.faults.precision import Drift, to_bfloat16
from pytest_multiitem.faults.service import split_at
from pytest_multiitem.scoring.config import ScorerConfig

QUERY, ITEMS, LABELS = [1, 2, 3], [[4, 5, 6], [7], [8, 9], [7]], [11, 12, 13]
REQUEST = {"query": QUERY, "items": ITEMS, "label_token_ids": LABELS, "apply_softmax": True, "model": "mine"}
PLAIN = REQUEST | {"apply_softmax": False}
ROWS = np.array([[0.2, 0.3, 0.5], [0.7, 0.2, 0.1], [0.05, 0.05, 0.9], [0.7, 0.2, 0.1]])
#: The same with two labels.
PAIR = REQUEST | {"label_token_ids": [11, 12]}
PAIR_ROWS = np.array([[0.2, 0.8], [0.7, 0.3], [0.05, 0.95], [0.7, 0.3]])

WIRE = [name for name, kind in catalogue().items() if issubclass(kind, WireFault)]
#: Faults of which the first scoring request shows nothing.
LATER = (
    "shared_boundaries", "truncates", "recompiles", "dies", "hangs", "first_item_table", "busy", "coalesced_queries",
    "replica_connection", "replica_request", "wrong_once", "temperature_ignored", "token_logprobs_empty",
    "neighbour_kills",
    # Of requests in other modes.
    "label_lists_ignored", "set_temperature_ignored", "set_logprobs_empty", "ranking_unsorted", "ranking_index",
    "ranking_twice_squashed", "ranking_top_ignored", "ranking_drops_empty", "rankings_coalesced", "decision_labels",
    "decision_mass", "class_temperature_ignored", "ranking_sees_before", "ranking_drifts", "ranking_cold",
    "decision_sees_before", "label_lists_see_before", "text_sees_before", "temperature_sees_before", "text_mass_zero",
    "pooled_shifted",
)  # fmt: skip


def engine():
    """The embedded application over a fake model."""
    service = Service(
        scorer=Scorer(FakeBackend(), ScorerConfig(delimiter=999)), tokenizer=None, model="m", vocab_size=VOCAB,
        max_positions=4096, probe_ids=[0, 1], info={"engine": "embedded"},
    )  # fmt: skip
    return create_app(service)


class Stub:
    """An ASGI application with an answer ready: scores [N, K], or a whole answer. Keeps the requests it got."""

    def __init__(self, rows=ROWS, answer=None, hold=None):
        self.rows, self.whole, self.hold = rows, answer, hold
        self.requests, self.headers = [], []

    async def __call__(self, scope, receive, send):
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        self.headers.append(dict(scope["headers"]))
        self.requests.append(json.loads(body))
        if self.hold is not None:
            await self.hold(self.requests[-1])
        rows = np.asarray(self.rows(self.requests[-1]) if callable(self.rows) else self.rows).tolist()
        status, answer = self.whole or (200, {"scores": rows, "model": "m", "object": "scoring", "usage": None})
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        headers = [(b"content-type", b"application/json"), (b"x-of-the-server", b"1")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body[:5], "more_body": True})
        await send({"type": "http.response.body", "body": body[5:]})


def client(app):
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://engine")


def ask(app, method="POST", path="/v1/score", times=1, **request):
    """The last answer of some equal requests."""

    async def some():
        async with client(app) as http:
            for _ in range(times):
                response = await http.request(method, path, **request)
            return response

    return asyncio.run(some())


def scores(name, request=REQUEST, rows=ROWS):
    """The scores that come through a fault, after checking that nothing but them has changed."""
    response = ask(fault(name).wrap(Stub(rows)), json=request)
    assert response.status_code == 200 and response.headers["x-of-the-server"] == "1"
    assert int(response.headers.get("content-length", len(response.content))) == len(response.content)
    body = response.json()
    assert {key: value for key, value in body.items() if key != "scores"} == {
        "model": "m", "object": "scoring", "usage": None
    }  # fmt: skip
    return np.array(body["scores"])


# -- all of them -------------------------------------------------------------------------------


UNTOUCHED = (
    ("GET", "/get_server_info", {}),
    ("GET", "/health", {}),
    ("GET", "/v1/models", {}),
    ("GET", "/v1/score", {}),
    ("POST", "/v1/score/", {"json": REQUEST}),
    ("POST", "/flush_cache", {}),
    ("POST", "/v1/score", {"content": b"{"}),
    ("POST", "/v1/score", {"content": b"\xff"}),
    ("POST", "/v1/score", {"json": [1]}),
    ("POST", "/v1/score", {"json": {"query": QUERY, "items": ITEMS}}),
    ("POST", "/v1/score", {"json": REQUEST | {"items": []}}),
    ("POST", "/v1/score", {"json": REQUEST | {"items": [[1], "a"]}}),
    ("POST", "/v1/score", {"json": REQUEST | {"items": [[1], 2]}}),
    ("POST", "/v1/score", {"json": REQUEST | {"query": 3}}),
)
REFUSED = tuple(
    ("POST", "/v1/score", {"json": REQUEST | change})
    for change in (
        {"label_token_ids": [-1]}, {"items": [[999]]}, {"items": ["a"]}, {"apply_softmax": 3}, {"query": [1.5]}
    )
)  # fmt: skip


def each_answered(requests, wrapped=lambda app: app):
    """Status, body and headers of each request, sent to a server of its own."""

    async def run():
        found = []
        for method, path, request in requests:
            async with client(wrapped(engine())) as http:
                response = await http.request(method, path, **request)
            found.append((response.status_code, response.content, response.headers))
        return found

    return asyncio.run(run())


@pytest.fixture(scope="module")
def untouched():
    return each_answered(UNTOUCHED)


@pytest.fixture(scope="module")
def refused():
    answers = each_answered(REFUSED)
    assert {status for status, _, _ in answers} == {400, 422}
    return answers


@pytest.mark.parametrize("name", WIRE)
def test_everything_else_goes_through_untouched(name, untouched):
    assert each_answered(UNTOUCHED, lambda app: fault(name).wrap(app)) == untouched


@pytest.mark.parametrize("name", [name for name in WIRE if name != "health_only"])
def test_what_the_server_refuses_stays_refused(name, refused):
    assert each_answered(REFUSED, lambda app: fault(name).wrap(app)) == refused


@pytest.mark.parametrize("name", LATER)
def test_the_first_scoring_request_is_answered_as_it_would_be(name):
    assert ask(fault(name).wrap(engine()), json=REQUEST).content == ask(engine(), json=REQUEST).content


@pytest.mark.parametrize("name", [name for name in WIRE if name not in LATER])
def test_a_scoring_request_is_answered_otherwise(name):
    request = PAIR if issubclass(catalogue()[name], Drift) else REQUEST
    assert ask(fault(name).wrap(engine()), json=request).content != ask(engine(), json=request).content


@pytest.mark.parametrize("name", [name for name in WIRE if name != "health_only"])
def test_an_answer_that_holds_no_scores_is_left_alone(name):
    for answer in (b"no JSON", b"[]", {"scores": "none"}, {"scores": [[1.0], [1.0, 2.0]]}, {"error": {"message": "m"}}):
        stub = Stub(answer=(200, answer))
        plain = ask(stub, json=REQUEST)
        faulty = ask(fault(name).wrap(stub), json=REQUEST)
        spoilt = name in ("error_under_200", "truncated_json") and isinstance(answer, dict) and "scores" in answer
        assert (faulty.status_code, faulty.content == plain.content) == (200, not spoilt)


def test_another_path_streams_both_ways():
    """The server answers before the body has ended, and the middleware waits for neither."""
    order = []

    async def echo(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(2):
            message = await receive()
            await send({"type": "http.response.body", "body": message["body"], "more_body": True})
        await send({"type": "http.response.body"})

    async def run():
        async def receive():
            order.append("asked")
            return {"type": "http.request", "body": b"x", "more_body": True}

        async def send(message):
            order.append(message["type"].rpartition(".")[2])

        await fault("rounded").wrap(echo)({"type": "http", "method": "POST", "path": "/other"}, receive, send)

    asyncio.run(run())
    assert order == ["start", "asked", "body", "asked", "body", "body"]


def test_a_compressed_answer_is_not_asked_for():
    stub = Stub()
    ask(fault("rounded").wrap(stub), json=REQUEST, headers={"accept-encoding": "gzip", "authorization": "Bearer k"})
    assert b"accept-encoding" not in stub.headers[0] and stub.headers[0][b"authorization"] == b"Bearer k"


def test_faults_compose_in_their_order():
    both = ActiveFaults.parse(["rounded", "softmax_over_items"])
    assert both.labels == ["rounded", "softmax_over_items"]
    rows = np.array([[0.004, 0.996], [0.012, 0.988], [0.5, 0.5], [0.4, 0.6]])
    rounded_first = np.array(ask(both.before(Stub(rows)), json=PAIR).json()["scores"])
    assert rounded_first[0, 0] == 0.0 and len(set(np.round(rounded_first[:, 1], 2) - rounded_first[:, 1])) > 1
    other = ActiveFaults.parse(["softmax_over_items", "rounded"])
    rounded_last = np.array(ask(other.before(Stub(rows)), json=PAIR).json()["scores"])
    np.testing.assert_array_equal(rounded_last, np.round(rounded_last, 2))
    missing = ActiveFaults.parse(["short_list", "permuted", "duplicates_merged"])
    assert len(ask(missing.before(Stub()), json=REQUEST).json()["scores"]) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("drft", "did you mean 'drift'"),
        ("drift=", "'' is no strength"),
        ("drift=0.5", "above 0 and below 0.5"),
        ("drift=nan", "'nan' is no strength"),
        ("nondeterministic=-1", "above 0 and at most 1"),
        ("recompiles=1", "a number above 1, such as 8"),
        ("recompiles=inf", "a number above 1"),
        ("dies=1.5", "a whole number of at least 1"),
        ("dies=0", "a whole number of at least 1"),
        ("dies=nan", "a whole number of at least 1"),
        ("dies=inf", "a whole number of at least 1"),
        ("permuted=1", "has no strength, but '1' was given; write permuted alone"),
    ],
)
def test_a_fault_that_is_none_says_what_is(text, message):
    with pytest.raises(UsageError, match=message):
        fault(text)


@pytest.mark.parametrize("name", WIRE)
def test_every_fault_says_what_it_is(name):
    kind = catalogue()[name]
    assert 0 <= kind.number <= 40 and kind.seen and kind.about().endswith(".") and kind.scope
    assert all(kind.accepts[0](strength) for strength in kind.strengths)
    assert [fault(f"{name}={strength:g}").label for strength in kind.strengths] == [
        f"{name}={strength:g}" for strength in kind.strengths
    ]


# -- the answer --------------------------------------------------------------------------------


def test_permuted():
    np.testing.assert_array_equal(
        scores("permuted", rows=np.arange(12).reshape(4, 3)), np.arange(12).reshape(4, 3)[[1, 3, 2, 0]]
    )
    text = REQUEST | {"query": "q", "items": ["ccc", "a"]}
    assert scores("permuted", text, [[0.3], [0.1]]).tolist() == [[0.1], [0.3]]


def test_duplicates_merged():
    assert scores("duplicates_merged").tolist() == ROWS[[0, 1, 2]].tolist()
    text = REQUEST | {"query": "q", "items": ["a", "b", "b", "a"]}
    assert scores("duplicates_merged", text).tolist() == ROWS[[0, 1]].tolist()


def test_sorted_answer():
    assert scores("sorted_answer").tolist() == ROWS[[1, 3, 0, 2]].tolist()
    assert scores("sorted_answer", rows=ROWS[[1, 0, 2]]).tolist() == ROWS[[1, 0, 2]].tolist()


def test_temperature_ignored():
    hot = REQUEST | {"temperature": 4.0}
    assert ask(fault("temperature_ignored").wrap(engine()), json=hot).content == ask(engine(), json=REQUEST).content
    assert ask(engine(), json=hot).content != ask(engine(), json=REQUEST).content
    for refused in (hot | {"temperature": 0}, hot | {"apply_softmax": False}):
        answer = ask(fault("temperature_ignored").wrap(engine()), json=refused)
        assert answer.status_code == 400 and answer.json()["error"]["code"] == "invalid_temperature"


def test_token_logprobs_empty():
    asked = REQUEST | {"return_token_logprobs": True}
    right = ask(engine(), json=asked).json()
    assert np.shape(right["token_logprobs"]) == (4, 3)
    found = ask(fault("token_logprobs_empty").wrap(engine()), json=asked).json()
    assert found == right | {"token_logprobs": []}
    assert ask(fault("token_logprobs_empty").wrap(engine()), json=REQUEST).json() == ask(engine(), json=REQUEST).json()


def test_labels_swapped():
    assert scores("labels_swapped").tolist() == ROWS[:, ::-1].tolist()


def test_softmax_over_items():
    stub = Stub(ROWS / 10)
    rows = np.array(ask(fault("softmax_over_items").wrap(stub), json=REQUEST).json()["scores"])
    np.testing.assert_allclose(rows, ROWS / ROWS.sum(axis=0))
    assert stub.requests == [REQUEST | {"apply_softmax": False}]
    assert scores("softmax_over_items", PLAIN).tolist() == ROWS.tolist()
    np.testing.assert_allclose(scores("softmax_over_items", rows=np.zeros((4, 3))), 1 / 4)


@pytest.mark.parametrize(("asked", "sent"), [(True, False), (False, True), (None, True)])
def test_softmax_ignored(asked, sent):
    stub = Stub()
    assert np.array_equal(
        ask(fault("softmax_ignored").wrap(stub), json=REQUEST | {"apply_softmax": asked}).json()["scores"], ROWS
    )
    assert stub.requests == [REQUEST | {"apply_softmax": sent}]


def test_bodies_that_are_no_scores():
    nan = ask(fault("nan").wrap(Stub()), json=REQUEST)
    assert b"NaN" in nan.content and math.isnan(nan.json()["scores"][-1][0])
    assert nan.json()["scores"][:-1] == ROWS[:-1].tolist()
    assert ask(fault("infinity").wrap(Stub()), json=REQUEST).json()["scores"][-1] == [math.inf, *ROWS[-1][1:]]
    assert scores("short_list").tolist() == ROWS[:-1].tolist()
    assert scores("wrong_label_count").tolist() == [[*row, 0.0] for row in ROWS.tolist()]
    error = ask(fault("error_under_200").wrap(Stub()), json=REQUEST)
    assert error.status_code == 200 and error.json()["error"]["code"] == "internal_error"
    cut = ask(fault("truncated_json").wrap(Stub()), json=REQUEST)
    assert cut.status_code == 200 and int(cut.headers["content-length"]) == len(cut.content)
    with pytest.raises(json.JSONDecodeError):
        cut.json()


# -- values ------------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [0.1, 0.49, 1.5e-2, 1e-6])
def test_drift_is_exact_deterministic_and_within_a_distribution(strength):
    rows = scores(f"drift={strength:g}", PAIR, PAIR_ROWS)
    np.testing.assert_allclose(abs(rows - PAIR_ROWS), strength, rtol=0, atol=1e-15)
    assert (abs(rows - 0.5) < abs(PAIR_ROWS - 0.5)).all() or strength > 0.1
    np.testing.assert_allclose(rows.sum(axis=1), 1, rtol=0, atol=1e-15)
    assert ((rows > 0) & (rows < 1)).all()
    np.testing.assert_array_equal(scores(f"drift={strength:g}", PAIR, PAIR_ROWS), rows)


def test_drift_agrees_with_itself_and_leaves_other_requests_alone():
    moved = scores("drift=0.01", PAIR, PAIR_ROWS)
    turned = scores("drift=0.01", REQUEST | {"label_token_ids": [12, 11]}, PAIR_ROWS[:, ::-1])
    np.testing.assert_array_equal(turned[:, ::-1], moved)
    plain = scores("drift=0.01", PAIR | {"apply_softmax": False}, PAIR_ROWS / 1000)
    np.testing.assert_allclose(plain.sum(axis=1), 1e-3)
    np.testing.assert_allclose(plain * 1000, moved)
    assert scores("drift=0.01").tolist() == ROWS.tolist()
    one = REQUEST | {"label_token_ids": [11]}
    assert scores("drift=0.01", one, [[1.0], [1.0]]).tolist() == [[1.0], [1.0]]


def test_rounded():
    np.testing.assert_array_equal(scores("rounded", rows=[[0.123, 0.877], [0.996, 0.004]]), [[0.12, 0.88], [1.0, 0.0]])


def test_bf16_softmax():
    rows = np.random.default_rng(1).dirichlet(np.ones(4), 50)
    got = scores("bf16_softmax", rows=rows)
    assert 0 < abs(got - rows).max() <= 2**-9
    np.testing.assert_array_equal(to_bfloat16(got), got)
    # Ties go to the even neighbour, below and above.
    np.testing.assert_array_equal(to_bfloat16(np.array([1 + 2**-8, 1 + 3 * 2**-8, -1.0, 0.0])), [1, 1 + 2**-6, -1, 0])


def test_bfloat16_is_what_torch_makes_of_it():
    torch = pytest.importorskip("torch")
    values = np.random.default_rng(2).uniform(-1, 1, 2000)
    want = torch.tensor(values, dtype=torch.float32).bfloat16().double().numpy()
    np.testing.assert_array_equal(to_bfloat16(values), want)


def test_constant():
    rows = scores("constant")
    assert len(np.unique(rows, axis=0)) == 1 and len(set(rows[0])) == 3
    np.testing.assert_allclose(rows.sum(axis=1), 1)
    np.testing.assert_array_equal(scores("constant", REQUEST | {"query": [5]}, ROWS[::-1]), rows)


def test_random():
    rows = scores("random")
    np.testing.assert_allclose(rows.sum(axis=1), 1)
    np.testing.assert_array_equal(rows[1], rows[3])
    assert len(np.unique(rows[:3])) == 9
    np.testing.assert_array_equal(scores("random", rows=ROWS[::-1]), rows)
    alone = scores("random", REQUEST | {"items": [ITEMS[2]]}, ROWS[:1])
    np.testing.assert_array_equal(alone[0], rows[2])
    assert (scores("random", REQUEST | {"query": [1, 2, 4]}) != rows).all()
    plain = scores("random", PLAIN)
    assert ((plain > 0) & (plain < 1 / 3)).all()
    np.testing.assert_allclose(plain / plain.sum(axis=1, keepdims=True), rows)


def test_nondeterministic():
    def three(app):
        async def run():
            async with client(app) as http:
                return [np.array((await http.post("/v1/score", json=REQUEST)).json()["scores"]) for _ in range(3)]

        return asyncio.run(run())

    first = three(fault("nondeterministic").wrap(Stub()))
    again = three(fault("nondeterministic").wrap(Stub()))
    np.testing.assert_array_equal(first, again)
    for rows in first:
        assert 0.001 < abs(rows[:, 0] - ROWS[:, 0]).max() <= 0.07
        np.testing.assert_allclose(rows.sum(axis=1), 1)
    assert not np.array_equal(first[0], first[1]) and not np.array_equal(first[1], first[2])
    weak = three(fault("nondeterministic=0.001").wrap(Stub()))
    assert 0 < max(abs(rows[:, 0] - ROWS[:, 0]).max() for rows in weak) <= 0.001
    plain = scores("nondeterministic", PLAIN, ROWS / 10)
    assert ((plain >= 0) & (plain <= 1)).all() and 0 < abs(plain - ROWS / 10).max() <= 0.07


# -- the service -------------------------------------------------------------------------------


def test_boundaries_are_those_of_the_request_that_runs():
    async def run():
        running, end = asyncio.Event(), asyncio.Event()

        async def hold(request):
            if request["query"] == [1]:
                running.set()
                await end.wait()

        stub = Stub(lambda request: [[0.5, 0.5]] * len(request["items"]), hold=hold)
        async with client(fault("shared_boundaries").wrap(stub)) as http:
            first = asyncio.create_task(http.post("/v1/score", json=REQUEST | {"query": [1], "items": [[1, 2], [3]]}))
            await running.wait()
            await http.post("/v1/score", json=REQUEST | {"query": [2]})
            await http.post("/v1/score", json=REQUEST | {"query": "text", "items": ["a", "bb"]})
            end.set()
            assert (await first).status_code == 200
            await http.post("/v1/score", json=REQUEST | {"query": [3]})
        return [request["items"] for request in stub.requests]

    first, second, text, alone = asyncio.run(run())
    assert first == [[1, 2], [3]] and text == ["a", "bb"] and alone == ITEMS
    assert second == [[4, 5], [6], [7, 8], [9, 7]]


class Waiting:
    """A server that answers requests when it is opened; the rows say what it was asked."""

    def __init__(self):
        self.open = asyncio.Event()

    async def __call__(self, scope, receive, send):
        request = json.loads((await receive())["body"])
        await self.open.wait()
        rows = [[request["query"][0], sum(item) + 0.5 * len(item)] for item in request["items"]]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps({"scores": rows}).encode()})


def together(name, *requests):
    """The scores of requests that are in flight at the same time, in the order in which they arrive."""

    async def run():
        server = Waiting()
        async with client(fault(name).wrap(server)) as http:
            answers = []
            for request in requests:
                answers.append(asyncio.create_task(http.post("/v1/score", json=REQUEST | request)))
                await asyncio.sleep(0.01)
            server.open.set()
            return [(await answer).json()["scores"] for answer in answers]

    return asyncio.run(asyncio.wait_for(run(), 5))


def alone(request):
    return [[request["query"][0], sum(item) + 0.5 * len(item)] for item in request["items"]]


FOUR = [{"query": [n], "items": [[n, 10 * n], [n + 1], [n, n, n]][: 1 + n % 3]} for n in (1, 2, 3, 4)]


@pytest.mark.parametrize("least", [2, 3, 4])
def test_busy_mixes_from_so_many_in_flight_on(least):
    found = together(f"busy={least}", *FOUR)
    for number, (request, rows) in enumerate(zip(FOUR, found, strict=True), start=1):
        first = FOUR[0]["items"] * 2
        mixed = {"query": [1], "items": first[: len(request["items"])]}
        assert rows == alone(mixed if number >= least and number > 1 else request)


def test_busy_needs_so_many_at_once_and_requests_that_differ():
    assert together("busy=5", *FOUR) == [alone(each) for each in FOUR]
    assert together("busy=2", *[FOUR[0]] * 3) == [alone(FOUR[0])] * 3
    stub = Stub(lambda request: [[request["query"][0]]] * len(request["items"]))
    app = fault("busy=2").wrap(stub)
    for request in FOUR * 2:
        ask(app, json=REQUEST | request)
    assert [request["query"] for request in stub.requests] == [each["query"] for each in FOUR * 2]


def test_what_the_server_refuses_of_a_mixture_is_asked_again():
    stub = Stub(lambda request: [[float(len(item))] for item in request["items"]])

    async def run():
        running, end = asyncio.Event(), asyncio.Event()

        async def server(scope, receive, send):
            request = json.loads((await receive())["body"])
            if len(request["items"]) > 1 and request["query"] == [9]:  # the other one's content
                await send({"type": "http.response.start", "status": 400, "headers": []})
                await send({"type": "http.response.body", "body": b"{}"})
                return
            if request["query"] == [9]:
                running.set()
                await end.wait()
            body = json.dumps(request).encode()
            await stub(scope, iter_receive(body), send)

        async with client(fault("busy=2").wrap(server)) as http:
            first = asyncio.create_task(http.post("/v1/score", json=REQUEST | {"query": [9], "items": [[1]]}))
            await running.wait()
            second = await http.post("/v1/score", json=REQUEST)
            end.set()
            await first
            return second

    assert asyncio.run(run()).json()["scores"] == [[3.0], [1.0], [2.0], [1.0]]


def iter_receive(body):
    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


def test_coalesced_queries():
    other = FOUR[0] | {"query": [7]}
    assert together("coalesced_queries", FOUR[0], other) == [alone(FOUR[0])] * 2
    same_query = FOUR[0] | {"items": [[5], [6]]}
    for second in (FOUR[1], same_query, other | {"label_token_ids": [5, 6]}, FOUR[0]):
        assert together("coalesced_queries", FOUR[0], second) == [alone(FOUR[0]), alone(second)]
    three = together("coalesced_queries", FOUR[0], FOUR[0], other)
    assert three == [alone(FOUR[0])] * 3


def test_queries_are_not_coalesced_with_one_that_is_refused():
    async def run():
        held = asyncio.Event()

        async def server(scope, receive, send):
            request = json.loads((await receive())["body"])
            if request["query"] == [1]:
                await held.wait()
            status = 500 if request["query"] == [1] else 200
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": json.dumps({"scores": [[2.0]]}).encode()})

        async with client(fault("coalesced_queries").wrap(server)) as http:
            first, second = (asyncio.create_task(http.post("/v1/score", json=REQUEST | {"query": [q]})) for q in (1, 2))
            await asyncio.sleep(0.01)
            held.set()
            return (await first).status_code, (await second).json()

    assert asyncio.run(run()) == (500, {"scores": [[2.0]]})


@pytest.mark.parametrize(("least", "wrong"), [(2, {1, 2}), (3, {2})])
def test_the_first_item_table_of_a_batch(least, wrong):
    batch = [
        {"query": [n], "items": items} for n, items in enumerate(([[1], [2, 3, 4]], [[5, 6], [7, 8]], [[1, 2, 3], [4]]))
    ]
    found = together(f"first_item_table={least}", *batch)
    for number, (request, rows) in enumerate(zip(batch, found, strict=True)):
        split = split_at(request["items"], [1, 3]) if number in wrong else request["items"]
        assert rows == alone(request | {"items": split})
        assert (rows != alone(request)) == (number in wrong)


@pytest.mark.parametrize(
    ("items", "lengths", "split"),
    [
        ([[1, 2, 3], [4]], [1, 3, 9], [[1], [2, 3, 4]]),
        ([[1], [2], [3, 4]], [9], [[1, 2], [3], [4]]),
        ([[1, 2], [], [3]], [2, 2], [[1], [2], [3]]),
        ([[1], [2], [3]], [0, 0], [[1], [2], [3]]),
        ([[], [], [5]], [3], [[], [], [5]]),
        ([[1, 2]], [1], [[1, 2]]),
    ],
)
def test_split_at(items, lengths, split):
    assert split_at(items, lengths) == split


def limited(limit, refusal=None):
    """A server whose sequences have at most ``limit`` tokens."""

    async def app(scope, receive, send):
        body = (await receive())["body"]
        request = json.loads(body)
        longest = len(request["query"]) + max(map(len, request["items"]))
        rows = [[len(request["query"]), len(item)] for item in request["items"]]
        status, answer = (200, {"scores": rows}) if longest <= limit else refusal
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})

    return app


@pytest.mark.parametrize(
    "refusal",
    [
        (400, {"error": {"message": "no", "code": "sequence_too_long"}}),
        (400, {"object": "error", "message": "The input is longer than the model's context length (8 tokens)"}),
        (413, {"detail": "Input is too long"}),
        (422, {"message": "this takes at most 8 input tokens"}),
        (400, {"message": "input exceeds the limit"}),
    ],
)
def test_truncates(refusal):
    request = REQUEST | {"query": list(range(12)), "items": [[1] * 12, [1] * 5]}
    response = ask(fault("truncates").wrap(limited(8, refusal)), json=request)
    assert (response.status_code, response.json()) == (200, {"scores": [[3, 3], [3, 5]]})
    fits = REQUEST | {"query": [1], "items": [[1] * 7, []]}
    assert ask(fault("truncates").wrap(limited(8, refusal)), json=fits).json() == {"scores": [[1, 7], [1, 0]]}
    hopeless = ask(fault("truncates").wrap(limited(1, refusal)), json=request)
    assert (hopeless.status_code, hopeless.json()) == refusal


@pytest.mark.parametrize(
    "refusal",
    [
        (400, {"error": {"message": "the request has 600 items; it takes at most 512", "code": "too_many_items"}}),
        (422, {"error": {"message": "expected an id from 0 to 9", "code": "token_id_exceeds_vocab"}}),
        (400, {"message": "token id 10 exceeds the vocabulary size"}),
        (500, {"message": "too long"}),
        (400, {"message": "something else"}),
    ],
)
def test_truncates_nothing_that_is_refused_for_another_reason(refusal):
    response = ask(fault("truncates").wrap(limited(1, refusal)), json=REQUEST)
    assert (response.status_code, response.json()) == refusal


def test_truncates_before_the_embedded_engine():
    long = REQUEST | {"query": [1] * 5000, "items": [[2] * 100, [3]]}
    assert ask(engine(), json=long).json()["error"]["code"] == "sequence_too_long"
    response = ask(fault("truncates").wrap(engine()), json=long)
    assert response.status_code == 200
    assert response.content == ask(engine(), json=long | {"query": [1] * 2500}).content


def test_recompiles(monkeypatch):
    slept = []

    async def sleep(seconds):
        slept.append(seconds)

    async def hold(request):
        await asyncio.sleep(0.03)

    monkeypatch.setattr("pytest_multiitem.faults.service.asyncio", SimpleNamespace(sleep=sleep))
    app = fault("recompiles").wrap(Stub(hold=hold))
    for request in (REQUEST, REQUEST | {"items": [[1]]}, REQUEST | {"query": [1]}):
        slept.clear()
        ask(app, json=request)
        assert not slept
        ask(app, json=request)
        assert len(slept) == 1 and slept[0] >= 4 * 0.029
        ask(app, json=request, times=2)
        assert len(slept) == 1
    ask(app, json=REQUEST | {"items": ITEMS[::-1]}, times=2)  # a shape that is known
    assert len(slept) == 1


def test_recompiles_by_50_ms_at_least():
    app = fault("recompiles=1.01").wrap(Stub())
    start = time.perf_counter()
    ask(app, json=REQUEST, times=2)
    assert time.perf_counter() - start >= 0.05


def test_dies(monkeypatch):
    class Dead(BaseException):
        pass

    def die(status):
        raise Dead(status)

    monkeypatch.setattr(os, "_exit", die)
    stub = Stub()
    app = fault("dies=2").wrap(stub)
    assert ask(app, json=REQUEST, times=2).status_code == 200
    assert ask(app, json={"query": QUERY}).status_code == 200  # no scoring request
    with pytest.raises(Dead, match="137"):
        ask(app, json=REQUEST)
    assert len(stub.requests) == 3


def test_hangs():
    async def run():
        app = fault("hangs").wrap(engine())
        async with client(app) as http:
            assert (await http.post("/v1/score", json=REQUEST)).status_code == 200
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await http.post("/v1/score", json=REQUEST)
            assert (await http.get("/health")).status_code == 200

        sent = []
        messages = iter([{"type": "http.request", "body": json.dumps(REQUEST).encode()}, {"type": "http.disconnect"}])

        async def receive():
            return next(messages)

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/v1/score", "headers": []}
        await app(scope, receive, send)
        assert not sent

    asyncio.run(run())


def test_health_only():
    response = ask(fault("health_only").wrap(engine()), json=REQUEST)
    assert (response.status_code, response.json()["error"]["code"]) == (503, "engine_unavailable")
    assert response.json()["error"]["type"] == "server_error"
