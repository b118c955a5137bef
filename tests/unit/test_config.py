"""config.json: what the embedded engine computes faithfully, and what it refuses."""

import json

import pytest

from pytest_multiitem.engine.config import ModelConfig, read_config
from pytest_multiitem.errors import CheckpointError

#: The config.json of Qwen3-0.6B, in the fields that are read.
QWEN = {
    "model_type": "qwen3", "attention_bias": False, "head_dim": 128, "hidden_act": "silu", "hidden_size": 1024,
    "intermediate_size": 3072, "max_position_embeddings": 40960, "num_attention_heads": 16,
    "num_hidden_layers": 28, "num_key_value_heads": 8, "rms_norm_eps": 1e-06, "rope_scaling": None,
    "rope_theta": 1000000, "sliding_window": None, "tie_word_embeddings": True, "use_sliding_window": False,
    "vocab_size": 151936,
}  # fmt: skip


def read(tmp_path, change=None, without=()):
    raw = {name: value for name, value in (QWEN | (change or {})).items() if name not in without}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    return read_config(tmp_path)


def test_a_qwen3(tmp_path):
    assert read(tmp_path) == ModelConfig(151936, 1024, 3072, 28, 16, 8, 128, 1e-6, 1e6, 40960, True)


def test_rope_parameters_of_newer_files(tmp_path):
    change = {"rope_parameters": {"rope_type": "default", "rope_theta": 5e6}}
    assert read(tmp_path, change, ["rope_theta", "rope_scaling"]).rope_theta == 5e6


def test_what_may_be_left_out(tmp_path):
    names = ("head_dim", "num_key_value_heads", "rms_norm_eps", "rope_theta", "max_position_embeddings",
             "tie_word_embeddings", "hidden_act", "attention_bias", "use_sliding_window")  # fmt: skip
    config = read(tmp_path, without=names)
    assert (config.head_dim, config.num_key_value_heads) == (64, 16)
    assert (config.rms_norm_eps, config.rope_theta, config.max_position_embeddings) == (1e-6, 1e4, 32768)
    assert config.tie_word_embeddings is False


def test_a_window_that_is_switched_off_does_not_matter(tmp_path):
    assert read(tmp_path, {"sliding_window": 4096, "layer_types": ["full_attention"] * 28}).num_hidden_layers == 28


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "llama"}, "model_type is 'llama'; the embedded engine computes 'qwen3' only"),
        ({"model_type": "qwen3_moe"}, "model_type is 'qwen3_moe'"),
        ({"model_type": None}, "model_type is None"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4}}, "rope_type is 'yarn'"),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, "rope_type is 'linear'"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type is 'yarn'"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"use_sliding_window": True}, "use_sliding_window is True"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types is .*sliding_attention"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; the embedded engine supports 'silu' only"),
        ({"hidden_size": "wide"}, "holds a size that is no positive number"),
        ({"vocab_size": None}, "holds a size that is no positive number"),
        ({"num_attention_heads": 0, "head_dim": None}, "holds a size that is no positive number"),
    ],
)
def test_what_is_refused(tmp_path, change, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        read(tmp_path, change)
    assert str(tmp_path / "config.json") in str(caught.value)


@pytest.mark.parametrize(
    "name", ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"]
)
def test_a_missing_size(tmp_path, name):
    with pytest.raises(CheckpointError, match=f"lacks '{name}'"):
        read(tmp_path, without=[name])


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"{", "is not valid JSON"), (b"\xff\xfe", "is not valid JSON"), (b"[]", "holds list; expected a JSON object"),
     (b"null", "holds NoneType; expected a JSON object")],
)  # fmt: skip
def test_a_file_that_is_no_object(tmp_path, content, message):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_config(tmp_path)


def test_no_file(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no config\.json; .*`multiitem checkpoint DIR` writes one"):
        read_config(tmp_path / "absent")
    (tmp_path / "config.json").mkdir()
    with pytest.raises(CheckpointError, match=r"cannot read .*config\.json"):
        read_config(tmp_path)
