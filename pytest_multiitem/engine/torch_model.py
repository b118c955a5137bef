"""The PyTorch engine: our own Qwen3 forward pass, computed row block by row block."""

from __future__ import annotations

import copy
import itertools
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from pytest_multiitem.engine import interruption, torch_products
from pytest_multiitem.engine import torch_attention as attention
from pytest_multiitem.engine.config import read_config
from pytest_multiitem.engine.interruption import Interruption
from pytest_multiitem.engine.plan import Block, Plan, arbitrary_tokens, equal_slots, pack, place
from pytest_multiitem.engine.torch_kernels import Heads, choose
from pytest_multiitem.engine.torch_weights import Layer, load_weights
from pytest_multiitem.errors import EngineUnavailable
from pytest_multiitem.scoring.layout import PackedLayout
from pytest_multiitem.scoring.readout import Readout

#: Heights of the blocks that items are packed in: on a CPU the largest keeps a block's rows in its cache, on an
#: accelerator it fills the machine.
_CPU_ROWS = (32, 64, 128, 256, 512)
_ACCELERATOR_ROWS = (128, 512, 2048, 8192)
#: Prefix lengths that the rows of a block are compared at: within one block of the attention's keys, and beyond it.
_PROBED_PREFIXES = (9, 700)
_PROBED_WIDTH = 4
#: Rows of a dense sequence up to which what they see is kept from layer to layer: 64 MiB in float32.
_SIGHT_KEPT = 4096
#: Rows of a block that attend at a time: bounds what they see to this many rows of the mask.
_SIGHT_ROWS = 1024


@dataclass(frozen=True, eq=False)
class TorchPrefix:
    """A computed prefix: per layer keys and values [kv_heads, P, D]; what goes into the last layer: hidden states
    [P, H] and queries [heads, P, D]. The last layer's rest is computed for the rows that are read."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    hidden: Tensor
    queries: Tensor


#: Rotary factors: cosine and sine, each [R, 1, D / 2].
_Rotary = tuple[Tensor, Tensor]


class TorchBackend:
    """`engine.backend.Backend` on PyTorch; reads a Qwen3 checkpoint directory itself.

    ``dtype``: "float32" or "bfloat16". ``device``: a torch device name, or "auto".
    """

    name = "pytorch"

    def __init__(self, directory: Path, *, dtype: str, device: str) -> None:
        config = self._config = read_config(directory)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise EngineUnavailable(
                f"device {device!r} was asked for, but this PyTorch sees no CUDA device; use --device cpu"
            )
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise EngineUnavailable(f"device {device!r} cannot be used by this PyTorch: {error}") from error
        weights = load_weights(directory, config, getattr(torch, dtype), device)
        self._embedding, self._layers, self._final_norm, self._head = weights
        #: Radians from one position to the next [D / 2].
        self._frequencies = 1.0 / config.rope_theta ** (torch.arange(0, config.head_dim, 2.0) / config.head_dim)
        self._frequencies = self._frequencies.to(device)
        self._product = torch_products.choose(device, getattr(torch, dtype))
        self.device = device
        self.dtype = dtype
        self.versions = {"torch": str(torch.__version__)}
        self.vocab_size = config.vocab_size
        self.max_positions = config.max_position_embeddings
        self.classes = config.classes
        self.pooled = 0 if config.classes is None else config.hidden_size
        heads = Heads(config.num_attention_heads, config.num_key_value_heads, config.head_dim)
        self._kernel, self.attention_others = choose(device, getattr(torch, dtype), heads)
        self.attention = self._kernel.name
        on_cpu = torch.device(device).type == "cpu"
        self._blocks_at_once = torch.get_num_threads() if on_cpu else 1
        self._cores = _cores(self._blocks_at_once) if on_cpu else None
        self._block_rows = self._uniform_rows(_CPU_ROWS if on_cpu else _ACCELERATOR_ROWS)

    @torch.inference_mode()
    def serial(
        self, tokens: Sequence[int], labels: Sequence[int], normalise: bool, rows: Sequence[int] | None = None
    ) -> Readout:
        """One plain causal forward pass; reads the last token, or ``rows``."""
        prefix = self.prefix(np.asarray(tokens, np.int32), np.arange(len(tokens), dtype=np.int32))
        at = [len(tokens) - 1] if rows is None else rows
        return Readout.joined([self.prefix_readout(prefix, row, labels, normalise) for row in at])

    @torch.inference_mode()
    def prefix(self, tokens: NDArray[np.int32], positions: NDArray[np.int32]) -> TorchPrefix:
        """Run the prefix [P] causally and keep each layer's keys and values."""
        stop = interruption.current()
        hidden, rotary = self._embed(tokens, positions)
        keys, values = [], []
        for layer in self._layers:
            stop.check()
            query, key, value = self._project(layer, hidden, rotary)
            keys.append(key)
            values.append(value)
            if layer is not self._layers[-1]:
                hidden = self._finish(layer, hidden, attention.causal(query, key, value))
        return TorchPrefix(tuple(keys), tuple(values), hidden, query)

    @torch.inference_mode()
    def prefix_readout(self, prefix: TorchPrefix, row: int, labels: Sequence[int], normalise: bool) -> Readout:
        """Read the logits at row ``row`` of a computed prefix."""
        at = slice(row, row + 1)
        attended = attention.everything(
            prefix.queries[:, at], prefix.keys[-1][:, : row + 1], prefix.values[-1][:, : row + 1]
        )
        return self._read(self._finish(self._layers[-1], prefix.hidden[at], attended), labels, normalise)

    def plan(self, prefix: TorchPrefix | None, layout: PackedLayout, num_items: int) -> Plan:
        """Side by side in blocks where every row of a block is computed alike, else in fixed tiles."""
        if self._block_rows:
            return pack(layout, self._block_rows, self._blocks_at_once)
        return place(layout, num_items, scores_only=True)

    def padded_length(self, layout: PackedLayout) -> int:
        """Items in the blocks of :meth:`plan`; the prefix is not padded."""
        return self.plan(None, layout, layout.num_items).padded_length(layout.prefix_length)

    def segment(
        self, prefix: TorchPrefix, visible_prefix: int, blocks: Sequence[Block], labels: Sequence[int], normalise: bool
    ) -> list[Readout]:
        """Run blocks: each slot against the visible prefix and causally against itself.

        On a CPU every core computes blocks by itself, whatever their number: no operation waits for another core,
        and how many blocks there are changes no operation.
        """
        run = partial(self._segment_block, interruption.current(), prefix, visible_prefix, labels, normalise)
        return [*map(run, blocks)] if self._cores is None else [*self._cores.map(run, blocks)]

    @torch.inference_mode()
    def _segment_block(
        self,
        stop: Interruption,
        prefix: TorchPrefix,
        visible_prefix: int,
        labels: Sequence[int],
        normalise: bool,
        block: Block,
    ) -> Readout:
        """Run one block, in whichever thread.

        In the last layer only the rows that are read need the prefix and what follows attention, a pass at a time.
        """
        tiles = [(tile.slots, tile.width) for tile in block.tiles]
        shared = [
            (key[:, :visible_prefix], value[:, :visible_prefix])
            for key, value in zip(prefix.keys, prefix.values, strict=True)
        ]
        hidden, rotary = self._embed(block.tokens, block.positions)
        for layer, (prefix_key, prefix_value) in zip(self._layers[:-1], shared[:-1], strict=True):
            stop.check()
            query, key, value = self._project(layer, hidden, rotary)
            attended = self._kernel.segment(query, key, value, prefix_key, prefix_value, tiles)
            hidden = self._finish(layer, hidden, attended)
        slots = len(block.item)
        height = next((size for size in self._block_rows if size >= slots), slots)
        layer, queries = self._layers[-1], self._config.num_attention_heads
        keys = self._project(layer, hidden, rotary, slice(queries, None))
        cos, sin = rotary
        reads = []
        for each in block.passes:
            at, last = (self._tensor(np.pad(rows, (0, height - slots))) for rows in (block.rows_of(each), each.row))
            read = hidden[at]
            query = self._project(layer, read, (cos[at], sin[at]), slice(queries))[0]
            attended = self._kernel.segment_last(query, *keys[1:], *shared[-1], tiles, last)
            reads.append(self._read(self._finish(layer, read, attended), labels, normalise).first(slots))
        return Readout.joined(reads)

    @torch.inference_mode()
    def _uniform_rows(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """``sizes`` where this machine's arithmetic gives a row the same bits in every row of blocks of every one of
        them, else none: what :func:`engine.plan.pack` rests on.

        Measured, with equal slots and the weights of the first and the last layer (those between have their shapes),
        because no library promises it.
        """
        probe = copy.copy(self)
        probe._block_rows = tuple(sizes)
        probe._layers = [self._layers[0], *self._layers[1:][-1:]]
        labels = arbitrary_tokens(3, len(self._head)).tolist()
        for length in _PROBED_PREFIXES:
            prefix = probe.prefix(arbitrary_tokens(length, self.vocab_size), np.arange(length, dtype=np.int32))
            expected = None
            for rows, slots in itertools.product(sizes, (1, 2, sizes[-1])):
                slots = min(slots, rows // _PROBED_WIDTH)
                block = Block((equal_slots(slots, _PROBED_WIDTH, length, self.vocab_size),), rows)
                (read,) = probe.segment(prefix, length, [block], labels, normalise=True)
                rows_read = np.column_stack([read.label_logits, np.asarray(read.log_normaliser)])
                expected = rows_read[0] if expected is None else expected
                if not (rows_read == expected).all():
                    return ()
        return tuple(sizes)

    @torch.inference_mode()
    def dense(self, plan: Plan, labels: Sequence[int], normalise: bool) -> Readout:
        """Run the whole packed sequence, in placed order, under its S×S mask.

        That is there for a few rows at a time where it is large.
        """
        stop = interruption.current()
        prefix_tokens, prefix_positions = plan.layout.prefix
        tokens = [prefix_tokens, *(tile.tokens.reshape(-1) for tile in plan.tiles)]
        positions = [prefix_positions, *(tile.positions.reshape(-1) for tile in plan.tiles)]
        sizes = [len(block) for block in tokens]
        mask = _PlacedMask(plan, sizes)

        def seen(rows: slice) -> list[attention.Sight]:
            part = torch.from_numpy(mask.rows(rows)).to(self.device)
            return [attention.sight(block, hidden[0].dtype) for block in part.split(sizes, dim=1)]

        embedded = [self._embed(t, p) for t, p in zip(tokens, positions, strict=True)]
        hidden = [rows for rows, _ in embedded]
        at_once = _slices(sizes, _SIGHT_ROWS)
        kept = [[seen(rows) for rows in block] for block in at_once] if sum(sizes) <= _SIGHT_KEPT else None
        for layer in self._layers:
            projected = [self._project(layer, h, rotary) for h, (_, rotary) in zip(hidden, embedded, strict=True)]
            keys = [attention.spread(key, query) for query, key, _ in projected]
            values = [attention.spread(value, query) for query, _, value in projected]
            for i, (query, _, _) in enumerate(projected):
                attended = []
                for j, rows in enumerate(at_once[i]):
                    stop.check()
                    begin = j * _SIGHT_ROWS
                    sight = kept[i][j] if kept else seen(rows)
                    attended.append(attention.dense(query[:, begin : begin + _SIGHT_ROWS], keys, values, sight))
                hidden[i] = self._finish(layer, hidden[i], torch.cat(attended))
        empty = self._read(hidden[0][plan.empty_score_row][None], labels, normalise)
        tiles = [
            Readout.joined(
                [self._read(rows[self._tensor(tile.rows_of(each))], labels, normalise) for each in tile.passes]
            )
            for tile, rows in zip(plan.tiles, hidden[1:], strict=True)
        ]
        return plan.in_item_order(empty, tiles)

    def _embed(self, tokens: NDArray[np.int32], positions: NDArray[np.int32]) -> tuple[Tensor, _Rotary]:
        """Embeddings [R, H], and the rotary factors of their positions, each [R, 1, D / 2]."""
        hidden = functional.embedding(self._tensor(tokens), self._embedding)
        angles = self._tensor(positions)[:, None, None].float() * self._frequencies
        return hidden, (angles.cos().to(hidden.dtype), angles.sin().to(hidden.dtype))

    def _tensor(self, values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.asarray(values, dtype=np.int64)).to(self.device)

    def _read(self, hidden: Tensor, labels: Sequence[int], normalise: bool) -> Readout:
        """Read n rows of hidden states [n, H] at the labels, accumulating in float32."""
        states = self._norm(hidden, self._final_norm)
        wanted = self._head[torch.tensor(list(labels), device=self.device)]
        logits = (states.float() @ wanted.float().T).cpu().numpy()
        if not normalise:
            return Readout(logits)
        total = torch.logsumexp((states @ self._head.T).float(), dim=-1)
        return Readout(logits, total.cpu().numpy())

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """Root-mean-square norm of the last axis; rounded to the model's type before it is scaled, as in transformers'
        Qwen3RMSNorm."""
        return functional.rms_norm(x, x.shape[-1:], None, self._config.rms_norm_eps) * weight

    def _project(
        self, layer: Layer, hidden: Tensor, rotary: _Rotary, heads: slice = slice(None)
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [heads, R, D], keys and values [kv_heads, R, D] of hidden states [R, H].

        ``heads``: which of them, counted over queries, keys and values one after another; of the others there are none.
        """
        dim, queries, keys = self._config.head_dim, self._config.num_attention_heads, self._config.num_key_value_heads
        first, end, _ = heads.indices(queries + 2 * keys)
        joint = self._product(self._norm(hidden, layer.input_norm), layer.qkv[first * dim : end * dim])
        rows = joint.unflatten(-1, (-1, dim))
        normed = min(end, queries + keys) - first
        both = _rotate(self._norm(rows[:, :normed], layer.qk_norm[first:end]), rotary)
        split = max(0, min(end, queries) - first)
        return both[:split], both[split:], rows[:, normed:].transpose(0, 1)

    def _finish(self, layer: Layer, hidden: Tensor, attended: Tensor) -> Tensor:
        """The rest of a decoder layer after attention [R, heads · D]."""
        hidden = hidden + self._product(attended, layer.output)
        gate, up = self._product(self._norm(hidden, layer.post_norm), layer.gate_up).chunk(2, dim=-1)
        return hidden + self._product(functional.silu(gate).mul_(up), layer.down)


def _cores(count: int) -> ThreadPoolExecutor:
    """As many threads, in each of which PyTorch computes alone; in all others it goes on to use ``count``.

    ``torch.set_num_threads`` holds for the thread that calls it, and for every thread in which PyTorch has not computed
    yet. So all of the pool's threads call it now, and then this one sets it back.
    """
    cores = ThreadPoolExecutor(count, "engine-core")
    all_started = threading.Barrier(count)

    def alone() -> int:
        torch.set_num_threads(1)
        all_started.wait()
        return torch.get_num_threads()  # PyTorch takes the number over now

    started = [cores.submit(alone) for _ in range(count)]
    if any(each.result() != 1 for each in started):
        raise EngineUnavailable("this PyTorch computes with several threads where it was told to use one")
    torch.set_num_threads(count)
    return cores


def _rotate(x: Tensor, rotary: _Rotary) -> Tensor:
    """Rotary positions on [R, heads, D], halves rotated against each other; gives [heads, R, D]."""
    cos, sin = (factor.transpose(0, 1) for factor in rotary)
    first, second = x.transpose(0, 1).chunk(2, dim=-1)
    rotated = x.new_empty(x.shape[1], x.shape[0], x.shape[2])
    left, right = rotated.chunk(2, dim=-1)
    torch.mul(first, cos, out=left).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=right).addcmul_(first, sin)
    return rotated


def _slices(sizes: Sequence[int], most: int) -> list[list[slice]]:
    """The rows of blocks of ``sizes`` rows that stand one behind the other, ``most`` at a time."""
    blocks, start = [], 0
    for size in sizes:
        blocks.append([slice(start + at, start + min(at + most, size)) for at in range(0, size, most)])
        start += size
    return blocks


class _PlacedMask:
    """The S×S mask in placed order (prefix, then tiles); padding sees itself and is seen by nobody.

    Boolean, or logarithms of weights where the layout has a bias, which is held whole.
    """

    def __init__(self, plan: Plan, sizes: Sequence[int]) -> None:
        index = np.concatenate([np.arange(sizes[0]), *(tile.packed_index.reshape(-1) for tile in plan.tiles)])
        self._index = index.astype(np.int32)
        self._used = used = self._index >= 0
        self._layout = plan.layout
        self._weights: NDArray[np.float32] | None = None
        if plan.layout.bias is not None:
            self._weights = np.full((len(index), len(index)), -np.inf, dtype=np.float32)
            self._weights[np.ix_(used, used)] = plan.layout.log_weights()[np.ix_(index[used], index[used])]
            np.fill_diagonal(self._weights, 0)

    def rows(self, rows: slice) -> NDArray[Any]:
        """Some rows [R, S] of the mask."""
        if self._weights is not None:
            return self._weights[rows]
        part = self._layout.visible(self._index[rows], self._index)
        part &= self._used[rows, None] & self._used[None, :]
        part[np.arange(len(part)), np.arange(rows.start, rows.stop)] = True
        return part
