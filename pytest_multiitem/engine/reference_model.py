"""The reference engine: a checkpoint of any causal LM that transformers computes, or of one with a classification head,
run the plain way.

One forward pass of transformers' own model per sequence: batch size 1, no padding, no cache, no
attention of ours. It shares no computation with the engines it is compared with, and it is serial only.
"""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from pytest_multiitem.engine.config import classes
from pytest_multiitem.errors import CheckpointError, EngineUnavailable
from pytest_multiitem.scoring.readout import Readout

log = logging.getLogger(__name__)

#: Attention written out as matrix products and a softmax, for two reasons: some architectures are only
#: right this way (scaled_dot_product_attention knows no soft-capped logits, as Gemma 2 has them), and no
#: kernel is chosen by device, dtype or length. The price: heads × S × S weights in memory at a time.
_ATTENTION = "eager"

#: What a forward pass need not do, where the architecture lets one say so. Both are exact: logits of
#: positions that nobody reads (S × vocabulary numbers), and keys and values kept for a next token.
_FORWARD_OPTIONS = {"logits_to_keep": 1, "use_cache": False}

#: Positions of an architecture that declares no limit (ALiBi, recurrent); --context-length lowers it.
_UNDECLARED_POSITIONS = 32_768


class ReferenceBackend:
    """`engine.backend.SerialBackend` on transformers' AutoModelForCausalLM, from a local directory; on its
    AutoModelForSequenceClassification where config.json names such an architecture.

    ``dtype``: "float32" or "bfloat16"; the logits are read in it, as the model gives them. ``device``:
    a torch device name, or "auto". Nothing is downloaded and no code of the checkpoint is run. Raises
    CheckpointError where transformers cannot compute the checkpoint from its weights alone, and
    EngineUnavailable where the device is missing.
    """

    name = "transformers"
    pooled = 0

    def __init__(self, directory: Path, *, dtype: str, device: str) -> None:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise EngineUnavailable(
                f"device {device!r} was asked for, but this PyTorch sees no CUDA device; use --device cpu"
            )
        self._model = _load(directory, getattr(torch, dtype))
        try:
            self._model.to(device)
        except (RuntimeError, AssertionError) as error:
            raise EngineUnavailable(f"device {device!r} cannot be used by this PyTorch: {error}") from error
        accepted = inspect.signature(self._model.forward).parameters
        self._options = {name: value for name, value in _FORWARD_OPTIONS.items() if name in accepted}
        config = self._model.config.get_text_config()
        self.attention = str(config._attn_implementation)
        self.attention_others: Mapping[str, str] = {}
        self.device = device
        self.dtype = str(self._model.dtype).removeprefix("torch.")
        self.versions = {"torch": str(torch.__version__), "transformers": str(transformers.__version__)}
        self.vocab_size = int(config.vocab_size)
        self.max_positions = int(getattr(config, "max_position_embeddings", None) or _UNDECLARED_POSITIONS)
        self.classes = int(self._model.config.num_labels) if _is_classifier(directory) else None
        # Content may end with the token that pads elsewhere, and transformers would read the one before it.
        self._model.config.pad_token_id = None

    @torch.inference_mode()
    def serial(
        self, tokens: Sequence[int], labels: Sequence[int], normalise: bool, rows: Sequence[int] | None = None
    ) -> Readout:
        """One forward pass of one sequence of S >= 1 tokens; reads its last token, n = 1, or the tokens ``rows``.

        A classification head is read by one pass of each sequence that ends with such a token. The log normaliser is
        summed in float32 over the logits as they are.
        """
        input_ids = torch.tensor([list(tokens)], dtype=torch.int64, device=self.device)
        if self.classes is not None:
            ends = [len(tokens)] if rows is None else [row + 1 for row in rows]
            logits = torch.cat([self._model(input_ids=input_ids[:, :end]).logits for end in ends]).float()
        elif rows is None:
            logits = self._model(input_ids=input_ids, **self._options).logits[:, -1].float()
        else:
            logits = self._model(input_ids=input_ids).logits[0, list(rows)].float()
        label_logits = logits[:, list(labels)].cpu().numpy()
        if not normalise:
            return Readout(label_logits)
        return Readout(label_logits, torch.logsumexp(logits, dim=-1).cpu().numpy())

    @torch.inference_mode()
    def causal(
        self, tokens: NDArray[np.int64], positions: NDArray[np.int32], rows: NDArray[np.int64], labels: Sequence[int]
    ) -> Readout:
        """One plain causal forward pass of S tokens at positions [S] of their own; reads the tokens at ``rows``.

        n = len(rows). Raises EngineUnavailable where the architecture takes no positions.
        """
        if "position_ids" not in inspect.signature(self._model.forward).parameters:
            raise EngineUnavailable(f"{type(self._model).__name__} takes no positions")
        input_ids, position_ids = (
            torch.tensor(row[None], dtype=torch.int64, device=self.device) for row in (tokens, positions)
        )
        # Without a mask of its own, transformers takes positions that restart for sequences packed apart.
        seen = torch.ones_like(input_ids)
        logits = self._model(input_ids=input_ids, position_ids=position_ids, attention_mask=seen).logits[0].float()
        return Readout(logits[rows][:, list(labels)].cpu().numpy())


def _load(directory: Path, dtype: torch.dtype) -> Any:
    """The model of a checkpoint directory, every weight of it from the files."""
    if not (directory / "config.json").is_file():
        raise CheckpointError(
            f"{directory} holds no config.json; expected a checkpoint directory in Hugging Face layout "
            "(config.json, *.safetensors, tokenizer.json)"
        )
    kind = AutoModelForSequenceClassification if _is_classifier(directory) else AutoModelForCausalLM
    try:
        model, report = kind.from_pretrained(
            directory,
            dtype=dtype,
            attn_implementation=_ATTENTION,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:  # its taxonomy spans OSError, ValueError, RuntimeError, ImportError and safetensors' own
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(
            f"{directory} cannot be loaded by --backend transformers, which computes the causal LMs that transformers "
            f"{transformers.__version__} has, from *.safetensors, and never runs a checkpoint's own code: {reason[0]}"
        ) from error
    # transformers draws a weight at random where the files lack it, and only warns.
    if report["missing_keys"]:
        raise CheckpointError(
            f"{directory} lacks {_some(report['missing_keys'])}: random weights would stand in, and the scores "
            f"would mean nothing. Expected all weights of {type(model).__name__}."
        )
    if report["unexpected_keys"]:
        log.warning("%s does not use %s", type(model).__name__, _some(report["unexpected_keys"]))
    return model.eval().requires_grad_(False)


def _is_classifier(directory: Path) -> bool:
    """Whether a checkpoint is one for sequence classification."""
    try:
        raw = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{directory / 'config.json'} cannot be read as JSON: {error}") from None
    return isinstance(raw, dict) and classes(raw) is not None


def _some(names: Collection[str]) -> str:
    """The first few of many weight names, and how many there are."""
    shown = ", ".join(sorted(names)[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more weights"
