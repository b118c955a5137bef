"""A Qwen3 checkpoint directory in Hugging Face layout: its config.json, read and checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_multiitem.errors import CheckpointError

#: How Hugging Face calls a model that reads its last state with a head of its own.
_CLASSIFIER = "ForSequenceClassification"


@dataclass(frozen=True)
class ModelConfig:
    """The sizes of a Qwen3 model, named as in config.json. ``classes``: C, of one with a classification head; None: a
    causal LM."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    max_position_embeddings: int
    tie_word_embeddings: bool
    classes: int | None = None


def read_config(directory: Path) -> ModelConfig:
    """Read ``directory``/config.json.

    Raises CheckpointError where the directory is no Qwen3 checkpoint this engine can compute
    faithfully (another architecture, scaled RoPE, sliding-window layers, attention biases).
    """
    path = directory / "config.json"
    try:
        raw: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{directory} holds no config.json; expected a Qwen3 checkpoint directory in Hugging Face "
            "layout (config.json, *.safetensors, tokenizer.json). `multiitem checkpoint DIR` writes one."
        ) from None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path} holds {type(raw).__name__}; expected a JSON object")
    if raw.get("model_type") != "qwen3":
        raise CheckpointError(
            f"{path}: model_type is {raw.get('model_type')!r}; the embedded engine computes 'qwen3' only. "
            "Serve other architectures serially with --backend transformers, or with a real engine and attach to "
            "it by URL."
        )
    rope: Any = raw.get("rope_parameters") or {}
    scaling = raw.get("rope_scaling") or {}
    rope_type = rope.get("rope_type", scaling.get("rope_type", scaling.get("type", "default")))
    layer_types = set(raw.get("layer_types") or ["full_attention"])
    for name, value, supported in (
        ("rope_type", rope_type, "default"),
        ("attention_bias", bool(raw.get("attention_bias", False)), False),
        ("use_sliding_window", bool(raw.get("use_sliding_window", False)), False),
        ("layer_types", layer_types, {"full_attention"}),
        ("hidden_act", raw.get("hidden_act", "silu"), "silu"),
    ):
        if value != supported:
            raise CheckpointError(f"{path}: {name} is {value!r}; the embedded engine supports {supported!r} only")
    try:
        return sizes(raw)
    except KeyError as error:
        raise CheckpointError(f"{path} lacks {error.args[0]!r}") from None
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(f"{path} holds a size that is no positive number: {error}") from None


def sizes(raw: Mapping[str, Any]) -> ModelConfig:
    """The sizes in a config.json's content, with the defaults of Hugging Face for what it leaves out.

    Raises KeyError for one that has none, and TypeError, ValueError or ZeroDivisionError for what is no size.
    """
    rope: Any = raw.get("rope_parameters") or {}
    heads = int(raw["num_attention_heads"])
    hidden = int(raw["hidden_size"])
    return ModelConfig(
        vocab_size=int(raw["vocab_size"]),
        hidden_size=hidden,
        intermediate_size=int(raw["intermediate_size"]),
        num_hidden_layers=int(raw["num_hidden_layers"]),
        num_attention_heads=heads,
        num_key_value_heads=int(raw.get("num_key_value_heads", heads)),
        head_dim=int(raw.get("head_dim") or hidden // heads),
        rms_norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
        rope_theta=float(rope.get("rope_theta", raw.get("rope_theta", 10_000.0))),
        max_position_embeddings=int(raw.get("max_position_embeddings", 32_768)),
        tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
        classes=classes(raw),
    )


def classes(raw: Mapping[str, Any]) -> int | None:
    """C of a checkpoint for sequence classification; Hugging Face means two where it names none."""
    if not any(str(name).endswith(_CLASSIFIER) for name in raw.get("architectures") or ()):
        return None
    named = raw.get("id2label")
    return len(named) if named else int(raw.get("num_labels", 2))
