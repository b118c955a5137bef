"""Attaching to a running server: what it says of itself holds, or contradicts what the user said."""

import json
from itertools import chain

import httpx
import pytest
from stub_targets import packed, packed_query_prefix, serial

from pytest_multiitem.adapters.base import choose_engine
from pytest_multiitem.comparison.measuring import arms
from pytest_multiitem.comparison.measuring.sides import sides_of, with_served_delimiter
from pytest_multiitem.errors import UsageError
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.servers.errors import NeverReady
from pytest_multiitem.settings.resolve import resolve
from pytest_multiitem.targets.attach import UNKNOWN, attach, attach_ready, client_of, settings_of
from pytest_multiitem.targets.ready import ScoredRequest
from pytest_multiitem.transport.client import ScoreFailure

PACKS = {
    "model_path": "Qwen/Qwen3-0.6B",
    "backend": "jax",
    "dtype": "torch.bfloat16",
    "device": "cuda:0",
    "vocab_size": 900,
    "semantics": {"declared": "prefix_first_delim"},
    "multi_item_scoring_delimiter": 5,
    "multi_item_scoring_chunk_size": 2,
    "multi_item_mask_impl": "segment",
}
SERIAL = {"multi_item_scoring_delimiter": None, "multi_item_mask_impl": "auto"}
EXTENDS = {
    **SERIAL, "multi_item_enable_prefill_extend": True, "multi_item_scoring_chunk_size": 32,
    "semantics": {"declared": "query_prefix"},
}  # fmt: skip
MIS = {"enable_mis": True, "attention_backend": "flashinfer", "dtype": "auto"}


@pytest.fixture
def served(monkeypatch):
    """Serve a description and scores under ``http://HOST``; ``asked`` are the paths that were asked for."""
    original, hosts, asked = httpx.Client, {}, []

    def handle(request):
        asked.append(request.url.path)
        info, scores = hosts[request.url.host]
        if request.url.path == "/health":
            return httpx.Response(200)
        if request.url.path == "/v1/score":
            body = json.loads(request.content)
            if (info or {}).get("multi_item_scoring_delimiter") in {*body["query"], *chain(*body["items"])}:
                return httpx.Response(400, json={"error": {"code": "delimiter_in_content"}})
            rows = scores(body["query"], body["items"], body["label_token_ids"])
            return httpx.Response(200, json={"scores": rows.tolist()})
        known = request.url.path == "/get_server_info" and info is not None
        return httpx.Response(200, json=info) if known else httpx.Response(404)

    def client(*, base_url, **more):
        return original(base_url=base_url, transport=httpx.MockTransport(handle))

    monkeypatch.setattr(httpx, "Client", client)

    def serve(info, scores=packed, host="host"):
        hosts[host] = (info, scores)
        return f"http://{host}"

    serve.asked = asked
    return serve


def target(served, role, info, engine=None, **given):
    """The server behind a description, attached with settings of pytest's command line."""
    settings = resolve({f"multiitem_{name}": value for name, value in given.items()}, {}, {})
    url = served(info)
    if engine is not None:
        settings = resolve({"multiitem_engine": engine, "multiitem_multi_url": url}, {}, {})
        settings = choose_engine(engine).fit(settings)
    return attach(role, client_of(url, settings), settings, choose_engine(settings.engine))


def test_a_server_that_packs_is_taken_at_its_word(served):
    found = target(served, "multi", PACKS)
    profile = found.profile
    assert (profile.role, profile.backend, profile.mask_impl, profile.chunk_size) == ("multi", "jax", "segment", 2)
    assert (profile.semantics, found.delimiter, found.vocab_size) == (Semantics.PREFIX_FIRST_DELIM, 5, 900)
    assert (found.engine, found.adapter, found.dtype) == ("attached", None, "torch.bfloat16")
    assert found.info == PACKS and served.asked == ["/get_server_info"], "asked once"


def test_a_server_that_tells_nothing_is_what_the_settings_say(served):
    found = target(served, "multi", None)
    profile = found.profile
    assert (profile.role, profile.backend, profile.mask_impl, profile.chunk_size) == ("multi", UNKNOWN, None, None)
    assert (profile.semantics, found.delimiter) == (Semantics.PREFIX_FIRST_DELIM, 151_643)
    given = {"mask_impl": "dense", "server_chunk_size": "4", "semantics": "query_prefix", "delimiter": "7"}
    found = target(served, "multi", None, **given)
    assert (found.profile.mask_impl, found.profile.chunk_size, found.delimiter) == ("dense", 4, 7)
    assert found.profile.semantics is Semantics.QUERY_PREFIX
    assert target(served, "serial", None).profile.role == "serial"


def test_a_prefill_extend_server_is_one(served):
    for role in ("multi", "extend", None):
        profile = target(served, role, EXTENDS).profile
        assert (profile.role, profile.mask_impl, profile.chunk_size) == ("extend", None, None)
        assert profile.semantics is Semantics.QUERY_PREFIX
    assert target(served, "multi", {"multi_item_enable_prefill_extend": True}).profile.semantics == "query_prefix"


def test_the_engine_declares_what_its_server_does_not_tell(served):
    found = target(served, "multi", MIS, engine="sglang")
    assert (found.engine, found.profile.mask_impl, found.profile.backend) == ("sglang", "flashinfer", "pytorch")
    assert found.profile.semantics is Semantics.QUERY_PREFIX
    assert target(served, "multi", MIS).profile.semantics is Semantics.PREFIX_FIRST_DELIM
    own = {**MIS, "semantics": {"declared": "prefix_first_delim"}}
    assert target(served, "multi", own, engine="sglang").profile.semantics is Semantics.PREFIX_FIRST_DELIM


@pytest.mark.parametrize(
    ("role", "info", "given", "words"),
    [
        ("multi", PACKS, {"delimiter": "7"}, "its delimiter is 5, but 7 was given (option --multiitem-delimiter)"),
        (
            "multi",
            PACKS,
            {"mask_impl": "dense"},
            "its mask impl is segment, but dense was given (option",
        ),
        ("multi", PACKS, {"mask_impl": "segment,dense"}, "its mask impl is segment, but dense was given"),
        ("multi", PACKS, {"server_chunk_size": "2,0"}, "its server chunk size is 2, but 0 was given"),
        ("multi", PACKS, {"semantics": "query_prefix"}, "its semantics is prefix_first_delim, but query_prefix"),
        (
            "multi",
            PACKS,
            {"backend": "pytorch"},
            "its backend is jax, but pytorch was given (option",
        ),
        (
            "multi",
            PACKS,
            {"dtype": "float32"},
            "its dtype is bfloat16, but float32 was given (option",
        ),
        ("multi", PACKS, {"device": "tpu"}, "its device is cuda, but tpu was given"),
        ("multi", PACKS, {"vocab_size": "901"}, "its vocab size is 900, but 901 was given"),
        ("multi", PACKS, {"model": "Qwen/Qwen3-4B"}, "its model is Qwen/Qwen3-0.6B, but Qwen/Qwen3-4B was given"),
        ("multi", EXTENDS, {"mask_impl": "dense"}, "it runs prefill+extend, which has no mask impl, but dense was"),
        ("multi", EXTENDS, {"server_chunk_size": "2"}, "it runs prefill+extend, which has no server chunk size, but 2"),
        ("multi", EXTENDS, {"semantics": "prefix_first_delim"}, "its semantics is query_prefix, but"),
        ("multi", SERIAL, {}, "it scores serially (it has no delimiter); give the address of one that packs"),
        ("multi", {"enable_mis": False}, {}, "it scores serially"),
        ("extend", PACKS, {}, "it packs items (with the delimiter 5); give the address of one that runs prefill+ext"),
        ("serial", PACKS, {}, "it packs items (with the delimiter 5); the baseline scores serially"),
        ("serial", MIS, {}, "it packs items (with enable_mis); the baseline"),
        ("serial", EXTENDS, {}, "it runs prefill+extend; the baseline"),
        ("multi", {"semantics": {"declared": "all_delims_prefix"}}, {}, "which equals no serial scoring"),
    ],
)
def test_a_server_that_is_another_one_than_the_user_says_is_refused(served, role, info, given, words):
    with pytest.raises(UsageError) as caught:
        target(served, role, info, **given)
    message = str(caught.value)
    assert words in message and "\n" not in message
    assert message.startswith(f"the {'prefill+extend' if role == 'extend' else role}") or "multi-item server" in message


@pytest.mark.parametrize(
    ("role", "info", "given"),
    [
        ("multi", PACKS, {"delimiter": "5", "mask_impl": "segment", "server_chunk_size": "2", "dtype": "bfloat16"}),
        ("multi", PACKS, {"backend": "pytorch,jax", "device": "cuda", "model": "Qwen/Qwen3-0.6B", "vocab_size": "800"}),
        ("multi", PACKS, {"model": "/models/somewhere", "device": "auto"}),
        ("multi", {**PACKS, "dtype": "auto", "device": "TFRT_CPU_0"}, {"dtype": "float32", "device": "tpu"}),
        ("multi", {**PACKS, "semantics": {"declared": "all_delims_prefix"}}, {"semantics": "query_prefix"}),
        ("serial", SERIAL, {"mask_impl": "dense", "delimiter": "7", "semantics": "query_prefix"}),
        ("serial", {**SERIAL, "backend": "transformers"}, {"backend": "pytorch"}),
    ],
)
def test_what_does_not_differ_is_no_contradiction(served, role, info, given):
    assert target(served, role, info, **given).profile.role == role


@pytest.mark.parametrize(("origin", "words"), [("env", "environment variable MULTI_ITEM_DELIM"), ("ini", "ini val")])
def test_where_the_contradiction_comes_from(served, origin, words):
    ini = {"multiitem_delimiter": "7"} if origin == "ini" else {}
    settings = resolve({}, ini, {} if ini else {"MULTI_ITEM_DELIMITER": "7"})
    with pytest.raises(UsageError, match=words):
        attach("multi", client_of(served(PACKS), settings), settings, None)


def test_a_command_says_its_own_flag(served):
    settings = settings_of({"delimiter": ("--delimiter", 7), "vocab_size": ("--vocab-size", None)})
    with pytest.raises(UsageError, match=r"\(--delimiter\)"):
        attach(None, client_of(served(PACKS), settings), settings, None)


def test_no_message_shows_a_password(served):
    served(PACKS)
    settings = resolve({"multiitem_delimiter": "7"}, {}, {})
    with pytest.raises(UsageError) as caught:
        attach("multi", client_of("http://me:s3cret@host/v1/score", settings), settings, None)
    assert "s3cret" not in str(caught.value) and "server http://host says" in str(caught.value)


@pytest.mark.parametrize("delimiter", [11, 14, 16, 999])
def test_readiness_is_asked_for_without_the_servers_delimiter(served, delimiter):
    url = served({"multi_item_scoring_delimiter": delimiter})
    settings = resolve({}, {}, {})
    assert attach_ready("multi", url, settings, None).delimiter == delimiter


def cold(scores):
    """Scores whose rows stand in the wrong places in the first answer."""
    turns = iter([-1])
    return lambda query, items, labels: scores(query, items, labels)[:: next(turns, 1)]


@pytest.mark.parametrize("scores", [packed, cold(packed)], ids=["healthy", "cold"])
def test_the_answer_by_which_an_attached_server_is_ready_is_judged(served, scores):
    target = attach_ready("multi", served(None, scores), resolve({}, {}, {}), None)
    judged = target.judge_answers()
    assert (judged.answers, judged.rows) == (1, 2)
    assert (judged.problem or "").startswith("wrong_scores") is (scores is not packed)


@pytest.mark.parametrize("scores", [packed, cold(packed)], ids=["healthy", "cold"])
def test_the_answer_by_which_a_started_server_is_ready_is_judged(served, scores):
    url, probe = served(None, scores), ScoredRequest((5, 6), delimiter=999)
    probe(url)
    target = attach("multi", client_of(url, resolve({}, {}, {})), resolve({}, {}, {}), None)
    probe.hand_over(target)
    assert (target.judge_answers().problem is not None) is (scores is not packed)
    probe.hand_over(target)
    assert target.answers.mark() == 0, "it is judged once"


def test_a_server_that_does_not_score_is_never_ready(served):
    def refuses(query, items, labels):
        return packed_query_prefix(query, items[:1], labels)

    with pytest.raises(
        NeverReady, match="the multi-item server http://host cannot be asked: expected 2 rows of 2 scores"
    ):
        attach_ready("multi", served(None, refuses), resolve({}, {}, {}), None)


def test_a_failure_names_the_server(served):
    found = target(served, "multi", PACKS)
    with pytest.raises(ScoreFailure) as caught:
        found.score_ids([1, 5], [[2]], [3, 4])
    assert str(caught.value).startswith("http_error: multi-item jax segment chunk 2 server http://host: HTTP 400")


# Commands


def compared(**given):
    settings = resolve({f"multiitem_{name}": value for name, value in given.items()}, {}, {})
    return settings, sides_of(settings, choose_engine(settings.engine))


def test_a_comparison_is_of_the_delimiter_that_its_servers_tell(served):
    served(PACKS, host="a")
    served({"backend": "pytorch"}, host="b")
    settings, sides = compared(compare_urls="jax=http://a,pytorch=http://b")
    assert with_served_delimiter(settings, sides).delimiter == 5
    served({**PACKS, "backend": "pytorch", "multi_item_scoring_delimiter": 6}, host="b")
    with pytest.raises(UsageError, match=r"different delimiters \(pytorch .* with 6, jax .* with 5\)"):
        with_served_delimiter(settings, sides)
    settings, sides = compared(compare_urls="jax=http://a", backend="jax", delimiter="7")
    with pytest.raises(UsageError, match="its delimiter is 5, but 7 was given"):
        with_served_delimiter(settings, sides)
    settings, sides = compared(compare_urls="pytorch=http://a", backend="pytorch")
    with pytest.raises(UsageError, match="its backend is jax, but pytorch was given"):
        with_served_delimiter(settings, sides)


def test_an_arm_may_be_a_server_that_runs_already(served, tmp_path):
    served({**PACKS, "multi_item_scoring_chunk_size": 0}, host="a")
    served({**PACKS, "multi_item_scoring_chunk_size": 0}, host="b")
    shape = {"bench_items": "4", "vocab_size": "900", "bench_query_tokens": "8", "labels": "6,7"}
    words = {f"multiitem_{name}": value for name, value in shape.items()}
    pair = arms.arms_of(["MULTI_ITEM_MULTI_URL=http://a"], ["MULTI_ITEM_MULTI_URL=http://b"], words, "packed")
    assert [arm.side.url for arm in pair] == ["http://a", "http://b"]
    found = arms.measure(pair, tmp_path)
    assert [row.status for row in found.rows] == ["ok", "ok"] and found.record.agreement.max_abs_diff == 0.0
    served(SERIAL, serial, host="b")
    with pytest.raises(UsageError, match="the multi-item server http://b says that it scores serially"):
        arms.measure(pair, tmp_path)
