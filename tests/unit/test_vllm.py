"""vLLM without vLLM: what its client sends and makes of the answers, and how the adapter starts and judges it."""

from dataclasses import replace
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from stub_targets import StubSubject

from fake_vllm import BOS, FakeVllm, probability, serving
from pytest_multiitem.adapters.attestation import Attestation
from pytest_multiitem.adapters.base import Profile, choose_engine
from pytest_multiitem.adapters.generative import GenerativeClient, NotSent
from pytest_multiitem.adapters.launched import launch_of
from pytest_multiitem.errors import EngineUnavailable, UsageError
from pytest_multiitem.gates.ladder import measure_labels
from pytest_multiitem.gates.record import judged
from pytest_multiitem.gates.registry import gates
from pytest_multiitem.gates.run_subject import RunSubject
from pytest_multiitem.results.records import Verdict
from pytest_multiitem.scoring.cases import Case
from pytest_multiitem.scoring.modes import ModeName
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.servers.errors import NeverReady
from pytest_multiitem.settings.resolve import resolve
from pytest_multiitem.targets.attach import attach_ready
from pytest_multiitem.targets.one_server import serial_side
from pytest_multiitem.transport.client import FailureKind, ScoreFailure, prepare, read_scores

VLLM = choose_engine("vllm")
QUERY, ITEMS, LABELS = [5, 6, 7], [[1], [2, 3], [4, 4, 4]], (40, 50, 60)
MULTI, SERIAL = Profile("multi", "pytorch", "unpacked", 0, Semantics.QUERY_PREFIX), Profile("serial", "pytorch")


@pytest.fixture
def vllm(request):
    """A server with the fault of the parameter, or a healthy one."""
    server = FakeVllm(getattr(request, "param", ""))
    with serving(server) as server.url:
        yield server


def case(query=QUERY, items=ITEMS, labels=LABELS):
    return Case("one", tuple(query), tuple(map(tuple, items)), labels, pool=tuple(range(10, 39)))


@pytest.fixture
def client(vllm):
    with GenerativeClient(vllm.url) as made:
        yield made


def alone(items=ITEMS, labels=LABELS, softmax=True):
    rows = np.array([[probability([*QUERY, *item], label) for label in labels] for item in items])
    return rows / rows.sum(axis=1, keepdims=True) if softmax else rows


@pytest.mark.parametrize("softmax", [True, False])
def test_each_label_is_a_call_in_which_it_comes_first(vllm, client, softmax):
    scores = client.score(QUERY, ITEMS, LABELS, apply_softmax=softmax)
    assert np.allclose(scores, alone(softmax=softmax), rtol=1e-12)
    sent = [body["label_token_ids"] for _, body in vllm.calls]
    assert sent == [[40, 50, 60], [50, 40, 60], [60, 40, 50]]
    for path, body in vllm.calls:
        assert path == "/generative_scoring" and "model" not in body
        assert body["apply_softmax"] is softmax and body["add_special_tokens"] is False  # true is the default of both


def test_text_is_sent_without_special_tokens(vllm, client):
    body = {"query": "ab", "items": ["c"], "label_token_ids": [40, 50], "apply_softmax": True}
    shape = prepare((), [()], (40, 50))
    _, response = client.timed_send(replace(shape, body=msgspec.json.encode(body)))
    got = read_scores(response, shape)[0, 0]
    plain, special = ([probability(ids, label) for label in (40, 50)] for ids in (b"abc", [BOS, *b"ab", BOS, *b"c"]))
    assert got == pytest.approx(plain[0] / sum(plain)) and got != pytest.approx(special[0] / sum(special))


@pytest.mark.parametrize("labels", [(40,), tuple(range(40, 62))])
def test_probabilities_of_one_label_and_of_more_than_a_call_takes(vllm, client, labels):
    scores = client.score(QUERY, ITEMS, labels, apply_softmax=False)
    assert np.allclose(scores, alone(labels=labels, softmax=False), rtol=1e-12)
    assert len(vllm.calls) == len(labels)


def test_a_softmax_over_more_labels_than_a_call_takes_is_not_sent(vllm, client):
    with pytest.raises(NotSent, match="a softmax over 20 labels at most, and this is over 21"):
        client.score(QUERY, ITEMS, range(40, 61))
    assert not vllm.calls


def test_what_would_be_cut_is_not_sent(vllm, client):
    longest = [9] * (vllm.max_model_len - 1 - len(QUERY))
    assert np.allclose(client.score(QUERY, [longest], LABELS), alone([longest]), rtol=1e-12)
    vllm.calls.clear()
    with pytest.raises(NotSent, match=r"has 64 tokens.*cuts a prompt to the first 63.*--max-model-len"):
        client.score(QUERY, [[1], [*longest, 9]], LABELS)
    assert not vllm.calls


def test_an_over_long_query_would_have_given_every_item_one_score(vllm):
    """What is kept from the gates: the fake cuts as the engine does."""
    body = {"query": [9] * 70, "items": ITEMS, "label_token_ids": [40, 50]}
    assert len({entry["score"] for entry in vllm.post("/generative_scoring", body)["data"]}) == 1


def test_text_that_may_be_too_long_is_not_sent(vllm, client):
    body = {"query": "word " * 12, "items": ["more"], "label_token_ids": [40, 50]}
    request = replace(prepare((), [()], (40, 50)), body=msgspec.json.encode(body))
    with pytest.raises(NotSent, match=r"may have 64 tokens \(it has as many bytes\)"):
        client.timed_send(request)
    assert not vllm.calls


def test_what_a_request_takes_is_the_time_of_all_its_calls(vllm, client):
    request = prepare(QUERY, ITEMS, LABELS)
    seconds, response = client.timed_send(request)
    assert seconds > 0 and len(vllm.calls) == 3
    assert np.allclose(client.read(response, request), alone(), rtol=1e-12)
    with pytest.raises(NotSent, match="3 labels are no single HTTP request"):
        client.build(request)


def test_who_listens_is_told_of_one_answer(vllm, client):
    heard = []
    client.heard = lambda request, scores: heard.append((request.labels, scores.shape))
    client.score(QUERY, ITEMS, LABELS)
    with client.another() as other:
        other.score(QUERY, ITEMS, LABELS)
    assert heard == [(LABELS, (3, 3))] * 2


def test_a_refusal_stays_one(vllm, client):
    with pytest.raises(ScoreFailure, match="1 to 20 ids of the vocabulary") as refused:
        client.score(QUERY, ITEMS, (-1, 5))
    assert (refused.value.kind, refused.value.status) == (FailureKind.HTTP_ERROR, 400)
    assert len(vllm.calls) == 1


@pytest.mark.parametrize(("vllm", "words"), [("short", "scores of the items"), ("twice", "index")], indirect=["vllm"])
def test_an_answer_without_a_score_of_each_item_is_wrong(vllm, client, words):
    with pytest.raises(ScoreFailure, match=words) as failure:
        client.score(QUERY, ITEMS, LABELS)
    assert failure.value.kind is FailureKind.BAD_RESPONSE


@pytest.mark.parametrize("vllm", ["turned"], indirect=True)
def test_scores_go_by_their_index(vllm, client):
    assert np.allclose(client.score(QUERY, ITEMS, LABELS), alone(), rtol=1e-12)


def test_a_server_is_told_apart_by_its_version_and_model(vllm, client):
    assert client.server_info() == {
        "version": "0.32.0", "served_model_name": "tiny", "model_path": "/models/tiny", "context_length": 64,
    }  # fmt: skip


@pytest.mark.parametrize("vllm", ["silent"], indirect=True)
def test_a_gateway_that_says_nothing_has_no_known_limit(vllm, client):
    assert client.server_info() is None
    assert client.score(QUERY, [[9] * 200], LABELS).shape == (1, 3)


def settings_of(vllm, **more):
    urls = {f"multiitem_{role}_url": vllm.url for role in ("multi", "serial")}
    return VLLM.fit(resolve({"multiitem_engine": "vllm", **urls, **more}, {}, {}))


def test_attached_it_is_asked_on_its_own_wire(vllm):
    target = attach_ready("multi", vllm.url, settings_of(vllm), VLLM)
    with target.client:
        assert {path for path, _ in vllm.calls} == {"/generative_scoring"}
        assert target.profile.mask_impl == "unpacked" and target.profile.semantics is Semantics.QUERY_PREFIX
        assert target.max_tokens == 64 and target.engine_version(settings_of(vllm)) == "0.32.0"
        with target.attest() as attestation:
            target.score(case())
        assert attestation == Attestation("unpacked")
        with pytest.raises(EngineUnavailable, match=r"does not pack.*--serial-url http"):
            serial_side(target, settings_of(vllm))


def test_a_server_of_another_engine_is_not_asked_so(vllm):
    """Without the engine's name the address is one of /v1/score, which vLLM does not serve."""
    with pytest.raises((NeverReady, ScoreFailure), match=r"404.*that is asked elsewhere: --\S*engine vllm"):
        attach_ready("multi", vllm.url, resolve({}, {}, {}), None)
    assert {path for path, _ in vllm.calls} == {"/v1/score"}


class _Subject:
    """Both sides of one fake server, for a gate."""

    def __init__(self, multi, serial):
        self.multi, self.serial, self.settings = multi, serial, SimpleNamespace(seed=3)
        self.record = lambda sample: None

    def cases(self, target):
        return [case(labels=LABELS[:2])]


def test_labels_are_compared_as_far_as_the_engine_takes_them(vllm):
    settings = settings_of(vllm, multiitem_vocab_size="2000")
    with attach_ready("multi", vllm.url, settings, VLLM).client as one:
        multi, serial = (attach_ready(role, vllm.url, settings, VLLM) for role in ("multi", "serial"))
        measured = measure_labels(_Subject(multi, serial))
        assert measured.problem is None and measured.value == 0.0
        differences = measured.details.differences
        left_out = [name for name, difference in differences.items() if difference is None]
        assert left_out == [name for name in differences if name.endswith(", softmax")] and len(left_out) == 1
        assert measured.samples["label_sets"] == len(differences) - len(left_out) > 5
        assert one.url == multi.client.url


def test_what_is_about_packing_is_not_run():
    run = SimpleNamespace(engine=VLLM, settings=SimpleNamespace(property_examples=1, items=(), reference="none"))
    run.record = None
    subject = RunSubject(run, "pytorch")
    with pytest.raises(EngineUnavailable, match="vLLM does not pack: each item of a request is a sequence of its own"):
        subject.require(gates()["speedup_n32_ge_3x"])
    subject.require(gates()["same_length_isolation_zero"])
    run.engine = choose_engine("sglang")
    subject.require(gates()["speedup_n32_ge_3x"])
    assert [gate.name for gate in gates().values() if gate.about_packing] == ["speedup_n32_ge_3x"]


def fitted(**more):
    given = {"multiitem_engine": "vllm", "multiitem_device": "cpu", "multiitem_model": "/models/tiny", **more}
    return VLLM.fit_to_show(resolve(given, {}, {}))


def test_a_role_that_it_does_not_have_is_not_run():
    assert VLLM.unavailable(MULTI, fitted()) is None and VLLM.unavailable(SERIAL, fitted()) is None
    reason = VLLM.unavailable(Profile("extend", "pytorch"), fitted())
    assert reason == "engine vllm has no launch profile for extend servers (vllm-extend)"
    assert ModeName.GENERATIVE_SCORING in VLLM.modes and ModeName.IDS not in VLLM.modes


def test_its_settings_are_its_own():
    settings = fitted()
    assert (settings.backend, settings.mask_impl) == (("pytorch",), ("unpacked",))
    assert (settings.semantics, settings.dtype) == ("query_prefix", "float32")
    assert fitted(multiitem_device="cuda").dtype == "bfloat16"
    with pytest.raises(UsageError, match="engine vllm has no other"):
        fitted(multiitem_mask_impl="dense")


def test_its_command_line():
    spec = launch_of("vllm-serial", fitted(), only_shown=True)
    words = " ".join(spec.command)
    assert words.startswith("python -m vllm.entrypoints.cli.main serve /models/tiny --host 127.0.0.1 --port 30011 ")
    assert "--dtype float32 --no-enable-prefix-caching --max-model-len 4096 --enforce-eager --max-num-seqs 32" in words
    assert spec.env["VLLM_CPU_KVCACHE_SPACE"] == "1" and spec.env["VLLM_NO_USAGE_STATS"] == "1"
    multi = " ".join(launch_of("vllm-multi", fitted(), only_shown=True).command)
    assert "prefix-caching" not in multi and "--port 30010" in multi
    pooling = " ".join(launch_of("vllm-pooling", fitted(), only_shown=True).command)
    assert "--runner pooling" in pooling


@pytest.mark.parametrize(("profile", "mask"), [(MULTI, "unpacked"), (SERIAL, "serial")])
def test_what_it_runs_is_known_where_it_says_who_it_is(profile, mask):
    assert VLLM.attest(profile, {"version": "0.32.0"}, None) == Attestation(mask)
    assert VLLM.attest(profile, {}, None) == Attestation()


@pytest.mark.parametrize(
    ("query", "items", "harmful"), [((), ((), (1,)), True), ((), ((1,),), False), ((1,), ((),), False)]
)
def test_a_prompt_without_a_token_is_not_sent(query, items, harmful):
    reason = VLLM.hazard(MULTI, case(query, items))
    assert (reason is not None) is harmful


# -- the gate of what its wire does of its own ---------------------------------------------------


def judged_wire(vllm, **more):
    """The record of the gate on a server that refuses over-long prompts, or as ``more`` says."""
    vllm.refuses_long = more.pop("refuses_long", True)
    settings = VLLM.fit(resolve({"multiitem_engine": "vllm", "multiitem_multi_url": vllm.url}, {}, {}))
    target = attach_ready("multi", vllm.url, settings, VLLM)
    with target.client:
        subject = StubSubject([case()], multi=target, serial=target)
        return judged(gates()["generative_scoring_agrees"], lambda gate: gate.measure(subject))


def test_the_gate_of_the_wire_passes(vllm):
    record = judged_wire(vllm)
    assert record.verdict is Verdict.PASS, record.reason
    assert set(record.details.not_made) == {"text"}, record.details.not_made


def test_prompts_that_are_cut_are_named(vllm):
    record = judged_wire(vllm, refuses_long=False)
    assert record.verdict is Verdict.FAIL and "over-long prompts: a prompt of 66 tokens is cut without a word" in (
        record.reason
    )
    assert "3 different items all score" in record.reason


@pytest.mark.parametrize(
    ("vllm", "check"),
    [
        ("last label", "the first label alone"),
        ("plain by default", "a softmax where nothing is said"),
        ("salt", "a salt of the cache"),
    ],
    indirect=["vllm"],
)
def test_the_gate_of_the_wire_sees_what_is_wrong(vllm, check):
    record = judged_wire(vllm)
    assert record.verdict is Verdict.FAIL and [*record.details.broken] == [check], record.details.broken
