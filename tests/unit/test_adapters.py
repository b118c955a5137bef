"""What the adapters of real engines make of what servers say: their modes, their refusals, their silent fallbacks."""

from dataclasses import replace
from types import SimpleNamespace

import httpx
import pytest

from pytest_multiitem.adapters.attestation import Attestation, contradictions
from pytest_multiitem.adapters.base import Engine, Profile, choose_engine
from pytest_multiitem.errors import EngineUnavailable
from pytest_multiitem.gates import run_subject
from pytest_multiitem.scoring.cases import Case

SGLANG, SGL_JAX = choose_engine("sglang"), choose_engine("sgl-jax")
MULTI = Profile("multi", "pytorch", "flashinfer", 0)
PACKED = Profile("multi", "jax", "segment", 0)
OLD = {"multi_item_scoring_delimiter": 151643, "attention_backend": "flashinfer"}
NEW = {"enable_mis": True, "attention_backend": None, "prefill_attention_backend": "flashinfer"}
JAX = {"multi_item_scoring_delimiter": 151643, "multi_item_mask_impl": "segment", "attention_backend": "fa",
       "device": "tpu"}  # fmt: skip
FELL_BACK = (
    "INFO: starting\n"
    "WARNING:sgl_jax.srt.model_executor.model_runner:FlashAttention backend is not supported on CPU; "
    "falling back to native.\nINFO: ready\n"
)


@pytest.mark.parametrize("info", [OLD, NEW])
def test_sglang_isolates_on_flashinfer(info):
    assert SGLANG.attest(MULTI, info, None) == Attestation("flashinfer")


@pytest.mark.parametrize("backend", ["torch_native", "triton", "fa3"])
def test_sglang_on_any_other_backend_is_causal(backend):
    said = SGLANG.attest(MULTI, {**OLD, "attention_backend": backend}, None)
    assert said.mask == f"causal ({backend})" and "plain causal attention" in said.problem


def test_sglang_without_its_switch_is_serial():
    said = SGLANG.attest(MULTI, {"enable_mis": False, "attention_backend": "flashinfer"}, None)
    assert said.mask == "serial" and "runs without it" in said.problem
    serial = Profile("serial", "pytorch")
    assert SGLANG.attest(serial, {"enable_mis": False}, None) == Attestation("serial")
    assert "multi-item scoring on" in SGLANG.attest(serial, NEW, None).problem


@pytest.mark.parametrize("engine", [SGLANG, SGL_JAX, Engine()])
def test_a_server_that_says_nothing_is_unattested(engine):
    assert engine.attest(MULTI, {}, None) == Attestation()


def test_sglang_that_does_not_name_its_backend_is_unattested():
    assert SGLANG.attest(MULTI, {"enable_mis": True}, None).mask == "unattested"


def test_sgl_jax_on_its_accelerator():
    assert SGL_JAX.attest(PACKED, JAX, None) == Attestation("segment")
    assert SGL_JAX.attest(Profile("extend", "jax"), {"multi_item_enable_prefill_extend": True}, None).problem is None
    assert SGL_JAX.attest(Profile("serial", "jax"), {"attention_backend": "fa"}, None) == Attestation("serial")


@pytest.mark.parametrize("device", ["cpu", "tpu"])
def test_sgl_jax_that_cannot_mask_is_caught(device):
    said = SGL_JAX.attest(PACKED, {**JAX, "device": device, "attention_backend": "native"}, None)
    assert said.mask == "causal (native)" and "segment was requested" in said.problem


@pytest.mark.parametrize("device", ["cpu", "tpu"])
def test_sgl_jax_that_falls_back_with_a_word_in_its_log_only_is_caught(tmp_path, device):
    log = tmp_path / "log"
    log.write_text(FELL_BACK)
    said = SGL_JAX.attest(PACKED, {**JAX, "device": device}, log)
    assert said.mask == "causal (native)" and "FlashAttention backend is not supported on CPU" in said.problem
    log.write_text("Fastpath v2 falling back to baseline: reason=unsupported_scheduler_mode")
    assert SGL_JAX.attest(PACKED, JAX, log).problem is None, "another fallback is no matter of the mask"


ON_CPU = {**JAX, "device": "cpu"}


def test_sgl_jax_on_a_cpu_runs_fa_where_its_log_tells_of_no_fallback(tmp_path):
    log = tmp_path / "log"
    log.write_text("INFO: starting\nINFO: ready\n")
    assert SGL_JAX.attest(PACKED, {**ON_CPU, "log_level": "info"}, log) == Attestation("segment")


def test_sgl_jax_on_a_cpu_is_unattested_where_no_log_would_tell_of_a_fallback(tmp_path):
    assert SGL_JAX.attest(PACKED, ON_CPU, None) == Attestation("unattested")
    log = tmp_path / "log"
    log.write_text("")
    assert SGL_JAX.attest(PACKED, {**ON_CPU, "log_level": "error"}, log) == Attestation("unattested")
    assert "segment was requested" in SGL_JAX.attest(PACKED, {**ON_CPU, "multi_item_mask_impl": "dense"}, None).problem


@pytest.mark.parametrize(
    ("profile", "info", "mask"),
    [
        (PACKED, {"attention_backend": "fa"}, "serial"),
        (PACKED, {**JAX, "multi_item_enable_prefill_extend": True}, "prefill+extend"),
        (PACKED, {**JAX, "multi_item_mask_impl": "dense"}, "dense"),
        (Profile("serial", "jax"), JAX, "multi-item"),
        (Profile("extend", "jax"), JAX, "multi-item"),
        # The version without packed mode, whatever it is started for.
        (Profile("serial", "jax"), {"multi_item_enable_prefill_extend": True}, "prefill+extend"),
    ],
)
def test_sgl_jax_in_another_mode_than_asked_for(profile, info, mask):
    said = SGL_JAX.attest(profile, info, None)
    assert said.mask == mask and "was requested" in said.problem


@pytest.mark.parametrize(
    ("engine", "log", "words"),
    [
        (
            SGLANG,
            "AssertionError: Multi-item scoring requires flashinfer attention backend for it.\n",
            "requires flash",
        ),
        (SGLANG, "Exception: flashinfer_python with minimum required version 0.7.2 is not installed.", "not installed"),
        (SGL_JAX, "AssertionError: Multi-item scoring requires flashattention backend. Please", "requires flashatt"),
    ],
)
def test_a_refusal_is_told_in_the_engines_words(engine, log, words):
    assert words in engine.refusal(f"Traceback …\n{log}")
    assert engine.refusal("RuntimeError: Rank 0 scheduler died during initialization (exit code: 1).") is None


def test_requests_that_end_a_server_are_known():
    def case(query, *items):
        return Case("case", query, items, (1, 2), ())

    assert "ends an sglang server" in SGLANG.hazard(MULTI, case((), (), (5,)))
    assert "position -1" in SGLANG.hazard(MULTI, case((), (5,))), "whatever its items are"
    serial = Profile("serial", "pytorch")
    assert "ends an sglang server" in SGLANG.hazard(serial, case((), (), (5,)))
    assert SGLANG.hazard(MULTI, case((1,), (), (5,))) is None and SGLANG.hazard(serial, case((), (5,))) is None
    extend = Profile("extend", "jax")
    assert "prefill+extend" in SGL_JAX.hazard(extend, case((1,), (), (5,)))
    assert SGL_JAX.hazard(extend, case((1,), (5,))) is None and SGL_JAX.hazard(PACKED, case((1,), ())) is None


def test_known_incompatibilities():
    assert "reshape((2, -1, 8, 128))" in SGL_JAX.known_issue("Qwen/Qwen2.5-1.5B-Instruct")
    assert SGL_JAX.known_issue("Qwen/Qwen3-0.6B") is None and SGLANG.known_issue("Qwen/Qwen2.5-1.5B-Instruct") is None


def test_contradictions_compare_what_is_told():
    info = {"dtype": "torch.float32", "disable_radix_cache": False, "chunked_prefill_size": -1}
    assert contradictions(info, {"dtype": "float32", "chunked_prefill_size": "-1", "unknown": 5}) == []
    assert contradictions(info, {"disable_radix_cache": True}) == [
        "disable_radix_cache was set to True, but the server says False"
    ]


SETS = {"disable_radix_cache": True, "chunked_prefill_size": -1}


@pytest.mark.parametrize(
    ("info", "modes"),
    [
        ({}, ""),
        ({"version": "unknown"}, ""),
        ({"version": "0.5.10.post1"} | SETS, "ids text"),
        ({"version": "0.5.23", "enable_mis": True}, "ids text labels_per_item temperature"),
        ({"version": "0.5.23", "enable_mis": True} | SETS, "ids text labels_per_item temperature setwise"),
        ({"version": "0.5.21", "enable_mis": False}, "ids text labels_per_item temperature decisions"),
        ({"version": "0.5.23", "is_embedding": True}, "text classification"),
        ({"version": "0.5.23", "is_embedding": True} | SETS, "text classification setwise_classification"),
        ({"version": "0.5.23", "is_embedding": False, "is_generation": False}, "text classification"),
        ({"version": "0.5.23", "is_generation": True, "enable_mis": True}, "ids text labels_per_item temperature"),
    ],
)
def test_sglang_speaks_what_its_version_and_its_flags_allow(info, modes):
    assert [mode.value for mode in SGLANG.spoken(info)] == modes.split()


@pytest.mark.parametrize("told", [{"is_generation": False}, {}, None])
def test_sglang_is_asked_once_what_kind_of_model_it_serves(told):
    """`/get_server_info` of a classification checkpoint says `is_embedding: false`."""
    asked = []

    def answer(request):
        asked.append(request.url.path)
        if request.url.path == "/get_server_info":
            return httpx.Response(200, json={"version": "0.5.23", "is_embedding": False})
        return httpx.Response(404) if told is None else httpx.Response(200, json={"model_path": "m", **told})

    with SGLANG.client("http://127.0.0.1:1") as client:
        client._http = httpx.Client(base_url="http://127.0.0.1:1", transport=httpx.MockTransport(answer))
        infos = [client.server_info() for _ in range(2)]
    assert infos[0] == infos[1] == {"version": "0.5.23", "is_embedding": False, **(told or {})}
    assert asked.count("/get_server_info") == 2 and asked.count("/model_info") == 1


@pytest.mark.parametrize(
    ("engine", "owned", "has_pair"),
    [("sglang", True, True), ("embedded", True, True), ("sglang", False, False), ("vllm", True, False)],
)
def test_a_pair_of_a_classification_checkpoint_is_started_where_the_profiles_serve_one(
    engine, owned, has_pair, monkeypatch
):
    monkeypatch.setattr(run_subject, "tiny_checkpoint", lambda num_labels: f"tiny-{num_labels}")
    settings = SimpleNamespace(property_examples=1, items=(), labels=(5, 6, 7))
    run = SimpleNamespace(engine=choose_engine(engine), settings=settings, record=None, beside=lambda profile: profile)
    multi = SimpleNamespace(owned=owned, place="multi-item server", profile=MULTI)
    subject = run_subject.RunSubject(run, "pytorch", given={"multi": multi})
    if has_pair:
        assert subject.with_head() == (replace(MULTI, model="tiny-3"), Profile("serial", "pytorch", model="tiny-3"))
    else:
        with pytest.raises(EngineUnavailable, match=f"no classification head, and none of engine {engine} is started"):
            subject.with_head()
