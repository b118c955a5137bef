"""The transformers reference: against float64, against the PyTorch engine, on other architectures; its refusals."""

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import time

import httpx
import numpy as np
import pytest
from engine_cases import DELIMITER, LABELS, PRODUCTION, assert_close, expected, tokens, workload
from reference import Reference

from pytest_multiitem.engine.app import create_app
from pytest_multiitem.engine.checkpoint import tiny_checkpoint
from pytest_multiitem.engine.launch_line import ServeArgs, add_arguments
from pytest_multiitem.engine.model_files import load_backend
from pytest_multiitem.engine.scorer import Scorer
from pytest_multiitem.engine.serve import build_service
from pytest_multiitem.errors import CheckpointError, EngineUnavailable, UsageError
from pytest_multiitem.scoring.config import ScorerConfig
from pytest_multiitem.scoring.layout import build_layout, restarting_positions

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

COMMON = {"vocab_size": 1000, "bos_token_id": 0, "eos_token_id": 0, "initializer_range": 0.3}
GROUPED = COMMON | {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip

#: Other architectures than Qwen3, and their positions.
ARCHITECTURES = {
    "llama": (transformers.LlamaConfig(**GROUPED), 128),
    "qwen2": (transformers.Qwen2Config(**GROUPED), 128),
    # Soft-capped attention and a sliding window shorter than the sequences.
    "gemma2": (transformers.Gemma2Config(**GROUPED, head_dim=8, sliding_window=8, attn_logit_softcapping=2.0), 128),
    # A forward pass that takes no `use_cache`; learned positions.
    "openai-gpt": (transformers.OpenAIGPTConfig(**COMMON, n_embd=32, n_layer=2, n_head=4, n_positions=128), 128),
    # No limit of its own (ALiBi).
    "bloom": (transformers.BloomConfig(**COMMON, hidden_size=32, n_layer=2, n_head=4), 32_768),
}


def load(directory, dtype="float32"):
    return load_backend("transformers", directory, dtype=dtype, device="cpu")


def scores(backend, query, items, apply_softmax, item_first=False):
    return Scorer(backend, ScorerConfig()).score(query, items, LABELS, apply_softmax, item_first).scores


def untrained(name, directory):
    """A random model of another architecture, saved to ``directory``; returned in float64."""
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(ARCHITECTURES[name][0], attn_implementation="eager").eval()
    model.save_pretrained(directory)
    return model.double()


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """On matrices this small, and on a busy machine, threads cost more time than they save."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def backend(checkpoint):
    return load(checkpoint)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    directory = tmp_path_factory.mktemp("llama")
    untrained("llama", directory)
    return directory


# -- right scores ----------------------------------------------------------------------------


@pytest.mark.parametrize("item_first", [False, True])
def test_scores_equal_the_float64_reference(backend, checkpoint, item_first):
    query, items = workload(0, count=10)
    joined = [[*item, *query] if item_first else [*query, *item] for item in items]
    reference = Reference(checkpoint)
    want = expected(np.stack([reference.serial_logits(sequence) for sequence in joined]))
    assert np.ptp(want.scores(True), axis=0).max() > 0.2, "the scores must discriminate between items"
    np.testing.assert_allclose(scores(backend, query, items, True, item_first), want.scores(True), rtol=0, atol=1e-5)
    np.testing.assert_allclose(scores(backend, query, items, False, item_first), want.scores(False), rtol=1e-4)


def test_the_default_checkpoint_at_its_full_vocabulary():
    directory = tiny_checkpoint()
    ids = np.random.default_rng(0).integers(0, 150_000, 60).tolist()
    assert_close(load(directory).serial(ids, LABELS, True), expected(Reference(directory).serial_logits(ids)[None]))


def test_scores_equal_the_pytorch_engines(backend, checkpoint):
    query, items = workload(1)
    embedded = load_backend("pytorch", checkpoint, dtype="float32", device="cpu")
    for apply_softmax, tolerance in ((True, {"rtol": 0, "atol": 1e-5}), (False, {"rtol": 1e-4})):
        got, want = (scores(each, query, items, apply_softmax) for each in (backend, embedded))
        np.testing.assert_allclose(got, want, **tolerance)


def test_an_empty_item_reads_the_querys_last_token(backend):
    query, _ = workload(2)
    got = scores(backend, query, [[], tokens(np.random.default_rng(2), 9), []], True)
    np.testing.assert_array_equal(got[[0, 2]], [backend.serial(query, LABELS, False).scores(True)[0]] * 2)
    assert np.abs(got[1] - got[0]).max() > 1e-3


@pytest.mark.parametrize("semantics", PRODUCTION)
def test_causal_attention_at_restarting_positions_equals_the_float64_reference(backend, checkpoint, semantics):
    query, items = workload(6, count=5)
    layout = build_layout(query, [item for item in items if item], DELIMITER, semantics)
    positions, seen = restarting_positions(layout), np.tril(np.ones((layout.length, layout.length), dtype=bool))
    got = backend.causal(layout.token_ids, positions, layout.score_index, LABELS)
    reference = Reference(checkpoint)
    states = reference.hidden(layout.token_ids, positions, seen)[layout.score_index]
    np.testing.assert_allclose(got.scores(True), expected(reference.logits(states)).scores(True), rtol=0, atol=1e-5)
    growing = reference.hidden(layout.token_ids, np.arange(layout.length), seen)[layout.score_index]
    assert np.abs(got.scores(True) - expected(reference.logits(growing)).scores(True)).max() > 0.02


@pytest.mark.parametrize("name", ["gemma2", "bloom"])
def test_causal_attention_is_that_of_the_architecture_or_refused(name, tmp_path):
    model, backend = untrained(name, tmp_path), load(tmp_path)
    ids = np.random.default_rng(4).integers(0, 1000, 30)
    if name == "bloom":  # ALiBi counts tokens
        with pytest.raises(EngineUnavailable, match="BloomForCausalLM takes no positions"):
            backend.causal(ids, np.arange(30), np.array([29]), LABELS)
    else:
        got = backend.causal(ids, np.arange(30), np.array([29]), LABELS)
        want = model(input_ids=torch.tensor(ids[None])).logits[:, -1, list(LABELS)]
        np.testing.assert_allclose(got.scores(True), want.softmax(1).detach().numpy(), rtol=0, atol=1e-5)


def test_the_normaliser_only_where_asked_for(backend):
    assert backend.serial([1, 2], LABELS, False).log_normaliser is None
    assert backend.serial([1, 2], LABELS, True).log_normaliser.shape == (1,)


def test_scores_do_not_depend_on_what_was_scored_before(backend):
    query, items = workload(3, count=6)
    first = scores(backend, query, items, False)
    np.testing.assert_array_equal(scores(backend, query, items[::-1], False), first[::-1])


def test_bfloat16_stays_near_float32(backend, checkpoint):
    query, items = workload(2)
    coarse = load(checkpoint, "bfloat16")
    assert coarse.dtype == "bfloat16"
    difference = np.abs(scores(coarse, query, items, True) - scores(backend, query, items, True))
    assert 0 < difference.max() < 0.1 and difference.mean() < 0.02


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_another_architecture_equals_a_direct_forward_pass(name, tmp_path):
    """All logits of a plain forward pass in float64, and log-softmax by hand."""
    model, backend = untrained(name, tmp_path), load(tmp_path)
    assert (backend.vocab_size, backend.max_positions) == (1000, ARCHITECTURES[name][1])
    query, items = workload(4, query_length=20, count=6)
    softmax, probability = (scores(backend, query, items, apply_softmax) for apply_softmax in (True, False))
    assert np.ptp(softmax, axis=0).max() > 0.1, "the scores must discriminate between items"
    for i, item in enumerate(items):
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([[*query, *item]])).logits[0, -1].numpy()
        log_probability = (logits - np.log(np.exp(logits).sum()))[list(LABELS)]
        want = np.exp(log_probability) / np.exp(log_probability).sum()
        np.testing.assert_allclose(softmax[i], want, rtol=0, atol=1e-5)
        np.testing.assert_allclose(np.log(probability[i]), log_probability, rtol=0, atol=1e-4)


# -- as a server -----------------------------------------------------------------------------


def serving(*argv):
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_arguments(parser)
    return build_service(ServeArgs.from_namespace(parser.parse_args(["--backend", "transformers", *argv])))


def test_the_server(llama):
    service = serving("--model-path", str(llama))
    info = service.info
    assert (info["backend"], info["device"], info["dtype"]) == ("transformers", "cpu", "float32")
    assert (info["scoring_mode"], info["semantics"]) == ("serial", {"declared": "query_prefix"})
    assert (info["model_path"], info["vocab_size"]) == (str(llama), 1000)
    assert info["versions"]["torch"] and info["versions"]["transformers"]
    assert service.max_positions == 128
    request = {"query": [1, 2], "items": [[3], [], [4, 5]], "label_token_ids": [7, 8], "apply_softmax": True}
    answer = ask(service, request)
    assert answer.status_code == 200 and answer.json()["usage"]["prompt_tokens"] == 9
    np.testing.assert_allclose(np.sum(answer.json()["scores"], axis=1), 1)
    executed = service.scorer.executed()
    assert (executed["requests"], executed["items"], executed["serial_sequences"]) == (1, 3, 3)
    assert executed["chunks"] == 0 and not any(executed["items_by_semantics"].values())
    refusals = {"text_not_supported": {"query": "a", "items": ["b"]}, "sequence_too_long": {"items": [[1] * 127]}}
    for code, change in refusals.items():
        assert ask(service, request | change).json()["error"]["code"] == code


def test_text_with_the_checkpoints_tokenizer():
    service = serving()
    text = {"query": "weather?", "items": ["sunny", ""], "label_token_ids": [9454, 2753]}
    ids = text | {"query": service.tokenizer.encode("weather?"), "items": [service.tokenizer.encode("sunny"), []]}
    assert ask(service, text).json() == ask(service, ids).json()


def ask(service, request):
    async def once():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(create_app(service)), base_url="http://x") as client:
            return await client.post("/v1/score", json=request)

    return asyncio.run(once())


# -- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [{"delimiter": 999}, {"prefill_extend": True, "scoring_cache": True}])
def test_it_scores_serially_only(backend, config):
    with pytest.raises(UsageError, match="transformers scores serially only"):
        Scorer(backend, ScorerConfig(**config))


def test_the_embedded_engine_refuses_other_architectures_and_names_this_backend(llama):
    with pytest.raises(CheckpointError, match=r"'llama'.*--backend transformers"):
        load_backend("pytorch", llama, dtype="float32", device="cpu")


def damaged(llama, directory, *, without=None, extra=None, **config):
    """A copy of the Llama checkpoint with one weight less or more, or with other values in its config.json."""
    from safetensors.numpy import load_file, save_file

    copy = directory / "copy"
    shutil.copytree(llama, copy)
    weights = load_file(copy / "model.safetensors")
    kept = {name: values for name, values in weights.items() if name != without}
    save_file(kept | (extra or {}), copy / "model.safetensors", metadata={"format": "pt"})
    file = copy / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    return copy


OWN_CODE = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"without": "lm_head.weight"}, r"lacks lm_head\.weight"),
        ({"extra": {"lm_head.weight": np.zeros((2, 2), np.float32)}}, "cannot be loaded"),
        ({"model_type": "none-such"}, "none-such"),
        ({"model_type": "none-such", "auto_map": OWN_CODE}, "never runs a checkpoint's own code"),
        ({"model_type": "t5"}, "T5Config"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "cannot be loaded"),
    ],
)
def test_a_checkpoint_that_cannot_be_a_reference(change, says, llama, tmp_path):
    with pytest.raises(CheckpointError, match=says):
        load(damaged(llama, tmp_path, **change))


def test_code_beside_a_known_architecture_is_not_run(llama, tmp_path):
    copy = damaged(llama, tmp_path, auto_map=OWN_CODE)
    (copy / "own.py").write_text("raise SystemExit('ran')")
    assert load(copy).serial([1], LABELS, False).label_logits.shape == (1, len(LABELS))


def test_weights_that_are_not_used_are_logged(llama, tmp_path, caplog):
    copy = damaged(llama, tmp_path, extra={"score.weight": np.zeros((2, 2), np.float32)})
    load(copy)
    assert "LlamaForCausalLM does not use score.weight" in caplog.text


def test_a_directory_without_a_checkpoint(llama, tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no config\.json"):
        load(tmp_path)
    shutil.copy(llama / "config.json", tmp_path)
    with pytest.raises(CheckpointError, match=r"no file named model\.safetensors"):
        load(tmp_path)


def test_a_device_that_is_not_there(checkpoint):
    with pytest.raises(EngineUnavailable, match="'tpu'"):
        load_backend("transformers", checkpoint, dtype="float32", device="tpu")


def test_a_hub_id_without_a_network_is_refused_at_once(tmp_path):
    command = [sys.executable, "-m", "pytest_multiitem.engine.serve", "--backend", "transformers", "--port", "0"]
    command += ["--model-path", "nobody/none-such", "--download-dir", str(tmp_path)]
    start = time.monotonic()
    offline = os.environ | {"HF_HUB_OFFLINE": "1"}
    ended = subprocess.run(command, env=offline, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert "'nobody/none-such'" in ended.stderr and "cannot be downloaded" in ended.stderr
    assert "Name a checkpoint directory" in ended.stderr and "Traceback" not in ended.stderr
    assert time.monotonic() - start < 20
