"""The embedded engine's HTTP behaviour, over a fake model."""

import asyncio
import json
import math
import threading
from importlib import resources

import httpx
import numpy as np
import pytest
from fake_backend import VOCAB, FakeBackend

from pytest_multiitem.engine.app import create_app
from pytest_multiitem.engine.intake import Intake
from pytest_multiitem.engine.scorer import Scorer
from pytest_multiitem.engine.service import Service
from pytest_multiitem.engine.tokenizer import load_tokenizer
from pytest_multiitem.errors import CheckpointError
from pytest_multiitem.scoring.config import ScorerConfig

DELIMITER = 999
REQUEST = {"query": [1, 2], "items": [[3], [4, 5]], "label_token_ids": [7, 8]}


class WordTokenizer:
    """One id per word: its length; nothing for punctuation."""

    longest_token = 1000

    def encode(self, text):
        return [len(word) if word != "</s>" else DELIMITER for word in text.split() if word != "."]


def make_service(config=None, backend=None, **more):
    backend = backend or FakeBackend()
    scorer = Scorer(backend, config or ScorerConfig(delimiter=DELIMITER))
    given = {"tokenizer": WordTokenizer(), "model": "served", "info": {"engine": "embedded"}}
    return Service(scorer=scorer, vocab_size=VOCAB, max_positions=4096, probe_ids=[0, 1, 2], **(given | more))


def connect(service):
    transport = httpx.ASGITransport(app=create_app(service))
    return httpx.AsyncClient(transport=transport, base_url="http://engine")


def ask(service, method="POST", path="/v1/score", **request):
    async def once():
        async with connect(service) as client:
            return await client.request(method, path, **request)

    return asyncio.run(once())


def error_of(response):
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"}
    return response.status_code, body["error"]["code"], body["error"]["param"]


def expected(service, request):
    fresh = Scorer(FakeBackend(), service.scorer.config)
    return fresh.score(request["query"], request["items"], request["label_token_ids"], False).scores.tolist()


def still_answers(service):
    response = ask(service, json=REQUEST)
    assert response.status_code == 200 and response.json()["scores"] == expected(service, REQUEST)


def test_a_score():
    service = make_service()
    response = ask(service, json=REQUEST | {"model": "mine"})
    assert response.status_code == 200
    assert response.json() == {
        "scores": expected(service, REQUEST),
        "model": "mine",
        "object": "scoring",
        "usage": {"prompt_tokens": 8, "total_tokens": 8, "completion_tokens": 0},
    }
    assert ask(service, json=REQUEST).json()["model"] == "served"


def test_softmax_and_item_first_arrive():
    service = make_service(ScorerConfig())
    response = ask(service, json=REQUEST | {"apply_softmax": True, "item_first": True})
    labels = REQUEST["label_token_ids"]
    want = service.scorer.score(REQUEST["query"], REQUEST["items"], labels, True, True).scores
    np.testing.assert_array_equal(response.json()["scores"], want)
    np.testing.assert_allclose(np.sum(response.json()["scores"], axis=1), 1)


MODES = [
    ScorerConfig(delimiter=DELIMITER),
    ScorerConfig(),
    ScorerConfig(prefill_extend=True, scoring_cache=True),
]


@pytest.mark.parametrize("config", MODES, ids=lambda config: config.mode.value)
@pytest.mark.parametrize("temperature", [2.0, 0.25, 1, 1e-300])
def test_a_temperature_divides_the_log_probabilities(config, temperature):
    service = make_service(config)
    right = np.array(ask(service, json=REQUEST | {"apply_softmax": True}).json()["scores"])
    found = ask(service, json=REQUEST | {"apply_softmax": True, "temperature": temperature}).json()
    assert "token_logprobs" not in found
    powers = (right / right.max(axis=1, keepdims=True)) ** (1 / temperature)
    np.testing.assert_allclose(found["scores"], powers / powers.sum(axis=1, keepdims=True), rtol=0, atol=1e-12)


@pytest.mark.parametrize("config", MODES, ids=lambda config: config.mode.value)
@pytest.mark.parametrize("asked", [{}, {"apply_softmax": True}, {"apply_softmax": True, "temperature": 3.0}])
def test_token_logprobs_are_those_over_the_vocabulary_at_no_temperature(config, asked):
    service = make_service(config)
    plain = np.array(ask(service, json=REQUEST).json()["scores"])
    without = ask(service, json=REQUEST | asked).json()
    found = ask(service, json=REQUEST | asked | {"return_token_logprobs": True}).json()
    np.testing.assert_allclose(found.pop("token_logprobs"), np.log(plain), rtol=0, atol=1e-12)
    np.testing.assert_allclose(found["scores"], without["scores"], rtol=0, atol=1e-12)
    assert found.keys() == without.keys()


def test_a_temperature_needs_the_softmax():
    for temperature, softmax in ((0, True), (-1.0, True), (2.0, False)):
        refusal = ask(make_service(), json=REQUEST | {"temperature": temperature, "apply_softmax": softmax})
        assert error_of(refusal) == (400, "invalid_temperature", "temperature")
    assert ask(make_service(), "GET", "/get_server_info").json()["score_fields"] == [
        "temperature", "return_token_logprobs",
    ]  # fmt: skip


def test_a_prompt_is_computed_and_nothing_is_generated():
    service = make_service()
    for prompt, length in (({"input_ids": [1, 2, 3]}, 3), ({"text": "a bb"}, 2)):
        answer = ask(service, "POST", "/generate", json=prompt | {"sampling_params": {"max_new_tokens": 4}})
        assert answer.status_code == 200 and answer.json()["text"] == ""
        told = answer.json()["meta_info"]
        assert (told["prompt_tokens"], told["completion_tokens"]) == (length, 0)
    assert service.scorer.executed()["requests"] == 2
    still_answers(service)


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        (b"{", (400, "invalid_json", None)),
        (b"[1]", (400, "invalid_json", None)),
        (b"{}", (400, "invalid_prompt", "input_ids")),
        (b'{"text": ""}', (400, "invalid_prompt", "input_ids")),
        (b'{"input_ids": "a"}', (400, "invalid_prompt", "input_ids")),
        (b'{"input_ids": [1.5]}', (400, "invalid_token_id_type", "query[0]")),
        (b'{"input_ids": [5000]}', (422, "token_id_exceeds_vocab", "query[0]")),
        (b'{"input_ids": [999]}', (400, "delimiter_in_content", "query[0]")),
    ],
)
def test_a_prompt_that_is_none(body, refusal):
    service = make_service()
    assert error_of(ask(service, "POST", "/generate", content=body)) == refusal
    still_answers(service)


def test_text_is_tokenised_query_and_items_apart():
    text = {"query": "a bb", "items": ["ccc", "dddd eeeee", ""], "label_token_ids": [7, 8]}
    ids = {"query": [1, 2], "items": [[3], [4, 5], []], "label_token_ids": [7, 8]}
    service = make_service()
    assert ask(service, json=text).json() == ask(service, json=ids).json()
    single = ask(service, json=text | {"items": "ccc"}).json()["scores"]
    assert single == expected(service, ids | {"items": [[3]]})


def test_the_checkpoints_tokenizer(tmp_path):
    """Its own truncation is switched off, nothing is added, and a damaged file stops the start."""
    assert load_tokenizer(tmp_path) is None
    data = resources.files("pytest_multiitem.engine") / "data" / "tokenizer.json"
    content = json.loads(data.read_text(encoding="utf-8"))
    plain = (tmp_path / "tokenizer.json").write_text(json.dumps(content)) and load_tokenizer(tmp_path)
    content["truncation"] = {
        "max_length": 2,
        "strategy": "LongestFirst",
        "stride": 0,
        "direction": "Right",
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    ids = load_tokenizer(tmp_path).encode("five words of plain text")
    assert len(ids) > 2 and ids == plain.encode("five words of plain text")
    assert plain.encode("") == []
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("fields", "tokenizer", "refusal"),
    [
        ({"query": "a"}, None, (400, "text_not_supported", "query")),
        ({"query": " . "}, WordTokenizer(), (400, "empty_query", "query")),
        ({"items": ["a", "b </s>"]}, WordTokenizer(), (400, "delimiter_in_content", "items[1][1]")),
        ({"items": ["a", "x" * VOCAB]}, WordTokenizer(), (422, "token_id_exceeds_vocab", "items[1][0]")),
    ],
)
def test_text_that_is_refused(fields, tokenizer, refusal):
    text = {"query": "a", "items": ["b"], "label_token_ids": [7]}
    assert error_of(ask(make_service(tokenizer=tokenizer), json=text | fields)) == refusal


@pytest.mark.parametrize(
    ("fields", "refusal"),
    [
        ({"query": None}, (400, "missing_query", "query")),
        ({"items": []}, (400, "empty_items", "items")),
        ({"label_token_ids": []}, (400, "empty_label_token_ids", "label_token_ids")),
        ({"items": ["text"]}, (400, "mixed_input_types", "items")),
        ({"items": [[1.0]]}, (400, "invalid_token_id_type", "items[0][0]")),
        ({"label_token_ids": [-1]}, (422, "token_id_negative", "label_token_ids[0]")),
        ({"label_token_ids": [VOCAB]}, (422, "token_id_exceeds_vocab", "label_token_ids[0]")),
        ({"items": [[1], [2, DELIMITER]]}, (400, "delimiter_in_content", "items[1][1]")),
        ({"items": [[1]] * 4}, (400, "too_many_items", "items")),
        ({"label_token_ids": [1] * (VOCAB + 1)}, (400, "too_many_labels", "label_token_ids")),
        ({"items": [[1] * 50]}, (400, "sequence_too_long", "items")),
    ],
)
def test_refusals_and_the_server_after_them(fields, refusal):
    service = make_service(ScorerConfig(delimiter=DELIMITER, max_items=3, max_seq_len=40))
    assert error_of(ask(service, json=REQUEST | fields)) == refusal
    assert service.scorer.backend.calls == []
    still_answers(service)


def test_scores_are_bounded_whatever_their_items_are(monkeypatch):
    monkeypatch.setattr("pytest_multiitem.engine.scorer.MAX_SCORES", 4)
    service = make_service()
    still_answers(service)
    calls = len(service.scorer.backend.calls)
    refusal = ask(service, json=REQUEST | {"items": [[], [], []]})
    assert error_of(refusal) == (400, "too_many_scores", "items") and len(service.scorer.backend.calls) == calls


@pytest.mark.parametrize(
    ("fields", "param"), [({"query": "a" * 4097}, "query"), ({"items": ["b", "a" * 4097]}, "items[1]")]
)
def test_a_text_that_must_be_too_long_is_not_tokenised(fields, param):
    class Never:
        longest_token = 1

        def encode(self, text):
            assert text in ("yes", "no"), "the server looks for its labels; this is the request's"
            return [1]

    service, text = make_service(tokenizer=Never()), {"query": "a", "items": ["b"], "label_token_ids": [7]}
    assert ask(service, "GET", "/get_server_info").json()["limits"]["max_text_chars"] == 4096
    assert error_of(ask(service, json=text | fields)) == (400, "sequence_too_long", param)
    assert error_of(ask(service, "POST", "/generate", json={"text": "a" * 4097})) == (400, "sequence_too_long", "text")


@pytest.mark.parametrize(
    "body",
    [b"\x00junk" * 200_000, b"", json.dumps(REQUEST).encode()[:-1], b"\xff\xfe", b"[" * 100_000, b"NaN"],
    ids=["one-megabyte", "empty", "truncated", "utf-16", "deep", "nan"],
)
def test_junk_and_the_server_after_it(body):
    service = make_service()
    assert error_of(ask(service, content=body)) == (400, "invalid_json", None)
    still_answers(service)


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("size", [1001, 1_000_000])
def test_a_body_over_the_limit(streamed, size):
    async def chunks():
        for _ in range(size // 1001):
            yield b" " * 1001

    service = make_service(intake=Intake(1000))
    response = ask(service, content=chunks() if streamed else b" " * size)
    assert error_of(response) == (413, "body_too_large", None)
    still_answers(service)


def test_a_body_of_the_limit_is_taken():
    body = json.dumps(REQUEST).encode()
    assert ask(make_service(intake=Intake(len(body))), content=body).status_code == 200


def test_an_unexpected_failure_shows_nothing_of_the_inside(caplog):
    service = make_service()
    service.scorer.backend.fail_with = RuntimeError("secret/path.py line 3")
    response = ask(service, json=REQUEST)
    assert error_of(response) == (500, "internal_error", None)
    assert "secret" not in response.text and "Traceback" not in response.text
    assert "secret/path.py line 3" in caplog.text, "the log has the trace"
    service.scorer.backend.fail_with = None
    still_answers(service)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("logit", [math.nan, math.inf, -math.inf])
def test_scores_that_are_no_numbers_are_an_internal_error(logit):
    service = make_service()
    service.scorer.backend.logit_override = logit
    response = ask(service, json=REQUEST | {"apply_softmax": True})
    assert error_of(response) == (500, "internal_error", None)
    service.scorer.backend.logit_override = None
    still_answers(service)


@pytest.mark.parametrize(
    ("method", "path", "refusal"),
    [
        ("GET", "/", (404, "not_found", None)),
        ("POST", "/v1/scores", (404, "not_found", None)),
        ("POST", "/v1/score/", (404, "not_found", None)),
        ("GET", "/v1/score", (405, "method_not_allowed", None)),
        ("DELETE", "/health", (405, "method_not_allowed", None)),
    ],
)
def test_unknown_paths_and_wrong_methods(method, path, refusal):
    response = ask(make_service(), method, path)
    assert error_of(response) == refusal
    if refusal[0] == 405:
        assert response.headers["allow"]


def test_health_lives_while_the_engine_fails():
    service = make_service()
    assert ask(service, "GET", "/health").status_code == 200
    assert ask(service, "GET", "/health_generate").status_code == 200
    assert service.scorer.executed()["requests"] == 1, "the probe is a real request"
    service.scorer.backend.fail_with = RuntimeError("broken")
    assert ask(service, "GET", "/health").status_code == 200
    assert error_of(ask(service, "GET", "/health_generate")) == (503, "not_ready", None)


def test_server_info_and_models():
    service = make_service()
    ask(service, json=REQUEST)
    info = ask(service, "GET", "/get_server_info").json()
    assert info["engine"] == "embedded"
    assert info["executed"] == service.scorer.executed() and info["executed"]["items"] == 2
    model = ask(service, "GET", "/v1/models").json()["data"][0]
    assert (model["id"], model["max_model_len"]) == ("served", 4096)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_flush_cache(method):
    service = make_service(ScorerConfig(prefill_extend=True, scoring_cache=True))
    for _ in range(2):
        still_answers(service)
    assert ask(service, method, "/flush_cache").json() == {"success": True}
    still_answers(service)
    assert service.scorer.executed()["prefill_extend"]["prefills"] == 2


def test_parallel_requests_get_their_own_answers():
    """The fake model fails where two threads enter it at once."""
    service = make_service(backend=FakeBackend(seconds_per_call=0.001))
    requests = [
        {"query": [i, i + 1], "items": [[i + j] for j in range(i % 5 + 1)], "label_token_ids": [i, 3]}
        for i in range(60)
    ]

    async def everything():
        async with connect(service) as client:
            return await asyncio.gather(*(client.post("/v1/score", json=request) for request in requests))

    for request, response in zip(requests, asyncio.run(everything()), strict=True):
        assert response.status_code == 200
        assert response.json()["scores"] == expected(service, request)


class Blocking(FakeBackend):
    """Holds its first call until told to go on."""

    def __init__(self):
        super().__init__()
        self.entered, self.release = threading.Event(), threading.Event()

    def _call(self, name):
        super()._call(name)
        self.entered.set()
        assert self.release.wait(5)


def test_clients_that_leave_do_not_wedge_the_worker():
    """Whose client left while it waited is never computed; the others are answered."""
    backend = Blocking()
    service = make_service(backend=backend)
    app = create_app(service)

    async def post(leave: asyncio.Event):
        """One request whose client goes away when `leave` is set; what was sent back."""
        messages = iter([{"type": "http.request", "body": json.dumps(REQUEST).encode(), "more_body": False}])
        sent = []

        async def receive():
            for message in messages:
                return message
            await leave.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/v1/score", "headers": [], "query_string": b""}
        await app(scope, receive, send)
        return sent[0]["status"]

    async def scenario():
        leave, stay = asyncio.Event(), asyncio.Event()
        running = asyncio.create_task(post(leave))
        await asyncio.to_thread(backend.entered.wait, 5)
        queued = [asyncio.create_task(post(leave)) for _ in range(5)]
        last = asyncio.create_task(post(stay))
        await asyncio.sleep(0.05)
        leave.set()
        gone = await asyncio.wait_for(asyncio.gather(running, *queued), 5)
        bad = await post_bad()
        backend.release.set()
        return gone, await asyncio.wait_for(last, 5), bad

    async def post_bad():
        async with connect(service) as client:
            return (await client.post("/v1/score", content=b"{")).status_code

    assert asyncio.run(scenario()) == ([499] * 6, 200, 400)
    assert backend.calls == ["prefix", "segment"] * 2
    still_answers(service)


def test_closing_tells_whether_the_running_call_ended():
    backend = Blocking()
    service = make_service(backend=backend)

    async def scenario():
        task = asyncio.create_task(post())
        await asyncio.to_thread(backend.entered.wait, 5)
        assert not service.worker.close(0.01)
        backend.release.set()
        assert (await task).status_code == 200
        assert service.worker.close(5)

    async def post():
        async with connect(service) as client:
            return await client.post("/v1/score", json=REQUEST)

    asyncio.run(scenario())
