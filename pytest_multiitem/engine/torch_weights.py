"""The tensors of a Qwen3 checkpoint, read from safetensors and joined by what multiplies them for PyTorch.

H: hidden size; D: head dimension; I: intermediate size; V: vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from pytest_multiitem.engine.config import ModelConfig
from pytest_multiitem.engine.tensors import tensors


class Layer(NamedTuple):
    """A decoder layer's weights; projections of one input are one matrix [out, in]."""

    input_norm: Tensor  # [H]
    qkv: Tensor  # [(heads + 2 · kv_heads) · D, H]
    qk_norm: Tensor  # [heads + kv_heads, D]
    output: Tensor  # [H, heads · D]
    post_norm: Tensor  # [H]
    gate_up: Tensor  # [2 · I, H]
    down: Tensor  # [H, I]


class Weights(NamedTuple):
    """A Qwen3 model. ``head`` is what states are multiplied with to be read: ``embedding`` itself where a causal LM
    ties them; of a classification head its classes, then unit vectors, which give every number of the state exactly."""

    embedding: Tensor  # [V, H]
    layers: list[Layer]
    final_norm: Tensor  # [H]
    head: Tensor  # [V, H], or [classes + H, H]


def load_weights(directory: Path, config: ModelConfig, dtype: torch.dtype, device: str) -> Weights:
    """Read every tensor of ``directory`` as ``dtype`` onto ``device``.

    Raises CheckpointError naming the tensor that is missing or has an unexpected shape or type.
    """
    hidden, inner, dim = config.hidden_size, config.intermediate_size, config.head_dim
    query, key = config.num_attention_heads * dim, config.num_key_value_heads * dim

    with tensors(directory, "pt") as read:

        def tensor(name: str, *shape: int) -> Tensor:
            # A copy: what is read lies in the file, which may change, and at any address.
            return read(name, shape).to(device=device, dtype=dtype, copy=True)

        def layer(number: int) -> Layer:
            def weight(name: str, *shape: int) -> Tensor:
                return tensor(f"model.layers.{number}.{name}.weight", *shape)

            attention = {"q_proj": query, "k_proj": key, "v_proj": key}
            norms = ("q_norm", config.num_attention_heads), ("k_norm", config.num_key_value_heads)
            return Layer(
                input_norm=weight("input_layernorm", hidden),
                qkv=torch.cat([weight(f"self_attn.{name}", rows, hidden) for name, rows in attention.items()]),
                qk_norm=torch.cat([weight(f"self_attn.{name}", dim).expand(heads, -1) for name, heads in norms]),
                output=weight("self_attn.o_proj", hidden, query),
                post_norm=weight("post_attention_layernorm", hidden),
                gate_up=torch.cat([weight(f"mlp.{name}", inner, hidden) for name in ("gate_proj", "up_proj")]),
                down=weight("mlp.down_proj", hidden, inner),
            )

        embedding = tensor("model.embed_tokens.weight", config.vocab_size, hidden)
        if config.classes is not None:
            unit = torch.eye(hidden, dtype=dtype, device=device)
            head = torch.cat([tensor("score.weight", config.classes, hidden), unit])
        else:
            tied = config.tie_word_embeddings
            head = embedding if tied else tensor("lm_head.weight", config.vocab_size, hidden)
        return Weights(
            embedding=embedding,
            layers=[layer(number) for number in range(config.num_hidden_layers)],
            final_norm=tensor("model.norm.weight", hidden),
            head=head,
        )
