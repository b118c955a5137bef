"""A Qwen3 checkpoint as the PyTorch engine has it: read with transformers, its weights joined by what multiplies them.

H: hidden size; D: head dimension; I: intermediate size; V: vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.models.qwen3.modeling_qwen3 import Qwen3ForCausalLM, Qwen3ForSequenceClassification

from pytest_multiitem.engine.config import ModelConfig
from pytest_multiitem.errors import CheckpointError


class Layer(NamedTuple):
    """A decoder layer's weights; projections of one input are one matrix [out, in]."""

    input_norm: Tensor  # [H]
    qkv: Tensor  # [(heads + 2 · kv_heads) · D, H]
    qk_norm: Tensor  # [heads + kv_heads, D]
    output: Tensor  # [H, heads · D]
    post_norm: Tensor  # [H]
    gate_up: Tensor  # [2 · I, H]
    down: Tensor  # [H, I]


def load_model(directory: Path, config: ModelConfig, dtype: torch.dtype) -> Any:
    """The model of a checkpoint directory, the weights of its head from the files. Raises CheckpointError."""
    kind = Qwen3ForCausalLM if config.classes is None else Qwen3ForSequenceClassification
    try:
        model, report = kind.from_pretrained(directory, dtype=dtype, local_files_only=True, output_loading_info=True)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{directory} cannot be loaded: {error}") from error
    # transformers draws a weight at random where the files lack it, and only warns.
    if config.classes is not None and any(name.startswith("score.") for name in report["missing_keys"]):
        raise CheckpointError(
            f"{directory} lacks the tensor 'score.weight' of its classification head; expected one of "
            f"{config.classes} by {config.hidden_size} numbers, as its config.json says"
        )
    return model


def reading_weights(model: Any, config: ModelConfig) -> Tensor:
    """What states are multiplied with to be read [V, H]; of a classification head its classes, then the state itself,
    by unit vectors, which give every number of it exactly."""
    if config.classes is None:
        return model.lm_head.weight
    weight = model.score.weight
    return torch.cat([weight, torch.eye(config.hidden_size, dtype=weight.dtype, device=weight.device)])


def layer_weights(model: Any, config: ModelConfig) -> list[Layer]:
    """The weights of every decoder layer, taken out of the transformers model."""
    found = []
    for layer in model.model.layers:
        block, mlp = layer.self_attn, layer.mlp
        query_norm = block.q_norm.weight.expand(config.num_attention_heads, -1)
        key_norm = block.k_norm.weight.expand(config.num_key_value_heads, -1)
        found.append(
            Layer(
                input_norm=layer.input_layernorm.weight,
                qkv=torch.cat([block.q_proj.weight, block.k_proj.weight, block.v_proj.weight]),
                qk_norm=torch.cat([query_norm, key_norm]),
                output=block.o_proj.weight,
                post_norm=layer.post_attention_layernorm.weight,
                gate_up=torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]),
                down=mlp.down_proj.weight,
            )
        )
        del block.q_proj, block.k_proj, block.v_proj, mlp.gate_proj, mlp.up_proj  # not held twice
    return found
