"""The tensors of a Qwen3 checkpoint, read from safetensors and stacked by layer for JAX."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from pytest_multiitem.engine.config import ModelConfig
from pytest_multiitem.errors import CheckpointError

_INDEX = "model.safetensors.index.json"
_FLOATS = ("float32", "bfloat16", "float16")


class Layers(NamedTuple):
    """All layers at once; the leading axis of each array is the layer. Matrices are [in, out]."""

    input_norm: Any  # [L, H]
    qkv: Any  # [L, H, (heads + 2 · kv_heads) · D]
    q_norm: Any  # [L, D]
    k_norm: Any  # [L, D]
    output: Any  # [L, heads · D, H]
    post_norm: Any  # [L, H]
    gate_up: Any  # [L, H, 2 · I]
    down: Any  # [L, I, H]


class Weights(NamedTuple):
    """A Qwen3 model. ``head`` is ``embedding`` itself where a causal LM ties them. Of a classification head it has the
    classes, then unit vectors [H, H], which read every number of the state exactly."""

    embedding: Any  # [V, H]
    layers: Layers
    final_norm: Any  # [H]
    head: Any  # [V, H]


def load_weights(directory: Path, config: ModelConfig, dtype: str, device: Any) -> Weights:
    """Read every tensor of ``directory``, cast it to ``dtype`` and place it on the JAX ``device``.

    Raises CheckpointError naming the tensor that is missing or has an unexpected shape or type.
    """
    hidden, inner, dim = config.hidden_size, config.intermediate_size, config.head_dim
    query, key = config.num_attention_heads * dim, config.num_key_value_heads * dim
    rows_of = {"q": query, "k": key, "v": key}
    target = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(np.float32)

    def put(values: np.ndarray) -> Any:
        return jax.device_put(values, device)

    with _tensors(directory) as read:

        def tensor(name: str, *shape: int) -> np.ndarray:
            return read(name, shape).astype(target)

        def stacked(name: str, *shape: int) -> Any:
            at = f"model.layers.{{}}.{name}.weight"
            return put(np.stack([tensor(at.format(i), *shape) for i in range(config.num_hidden_layers)]))

        def fused(parts: Mapping[str, tuple[int, int]]) -> Any:
            """Several projections of one input as one matrix, transposed to [in, out]."""
            layers = []
            for i in range(config.num_hidden_layers):
                at = f"model.layers.{i}.{{}}.weight"
                rows = [tensor(at.format(name), *shape) for name, shape in parts.items()]
                layers.append(np.concatenate(rows).T)
            return put(np.stack(layers))

        embedding = put(tensor("model.embed_tokens.weight", config.vocab_size, hidden))
        if config.classes is not None:
            head = put(np.concatenate([tensor("score.weight", config.classes, hidden), np.eye(hidden, dtype=target)]))
        else:
            tied = config.tie_word_embeddings
            head = embedding if tied else put(tensor("lm_head.weight", config.vocab_size, hidden))
        return Weights(
            embedding=embedding,
            layers=Layers(
                input_norm=stacked("input_layernorm", hidden),
                qkv=fused({f"self_attn.{name}_proj": (rows, hidden) for name, rows in rows_of.items()}),
                q_norm=stacked("self_attn.q_norm", dim),
                k_norm=stacked("self_attn.k_norm", dim),
                output=fused({"self_attn.o_proj": (hidden, query)}),
                post_norm=stacked("post_attention_layernorm", hidden),
                gate_up=fused({"mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden)}),
                down=fused({"mlp.down_proj": (hidden, inner)}),
            ),
            final_norm=put(tensor("model.norm.weight", hidden)),
            head=head,
        )


def score_bound(layers: Layers) -> float:
    """What no scaled attention score exceeds, whatever the tokens: queries and keys are normed, so that none is longer
    than √D times its norm's largest weight, and rotation keeps their lengths."""
    largest = [np.abs(np.asarray(norm, dtype=np.float64)).max(axis=-1) for norm in (layers.q_norm, layers.k_norm)]
    return float(np.sqrt(layers.q_norm.shape[-1]) * np.max(largest[0] * largest[1]))


@contextmanager
def _tensors(directory: Path) -> Iterator[Any]:
    """A function (name, expected shape) → array over all safetensors files of a checkpoint."""
    with ExitStack() as stack:
        holders: dict[str, Any] = {}
        for path in _files(directory):
            try:
                file = stack.enter_context(safe_open(path, framework="np"))
                holders.update(dict.fromkeys(file.keys(), file))
            except (OSError, SafetensorError) as error:
                raise CheckpointError(
                    f"{path} cannot be read as safetensors ({error}); fetch or write the checkpoint again"
                ) from None

        def read(name: str, shape: tuple[int, ...]) -> np.ndarray:
            if name not in holders:
                raise CheckpointError(
                    f"{directory} lacks the tensor {name!r} (it holds {len(holders)} others); "
                    "the checkpoint is incomplete or not a Qwen3 causal LM"
                )
            try:
                values: np.ndarray = holders[name].get_tensor(name)
            except (TypeError, AttributeError, SafetensorError) as error:
                raise CheckpointError(f"{directory}: tensor {name!r} cannot be read: {error}") from None
            if values.shape != shape:
                raise CheckpointError(
                    f"{directory}: tensor {name!r} has shape {list(values.shape)}, "
                    f"but config.json asks for {list(shape)}"
                )
            if values.dtype.name not in _FLOATS:
                raise CheckpointError(
                    f"{directory}: tensor {name!r} is {values.dtype.name}; expected one of {', '.join(_FLOATS)} "
                    "(quantised checkpoints are not supported)"
                )
            return values

        yield read


def _files(directory: Path) -> list[Path]:
    """The shards named by the index, else model.safetensors, else every safetensors file."""
    index, single = directory / _INDEX, directory / "model.safetensors"
    if index.exists():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise CheckpointError(f"{index} is no valid safetensors index: {error!r}") from None
        return [directory / name for name in names]
    files = [single] if single.exists() else sorted(directory.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{directory} holds no *.safetensors file")
    return files
