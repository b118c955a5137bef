"""How both engines read checkpoints: what they refuse, and that they take what they should."""

import json
import shutil

import numpy as np
import pytest
from engine_cases import LABELS, assert_close, expected, tokens
from reference import Reference
from safetensors.numpy import load_file, save_file

from pytest_multiitem.engine.config import read_config
from pytest_multiitem.engine.model_files import load_backend
from pytest_multiitem.errors import CheckpointError


@pytest.fixture(params=["pytorch", "jax"])
def engine(request):
    """Loads a checkpoint directory."""
    pytest.importorskip({"pytorch": "torch", "jax": "jax"}[request.param])
    return lambda directory: load_backend(request.param, directory, dtype="float32", device="cpu")


def test_a_missing_tensor_is_named(engine, checkpoint, weights):
    tensors = load_file(checkpoint / "model.safetensors")
    del tensors["model.layers.1.self_attn.k_norm.weight"]
    with pytest.raises(CheckpointError, match=r"lacks the tensor 'model.layers.1.self_attn.k_norm.weight'"):
        engine(weights(tensors))


def test_a_tensor_of_another_shape_is_named(engine, checkpoint, weights):
    tensors = load_file(checkpoint / "model.safetensors")
    tensors["model.norm.weight"] = np.ones(63, np.float32)
    with pytest.raises(CheckpointError, match=r"'model.norm.weight' has shape \[63\].*asks for \[64\]"):
        engine(weights(tensors))


def test_a_quantised_tensor_is_refused(engine, checkpoint, weights):
    tensors = load_file(checkpoint / "model.safetensors")
    tensors["model.norm.weight"] = np.ones(64, np.int8)
    with pytest.raises(CheckpointError, match=r"'model.norm.weight' is int8"):
        engine(weights(tensors))


def test_a_damaged_file_is_named(engine, checkpoint, tmp_path):
    directory = tmp_path / "damaged"
    shutil.copytree(checkpoint, directory)
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        engine(directory)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"holds no \*\.safetensors"):
        engine(directory)


def test_an_untied_head_must_be_there_and_is_used(engine, checkpoint, weights):
    tensors = load_file(checkpoint / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"][::-1].copy()
    directory = weights(tensors, tie_word_embeddings=False)
    ids = tokens(np.random.default_rng(0), 10)
    read = engine(directory).serial(ids, LABELS, True)
    assert_close(read, expected(Reference(directory).serial_logits(ids)[None]))
    del tensors["lm_head.weight"]
    save_file(tensors, directory / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lacks the tensor 'lm_head.weight'"):
        engine(directory)


def test_shards_and_bfloat16_files(engine, checkpoint, tmp_path):
    import ml_dtypes

    directory = tmp_path / "shards"
    shutil.copytree(checkpoint, directory)
    tensors = load_file(checkpoint / "model.safetensors")
    names = sorted(tensors)
    (directory / "model.safetensors").unlink()
    weight_map = {name: f"model-{i % 2 + 1:05}-of-00002.safetensors" for i, name in enumerate(names)}
    for shard in set(weight_map.values()):
        chosen = {n: tensors[n].astype(ml_dtypes.bfloat16) for n in names if weight_map[n] == shard}
        save_file(chosen, directory / shard)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert read_config(directory).vocab_size == 1000
    ids = tokens(np.random.default_rng(0), 10)
    read = engine(directory).serial(ids, LABELS, True)
    assert_close(read, expected(Reference(directory).serial_logits(ids)[None]))
    next(directory.glob("model-00002*")).unlink()
    with pytest.raises(CheckpointError, match="model-00002-of-00002"):
        engine(directory)
