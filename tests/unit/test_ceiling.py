"""What packing saves at most: the published figures, where the sizes come from, and a shape that can decide."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from stub_targets import baseline, make_case, multi

from pytest_multiitem.bench import ceiling as module
from pytest_multiitem.bench import flops
from pytest_multiitem.bench.ceiling import MARGIN, Bound, bound_of, cached_query, device_rate, served_config, shape
from pytest_multiitem.engine.config import ModelConfig
from pytest_multiitem.scoring.cases import equal_length_case
from pytest_multiitem.scoring.semantics import Semantics

QWEN3_06B = ModelConfig(
    vocab_size=151_936, hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16,
    num_key_value_heads=8, head_dim=128, rms_norm_eps=1e-6, rope_theta=1e6, max_position_embeddings=40_960,
    tie_word_embeddings=True,
)  # fmt: skip
RAW = {
    "model_type": "qwen3", "vocab_size": 151_936, "hidden_size": 1024, "intermediate_size": 3072,
    "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
    "rope_theta": 1e6, "max_position_embeddings": 40_960, "tie_word_embeddings": True,
}  # fmt: skip
PUBLISHED = {
    (2000, 500, 20): "72", (2000, 32, 20): "23", (60, 32, 20): "3.6", (120, 10, 180): "1.5", (120, 32, 180): "1.6",
}  # fmt: skip


def request(query, items, tokens):
    pool = tuple(range(10, 900))
    return equal_length_case(seed=1, query_tokens=query, num_items=items, item_tokens=tokens, labels=(5, 6), pool=pool)


def described(**info):
    """A packed server that says this of itself."""
    target = multi()
    target.described = {"dtype": "bfloat16", **info}
    return target


@pytest.mark.parametrize(("at", "printed"), PUBLISHED.items(), ids=lambda value: str(value))
def test_published_ceilings(at, printed):
    query, items, tokens = at
    found = flops.ceiling(QWEN3_06B, query, [tokens] * items, labels=2)
    assert f"{found:.2g}" == printed


def test_nothing_is_saved_against_a_baseline_that_keeps_the_query():
    found = [flops.ceiling(QWEN3_06B, q, [t] * n, labels=2, cached_query=True) for q, n, t in PUBLISHED]
    assert min(found) >= 0.25 and f"{max(found):.2f}" == "0.98"


def test_more_items_raise_the_ceiling_and_longer_ones_lower_it():
    found = [flops.ceiling(QWEN3_06B, 256, [20] * count, labels=2) for count in (1, 8, 32, 128)]
    assert found == sorted(found) and found[0] < 1 < found[1]
    assert flops.ceiling(QWEN3_06B, 256, [200] * 32, labels=2) < found[2]


def test_an_ablation_has_no_ceiling():
    with pytest.raises(ValueError, match="ablation"):
        flops.ceiling(QWEN3_06B, 8, [2], labels=2, semantics=Semantics.ALL_DELIMS_PREFIX)
    target = described(**RAW)
    found = bound_of(target, baseline(), Semantics.ALL_DELIMS_PREFIX)
    assert found.config is None and "ablation" in found.basis and found.ceiling(request(8, 4, 2)) is None


# -- where sizes come from ---------------------------------------------------------------------


def test_the_served_directory_says_most(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(RAW))
    target = described(model_path=str(tmp_path), **{**RAW, "hidden_size": 8})
    assert served_config(target) == (QWEN3_06B, f"{tmp_path.name} (its config.json)")


@pytest.mark.parametrize("wrap", [lambda raw: raw, lambda raw: {"hf_config": raw}, lambda raw: {"model_config": raw}])
def test_a_server_may_say_it_itself(wrap):
    config, source = served_config(described(model_path="/not/here", **wrap(RAW)))
    assert config == QWEN3_06B and "own word" in source


def test_a_hub_copy_on_this_machine(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps(RAW))
    asked = []

    def find(*names):
        asked.append(names)
        return str(tmp_path / "config.json")

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(try_to_load_from_cache=find))
    assert served_config(described(model_path="Qwen/Qwen3-0.6B"))[0] == QWEN3_06B
    assert asked == [("Qwen/Qwen3-0.6B", "config.json")]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"model_type": "qwen3_moe", "num_experts": 128}, "model_type 'qwen3_moe' is not counted"),
        ({"model_type": None}, "model_type None"),
        ({"sliding_window": 4096, "use_sliding_window": True}, "sliding window"),
        ({"model_type": "mistral", "sliding_window": 4096}, "sliding window"),
        ({"layer_types": ["full_attention", "linear_attention"]}, "sliding window"),
        ({"vocab_size": "many"}, "no number"),
        ({"num_hidden_layers": None}, "no number"),
    ],
)
def test_what_is_not_counted_is_unknown_and_says_so(change, why):
    config, basis = served_config(described(model_path="m", **RAW | change))
    assert config is None and basis.startswith("unknown: the sizes of the model m: ") and why in basis


def test_a_window_that_is_switched_off_is_no_window():
    raw = RAW | {"model_type": "qwen2", "sliding_window": 32_768, "use_sliding_window": False}
    assert served_config(described(**raw))[0] == QWEN3_06B


def test_a_model_that_nobody_knows():
    found = bound_of(multi(), baseline(), Semantics.PREFIX_FIRST_DELIM)
    assert found.config is None and "does not say" in found.basis and "stub-model" in found.basis
    case = request(60, 32, 20)
    assert found.ceiling(case) is found.unreachable(case, 3.0) is found.share_of_roofline([case], 1.0) is None


# -- what the baseline does --------------------------------------------------------------------


def test_which_baseline_keeps_the_query():
    assert cached_query(baseline()) is None
    for value, said in ((False, "disable_radix_cache is false"), (True, None), (None, None)):
        serial = baseline()
        serial.described = {"disable_radix_cache": value}
        assert cached_query(serial) == said
    serial.profile = replace(serial.profile, tuned=True)
    assert cached_query(serial) is not None


# -- a shape that can decide -------------------------------------------------------------------


def test_a_limit_below_the_ceiling_is_reachable():
    bound = Bound(QWEN3_06B, "")
    assert bound.ceiling(request(256, 32, 20)) > 3 and bound.unreachable(request(256, 32, 20), 3.0) is None
    assert bound.unreachable(request(60, 32, 20), 3.0) is None
    assert bound.unreachable(request(60, 32, 20), 3.7) is not None


def test_the_smallest_multiple_of_the_query_that_clears_the_limit_is_named():
    bound, case = Bound(QWEN3_06B, ""), request(120, 32, 180)
    tokens = bound.deciding_query(case, 3.0)
    assert tokens % 120 == 0
    assert bound.ceiling(case, query_tokens=tokens) >= MARGIN * 3 > bound.ceiling(case, query_tokens=tokens - 120)
    reason = bound.unreachable(case, 3.0)
    assert reason.startswith("packing saves at most 1.61 times the operations at 120/32/180 with this model; ")
    assert f"{tokens}/32/180 can decide" in reason and f"--multiitem-query-tokens {tokens}" in reason
    assert "more than the server takes" not in reason
    assert "more than the server takes (2048)" in bound.unreachable(case, 3.0, max_tokens=2048)


def test_no_shape_decides_against_a_cached_query_or_with_one_item():
    case = request(120, 32, 180)
    assert "no shape can decide: compare with a baseline without a prefix cache" in Bound(
        QWEN3_06B, "", cached_by="tuned"
    ).unreachable(case, 3.0)
    assert "no longer query can decide" in Bound(QWEN3_06B, "").unreachable(request(2, 1, 1), 3.0)


def test_the_name_of_a_shape():
    assert shape(make_case(3, lengths=[5, 2, 9])) == "12/3/2-9" and shape(request(60, 4, 7), 90) == "90/4/7"


# -- the roofline ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("info", "rate"),
    [
        ({"device_name": "NVIDIA H200"}, 989e12),
        ({"device_name": "NVIDIA H100 PCIe"}, 756e12),
        ({"device_kind": "TPU v5 lite"}, 197e12),
        ({"device_kind": "TPU v5p"}, 459e12),
        ({"device_kind": "TPU v6 lite", "tp_size": 4}, 4 * 918e12),
        ({"device_name": "NVIDIA L40S", "dtype": "torch.float16"}, 362e12),
        ({"device_name": "NVIDIA H200", "dtype": "float32"}, None),
        ({"device_name": "a toaster"}, None),
        ({"device": "cuda"}, None),  # of whoever's machine
        ({}, None),
    ],
    ids=str,
)
def test_rates_that_are_public(info, rate):
    assert device_rate(described(**info)) == rate


@pytest.mark.parametrize(("models", "rate"), [(["NVIDIA H200"] * 2, 989e12), (["NVIDIA H200", "NVIDIA L4"], None)])
def test_the_graphics_processor_of_a_server_of_this_run(models, rate, tmp_path, monkeypatch):
    for number, model in enumerate(models):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "information").write_text(f"Model: \t\t {model}\nIRQ: 7\n")
    monkeypatch.setattr(module, "_NVIDIA", tmp_path)
    target = described(device="cuda")
    assert device_rate(target) is None
    target.server = SimpleNamespace()
    assert device_rate(target) == rate


def test_the_share_of_the_roofline_is_of_needed_operations():
    case = request(60, 32, 20)
    work = flops.packed(QWEN3_06B, 60, [20] * 32, labels=2).total
    assert Bound(QWEN3_06B, "", rate=2.0 * work).share_of_roofline([case], 1.0) == pytest.approx(0.5)
    assert Bound(QWEN3_06B, "", rate=1.0).share_of_roofline([case], 0.0) is None
    assert Bound(QWEN3_06B, "").share_of_roofline([case], 1.0) is None


def test_the_ceiling_of_several_requests_is_that_of_all_their_operations():
    bound = Bound(QWEN3_06B, "")
    large, small = request(400, 16, 20), request(30, 2, 8)
    assert bound.ceiling_of([large]) == bound.ceiling(large)
    assert bound.ceiling_of([large, large]) == pytest.approx(bound.ceiling(large))
    assert bound.ceiling(small) < bound.ceiling_of([large, small]) < bound.ceiling(large)
    assert Bound(None, "unknown").ceiling_of([large, small]) is None
    assert bound.unreachable_with([large, small], 3.0) is None
    assert "of these 2 requests with this model" in bound.unreachable_with([small, small], 3.0)
