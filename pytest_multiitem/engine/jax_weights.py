"""The tensors of a Qwen3 checkpoint, read from safetensors and stacked by layer for JAX."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_dtypes
import numpy as np

from pytest_multiitem.engine.config import ModelConfig
from pytest_multiitem.engine.tensors import tensors


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

    with tensors(directory, "np") as read:

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
