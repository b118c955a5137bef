"""The PyTorch engine: transformers' Qwen3 modules, driven row block by row block with our attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor
from transformers.models.qwen3.modeling_qwen3 import Qwen3ForCausalLM, apply_rotary_pos_emb

from pytest_multiitem.engine import torch_attention as attention
from pytest_multiitem.engine.config import read_config
from pytest_multiitem.engine.plan import Tile, TilePlan
from pytest_multiitem.errors import CheckpointError, EngineUnavailable
from pytest_multiitem.scoring.readout import Readout


@dataclass(frozen=True, eq=False)
class TorchPrefix:
    """A computed prefix: per layer keys and values [kv_heads, P, D]; what goes into the last layer: hidden states
    [P, H] and queries [heads, P, D]. The last layer's rest is computed for the rows that are read."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    hidden: Tensor
    queries: Tensor


class TorchBackend:
    """`engine.backend.Backend` on PyTorch; reads a Qwen3 checkpoint directory with transformers.

    ``dtype``: "float32" or "bfloat16". ``device``: a torch device name, or "auto".
    """

    name = "pytorch"

    def __init__(self, directory: Path, *, dtype: str, device: str) -> None:
        config = read_config(directory)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise EngineUnavailable(
                f"device {device!r} was asked for, but this PyTorch sees no CUDA device; use --device cpu"
            )
        try:
            self._model: Any = Qwen3ForCausalLM.from_pretrained(
                directory, dtype=getattr(torch, dtype), local_files_only=True, attn_implementation="sdpa"
            )
        except (OSError, RuntimeError) as error:
            raise CheckpointError(f"{directory} cannot be loaded: {error}") from error
        self._model.eval().requires_grad_(False)
        try:
            self._model.to(device)
        except (RuntimeError, AssertionError) as error:
            raise EngineUnavailable(f"device {device!r} cannot be used by this PyTorch: {error}") from error
        self._layers: list[Any] = list(self._model.model.layers)
        self.device = device
        self.dtype = dtype
        self.versions = {"torch": str(torch.__version__), "transformers": str(transformers.__version__)}
        self.vocab_size = config.vocab_size
        self.max_positions = config.max_position_embeddings

    @torch.inference_mode()
    def serial(self, tokens: Sequence[int], labels: Sequence[int], normalise: bool) -> Readout:
        """One plain causal forward pass; reads the last token."""
        prefix = self.prefix(np.asarray(tokens, np.int32), np.arange(len(tokens), dtype=np.int32))
        return self.prefix_readout(prefix, len(tokens) - 1, labels, normalise)

    @torch.inference_mode()
    def prefix(self, tokens: NDArray[np.int32], positions: NDArray[np.int32]) -> TorchPrefix:
        """Run the prefix [P] causally and keep each layer's keys and values."""
        hidden, rotary = self._embed(tokens, positions)
        keys, values = [], []
        for layer in self._layers:
            query, key, value = _project(layer, hidden, rotary)
            keys.append(key)
            values.append(value)
            if layer is not self._layers[-1]:
                hidden = _finish(layer, hidden, attention.causal(query, key, value))
        return TorchPrefix(tuple(keys), tuple(values), hidden, query)

    @torch.inference_mode()
    def prefix_readout(self, prefix: TorchPrefix, row: int, labels: Sequence[int], normalise: bool) -> Readout:
        """Read the logits at row ``row`` of a computed prefix."""
        at = slice(row, row + 1)
        attended = attention.everything(
            prefix.queries[:, at], prefix.keys[-1][:, : row + 1], prefix.values[-1][:, : row + 1]
        )
        return self._read(_finish(self._layers[-1], prefix.hidden[at], attended), labels, normalise)

    @torch.inference_mode()
    def segment_tile(
        self, prefix: TorchPrefix, visible_prefix: int, tile: Tile, labels: Sequence[int], normalise: bool
    ) -> Readout:
        """Run one tile: each slot against the visible prefix and causally against itself."""
        hidden, rotary = self._embed(tile.tokens.reshape(-1), tile.positions.reshape(-1))
        for layer, prefix_key, prefix_value in zip(self._layers, prefix.keys, prefix.values, strict=True):
            query, key, value = _project(layer, hidden, rotary)
            attended = attention.segment(
                query,
                key,
                value,
                prefix_key[:, :visible_prefix],
                prefix_value[:, :visible_prefix],
                tile.slots,
            )
            hidden = _finish(layer, hidden, attended)
        return self._read(hidden[self._score_rows(tile)], labels, normalise)

    @torch.inference_mode()
    def dense(self, plan: TilePlan, labels: Sequence[int], normalise: bool) -> Readout:
        """Run the whole packed sequence, in placed order, under its S×S mask."""
        tokens = [plan.prefix_tokens, *(tile.tokens.reshape(-1) for tile in plan.tiles)]
        positions = [plan.prefix_positions, *(tile.positions.reshape(-1) for tile in plan.tiles)]
        sizes = [len(block) for block in tokens]
        mask = torch.from_numpy(_placed_mask(plan, sizes)).to(self.device).split(sizes)
        embedded = [self._embed(t, p) for t, p in zip(tokens, positions, strict=True)]
        hidden = [rows for rows, _ in embedded]
        for layer in self._layers:
            projected = [_project(layer, h, rotary) for h, (_, rotary) in zip(hidden, embedded, strict=True)]
            keys = [key for _, key, _ in projected]
            values = [value for _, _, value in projected]
            hidden = [
                _finish(layer, h, attention.dense(query, keys, values, block_mask))
                for h, (query, _, _), block_mask in zip(hidden, projected, mask, strict=True)
            ]
        readouts = [self._read(hidden[0][plan.empty_score_row][None], labels, normalise)]
        owners = [np.full(1, -1)]
        for tile, rows in zip(plan.tiles, hidden[1:], strict=True):
            readouts.append(self._read(rows[self._score_rows(tile)], labels, normalise))
            owners.append(np.where(tile.reads, tile.item, -1))
        return _in_item_order(plan, readouts, np.concatenate(owners))

    def _embed(self, tokens: NDArray[np.int32], positions: NDArray[np.int32]) -> tuple[Tensor, Any]:
        hidden = self._model.model.embed_tokens(self._tensor(tokens))
        cos, sin = self._model.model.rotary_emb(hidden[None], self._tensor(positions)[None])
        return hidden, (cos[0], sin[0])

    def _score_rows(self, tile: Tile) -> Tensor:
        return self._tensor(np.arange(tile.slots) * tile.width + tile.score_row)

    def _tensor(self, values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.asarray(values, dtype=np.int64)).to(self.device)

    def _read(self, hidden: Tensor, labels: Sequence[int], normalise: bool) -> Readout:
        """Read n rows of hidden states [n, H] at the labels, accumulating in float32."""
        states = self._model.model.norm(hidden)
        head = self._model.lm_head.weight
        wanted = head[torch.tensor(list(labels), device=self.device)]
        logits = (states.float() @ wanted.float().T).cpu().numpy()
        if not normalise:
            return Readout(logits)
        total = torch.logsumexp((states @ head.T).float(), dim=-1)
        return Readout(logits, total.cpu().numpy())


def _project(layer: Any, hidden: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Queries [heads, R, D], keys and values [kv_heads, R, D] of hidden states [R, H]."""
    block = layer.self_attn
    states = layer.input_layernorm(hidden)
    by_head = (states.shape[0], -1, block.head_dim)
    query = block.q_norm(block.q_proj(states).view(by_head))
    key = block.k_norm(block.k_proj(states).view(by_head))
    query, key = apply_rotary_pos_emb(query, key, *rotary, unsqueeze_dim=1)
    value = block.v_proj(states).view(by_head)
    return query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)


def _finish(layer: Any, hidden: Tensor, attended: Tensor) -> Tensor:
    """The rest of a decoder layer after attention."""
    hidden = hidden + layer.self_attn.o_proj(attended)
    return hidden + layer.mlp(layer.post_attention_layernorm(hidden))


def _placed_mask(plan: TilePlan, sizes: Sequence[int]) -> NDArray[Any]:
    """The S×S mask in placed order (prefix, then tiles); padding sees itself and is seen by nobody.

    Boolean, or logarithms of weights where the layout has a bias.
    """
    layout = plan.layout
    index = np.concatenate([np.arange(sizes[0]), *(tile.packed_index.reshape(-1) for tile in plan.tiles)]).astype(
        np.int32
    )
    used = index >= 0
    if layout.bias is not None:
        weights = np.full((len(index), len(index)), -np.inf, dtype=np.float32)
        weights[np.ix_(used, used)] = layout.log_weights()[np.ix_(index[used], index[used])]
        np.fill_diagonal(weights, 0)
        return weights
    mask = np.empty((len(index), len(index)), dtype=np.bool_)
    for start in range(0, len(index), 1024):  # bounded temporaries; the mask itself is S×S by intent
        rows = slice(start, start + 1024)
        mask[rows] = layout.visible(index[rows], index) & used[rows, None] & used[None, :]
    np.fill_diagonal(mask, True)
    return mask


def _in_item_order(plan: TilePlan, readouts: Sequence[Readout], owners: NDArray[np.int64]) -> Readout:
    """Gather rows read tile by tile into item order; empty items take the first row."""
    source = np.zeros(plan.layout.num_items, dtype=np.int64)
    source[owners[owners >= 0]] = np.flatnonzero(owners >= 0)
    logits = np.concatenate([readout.label_logits for readout in readouts])[source]
    if readouts[0].log_normaliser is None:
        return Readout(logits)
    totals = [r.log_normaliser for r in readouts if r.log_normaliser is not None]
    return Readout(logits, np.concatenate(totals)[source])
