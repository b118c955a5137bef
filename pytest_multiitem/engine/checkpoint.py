"""Deterministic Qwen3 checkpoints whose scores discriminate, written in Hugging Face layout.

Random weights usually make a model answer almost the same for every item, and then a leak hides. Here the scales are
chosen so that label scores vary between items and a neighbour's tokens would be seen: unit-variance embeddings,
sharpened attention (query and key norms above 1), and a small final norm so that the label softmax does not saturate.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import filelock
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save_file

from pytest_multiitem.errors import CheckpointError
from pytest_multiitem.settings.cache import VARIABLE, cache_directory
from pytest_multiitem.storage import writing

#: What a generated checkpoint has beside its weights: the checksums of its files, by name.
CHECKSUMS = "multiitem-checksums.json"
_FORMAT = 2


@dataclass(frozen=True)
class CheckpointSpec:
    """The size and the seed of a generated checkpoint; equal specs give equal weights.

    ``num_labels``: the classes of a classification head, which is on top of the very weights of the causal LM of the
    same sizes and seed; None: that causal LM.
    """

    hidden_size: int = 128
    intermediate_size: int = 384
    num_hidden_layers: int = 3
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 32
    vocab_size: int = 151_936
    seed: int = 20_260_101
    num_labels: int | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name != "seed" and value is not None and value < 1:
                raise CheckpointError(f"{name} is {value}; expected a positive number")
        if self.num_attention_heads % self.num_key_value_heads:
            raise CheckpointError(
                f"num_attention_heads ({self.num_attention_heads}) is no multiple of num_key_value_heads "
                f"({self.num_key_value_heads})"
            )
        if self.head_dim % 2:
            raise CheckpointError(f"head_dim is {self.head_dim}; rotary positions need an even number")

    @property
    def digest(self) -> str:
        """A short name that changes with any size, the seed or the recipe."""
        sizes = {name: value for name, value in asdict(self).items() if name != "num_labels" or value is not None}
        text = json.dumps({"format": _FORMAT, **sizes}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def tiny_checkpoint(cache: Path | None = None, *, num_labels: int | None = None) -> Path:
    """The default tiny checkpoint, generated on first use; safe under concurrent callers. ``num_labels``: the
    classes of one with a classification head.

    A cached copy whose checksums do not match is replaced. An intact one is only read, so a cache may be read-only.
    Raises StorageError where it must be written and cannot be.
    """
    spec = CheckpointSpec(num_labels=num_labels)
    directory = (cache or cache_directory()) / "checkpoints" / f"tiny-{spec.digest}"
    if _is_intact(directory):
        return directory
    with writing(directory, advice=f"choose another place with {VARIABLE}"):
        directory.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{directory}.lock"):
            for left in directory.parent.glob(f".{directory.name}-*"):  # by one that was killed: this one has the lock
                shutil.rmtree(left, ignore_errors=True)
            if not _is_intact(directory):
                if directory.exists():
                    shutil.rmtree(directory)
                write_checkpoint(directory, spec)
    return directory


def write_checkpoint(directory: Path, spec: CheckpointSpec, *, full_tokenizer: bool = False) -> None:
    """Write a checkpoint of the given size to ``directory``, which must not exist or be empty.

    The directory appears whole or not at all. ``full_tokenizer``: its tokenizer names every id of the
    vocabulary; some engines refuse label ids that their tokenizer does not know. Raises StorageError.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise CheckpointError(f"{directory} exists and is not an empty directory; name a new one")
    with writing(directory), _scratch_for(directory) as work:
        _save_weights(work / "model.safetensors", spec)
        _write_json(work / "config.json", _config(spec))
        data = resources.files("pytest_multiitem.engine") / "data"
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (work / name).write_bytes((data / name).read_bytes())
        if full_tokenizer:
            _fill_tokenizer(work / "tokenizer.json", spec.vocab_size)
        _write_json(work / CHECKSUMS, {path.name: _sha256(path) for path in sorted(work.iterdir())})
        work.chmod(0o755)
        work.replace(directory)


@contextmanager
def _scratch_for(directory: Path) -> Iterator[Path]:
    """A directory beside another one, to become it."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{directory.name}-", dir=directory.parent) as scratch:
        work = Path(scratch) / "checkpoint"
        work.mkdir()
        yield work


def _save_weights(path: Path, spec: CheckpointSpec) -> None:
    try:
        save_file(dict(_weights(spec)), str(path), metadata={"format": "pt"})
    except SafetensorError as error:  # it has the system's number in its words alone
        number = re.search(r"\(os error (\d+)\)", str(error))
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) if number else error from None


def _fill_tokenizer(path: Path, vocab_size: int) -> None:
    """Give every id without a token a name; no merge leads to one, so text is tokenised as before."""
    tokenizer = json.loads(path.read_bytes())
    vocab = tokenizer["model"]["vocab"]
    taken = {*vocab.values(), *(token["id"] for token in tokenizer["added_tokens"])}
    vocab.update({f"<unused {token}>": token for token in range(vocab_size) if token not in taken})
    path.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")


def _is_intact(directory: Path) -> bool:
    try:
        checksums: dict[str, str] = json.loads((directory / CHECKSUMS).read_text(encoding="utf-8"))
        return bool(checksums) and all(_sha256(directory / name) == digest for name, digest in checksums.items())
    except (OSError, ValueError, AttributeError):
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _config(spec: CheckpointSpec) -> dict[str, Any]:
    sizes = asdict(spec)
    del sizes["seed"], sizes["num_labels"]
    return {
        **sizes,
        **_head_config(spec.num_labels),
        "model_type": "qwen3",
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "max_position_embeddings": 40_960,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000.0,
        "sliding_window": None,
        "use_sliding_window": False,
        "tie_word_embeddings": True,
        "use_cache": True,
        "bos_token_id": 151_643 if spec.vocab_size > 151_645 else 0,
        "eos_token_id": 151_645 if spec.vocab_size > 151_645 else 0,
        "torch_dtype": "float32",
    }


def _head_config(num_labels: int | None) -> dict[str, Any]:
    """What says which head there is; transformers takes the number of classes from their names."""
    if num_labels is None:
        return {"architectures": ["Qwen3ForCausalLM"]}
    names = {str(number): f"LABEL_{number}" for number in range(num_labels)}
    return {
        "architectures": ["Qwen3ForSequenceClassification"],
        "id2label": names,
        "label2id": {name: int(number) for number, name in names.items()},
    }


def _weights(spec: CheckpointSpec) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Every tensor by name; each drawn from its own stream, so that order does not matter."""
    hidden, inner, dim = spec.hidden_size, spec.intermediate_size, spec.head_dim
    heads, kv_heads = spec.num_attention_heads, spec.num_key_value_heads

    def normal(name: str, rows: int, columns: int, scale: float) -> tuple[str, NDArray[np.float32]]:
        seed = int.from_bytes(hashlib.sha256(f"{spec.seed}/{name}".encode()).digest()[:8], "big")
        values = np.random.Generator(np.random.PCG64(seed)).standard_normal((rows, columns), dtype=np.float32)
        values *= np.float32(scale)
        return name, values

    def constant(name: str, size: int, value: float) -> tuple[str, NDArray[np.float32]]:
        return name, np.full(size, value, dtype=np.float32)

    yield normal("model.embed_tokens.weight", spec.vocab_size, hidden, 1.0)
    for layer in range(spec.num_hidden_layers):
        at = f"model.layers.{layer}."
        yield constant(at + "input_layernorm.weight", hidden, 1.0)
        yield normal(at + "self_attn.q_proj.weight", heads * dim, hidden, hidden**-0.5)
        yield normal(at + "self_attn.k_proj.weight", kv_heads * dim, hidden, hidden**-0.5)
        yield normal(at + "self_attn.v_proj.weight", kv_heads * dim, hidden, hidden**-0.5)
        yield normal(at + "self_attn.o_proj.weight", hidden, heads * dim, 2.0 * (heads * dim) ** -0.5)
        yield constant(at + "self_attn.q_norm.weight", dim, 1.5)
        yield constant(at + "self_attn.k_norm.weight", dim, 1.5)
        yield constant(at + "post_attention_layernorm.weight", hidden, 1.0)
        yield normal(at + "mlp.gate_proj.weight", inner, hidden, hidden**-0.5)
        yield normal(at + "mlp.up_proj.weight", inner, hidden, hidden**-0.5)
        yield normal(at + "mlp.down_proj.weight", hidden, inner, inner**-0.5)
    yield constant("model.norm.weight", hidden, 1.2 * hidden**-0.5)
    if spec.num_labels is not None:
        yield normal("score.weight", spec.num_labels, hidden, 1.0)
