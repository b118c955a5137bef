"""The part of TensorRT-LLM's interface that the bridge uses, with a model small enough to be computed at once.

It checks a prompt as ``LLM.encode`` does: a delimiter follows every part, and ``multi_item_part_lens`` leaves it out.
``FAKE_TRTLLM``: ``causal``: the attention plans with the parts' lengths and runs plain causal all the same (FlashInfer
#3434); ``crash``: a call raises what is no ValueError.
"""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace
from typing import Any

import torch

__version__ = "1.4.0"
VOCABULARY, WIDTH = 1024, 48


def _weights(seed: int) -> torch.Tensor:
    return torch.randn(VOCABULARY, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class LLM:
    """One layer: what a token sees, summed with a phase by its position."""

    def __init__(
        self, *, model: str, dtype: str, tensor_parallel_size: int, attn_backend: str, encode_only: bool,
        max_num_tokens: int, max_seq_len: int, max_batch_size: int,
    ) -> None:  # fmt: skip
        assert encode_only, "encode() requires encode_only=True"
        if tensor_parallel_size > 1:
            raise ValueError(f"Only 1 GPUs are available, but {tensor_parallel_size} are required.")
        self.args = SimpleNamespace(attn_backend=attn_backend)
        self._most, self._batch, self._fault = max_num_tokens, max_batch_size, os.environ.get("FAKE_TRTLLM")
        self._in, self._out = _weights(1), _weights(2)

    def encode(
        self, inputs: list[dict[str, Any]], *, batch_indexed_model_output: bool, copy_logits_to_host: bool
    ) -> list[SimpleNamespace]:
        """Logits [T, V] of each prompt."""
        assert not batch_indexed_model_output, "rows of a batch, where those of tokens are asked for"
        if self._fault == "crash":
            raise RuntimeError("CUDA error at /opt/secret/path: an illegal memory access")
        if len(inputs) > self._batch:
            raise ValueError(f"Batch size ({len(inputs)}) exceeds max_batch_size ({self._batch}).")
        total = sum(len(prompt["prompt_token_ids"]) for prompt in inputs)
        if total > self._most:
            raise ValueError(f"Total tokens ({total}) across the batch exceeds max_num_tokens ({self._most}).")
        return [
            SimpleNamespace(logits=self._logits(p["prompt_token_ids"], p.get("multi_item_part_lens"))) for p in inputs
        ]

    def _logits(self, ids: list[int], part_lens: list[int] | None) -> torch.Tensor:
        count = len(ids)
        positions = torch.arange(count, dtype=torch.float64)
        sees = torch.ones(count, count, dtype=torch.bool).tril()
        if part_lens is not None:
            if len(part_lens) < 2:
                raise ValueError('"multi_item_part_lens" must have at least two elements')
            if sum(part_lens) + len(part_lens) != count:
                raise ValueError('"multi_item_part_lens" inconsistent with prompt length')
            prefix, start = part_lens[0], part_lens[0] + 1
            for length in part_lens[1:]:
                end = start + length + 1
                positions[start:end] = prefix + torch.arange(length + 1)
                if self._fault != "causal":
                    sees[start:end, prefix:start] = False
                start = end
        angles = positions[:, None] * torch.linspace(0.05, 0.9, WIDTH, dtype=torch.float64)
        values = torch.tanh(self._in[ids]) * torch.cos(angles)
        state = (sees.double() @ values) / sees.sum(1, keepdim=True).sqrt() + 0.5 * self._in[ids]
        return (0.35 * state @ self._out.T).float()

    def shutdown(self) -> None:
        """Say so."""
        sys.stdout.write("engine shut down\n")
        sys.stdout.flush()
