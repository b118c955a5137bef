"""The JAX engine: our own Qwen3 forward pass, in programs whose shapes do not depend on item content."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from pytest_multiitem.engine import interruption
from pytest_multiitem.engine import jax_programs as programs
from pytest_multiitem.engine import jax_shapes as shapes
from pytest_multiitem.engine.config import ModelConfig, read_config
from pytest_multiitem.engine.jax_attention import LARGEST_UNSHIFTED
from pytest_multiitem.engine.jax_weights import load_weights, score_bound
from pytest_multiitem.engine.plan import Block, Plan, Tile, equal_slots, place, stack
from pytest_multiitem.errors import EngineUnavailable
from pytest_multiitem.scoring.layout import PREFIX, PackedLayout
from pytest_multiitem.scoring.readout import Readout
from pytest_multiitem.settings.cache import cache_directory

#: Rows of a block in dense scoring, at most: bounds the scores of a pair of blocks, 64 MiB with four heads.
_BLOCK_ROWS = 2048
#: Rows of a dense sequence up to which its S×S mask is kept from layer to layer: 256 MiB.
_MASK_KEPT = 16384
#: Blocks of a dense sequence that are under way at a time on a CPU, at least: they share its cores.
_AHEAD = 8


@dataclass(frozen=True, eq=False)
class _Block:
    """R rows of a placed sequence in dense scoring: the prefix or one tile, both padded, or a piece of a long one."""

    tokens: NDArray[np.int32]
    positions: NDArray[np.int32]
    placed: programs.Placed
    part: int  # 0: the prefix; from 1 on: the tile's number


@dataclass(frozen=True, eq=False)
class _Dispatched:
    """A readout of n rows that may still be computing: logits [≥ n, K], normaliser [≥ n] or None."""

    rows: int
    logits: Any
    normaliser: Any

    def collect(self) -> Readout:
        normaliser = None if self.normaliser is None else np.asarray(self.normaliser)[: self.rows]
        return Readout(np.asarray(self.logits)[: self.rows], normaliser)


def _collected(passes: Sequence[_Dispatched]) -> Readout:
    """The readouts of passes, one after another."""
    return Readout.joined([each.collect() for each in passes])


class JaxBackend:
    """`engine.backend.Backend` on JAX; reads a Qwen3 checkpoint directory itself.

    ``dtype``: "float32" or "bfloat16". ``device``: "cpu", "cuda", "tpu" or "auto" (JAX's default).
    Raises EngineUnavailable where JAX has no such device, CheckpointError for a bad directory.
    """

    name = "jax"

    def __init__(self, directory: Path, *, dtype: str, device: str) -> None:
        self._config: ModelConfig = read_config(directory)
        self._device = _find_device(device)
        self._segment_kernel = _segment_kernel_for(self._device)
        self.attention = "products" if self._segment_kernel is None else "pallas"
        self.attention_others: Mapping[str, str] = {}
        keep_compiled_programs()
        self._weights = load_weights(directory, self._config, dtype, self._device)
        self._shifted = not score_bound(self._weights.layers) <= LARGEST_UNSHIFTED
        self.device: str = self._device.device_kind
        self.dtype = dtype
        self.versions = {"jax": jax.__version__, "jaxlib": version("jaxlib")}
        self.vocab_size = self._config.vocab_size
        self.max_positions = self._config.max_position_embeddings
        self.classes = self._config.classes
        self.pooled = 0 if self.classes is None else self._config.hidden_size
        self._rotary = self._rotary_tables(self.max_positions)
        self._cores = ThreadPoolExecutor(os.cpu_count() or 1, "engine-core") if self._device.platform == "cpu" else None
        self._uniform: dict[tuple[int, int, int, bool], bool] = {}

    def serial(
        self, tokens: Sequence[int], labels: Sequence[int], normalise: bool, rows: Sequence[int] | None = None
    ) -> Readout:
        """One plain causal forward pass; reads the last token, or ``rows``."""
        ids = np.asarray(tokens, dtype=np.int32)
        prefix = self.prefix(ids, np.arange(len(ids), dtype=np.int32))
        at = [len(ids) - 1] if rows is None else rows
        return Readout.joined([self.prefix_readout(prefix, row, labels, normalise) for row in at])

    def prefix(self, tokens: NDArray[np.int32], positions: NDArray[np.int32]) -> programs.Prefill:
        """Run the prefix, padded to its bucket, causally and keep each layer's keys and values."""
        size = shapes.bucket(len(tokens))
        return programs.prefill(
            self._config, self._weights, self._rotary_for(positions), _padded(tokens, size), _padded(positions, size)
        )

    def prefix_readout(self, prefix: programs.Prefill, row: int, labels: Sequence[int], normalise: bool) -> Readout:
        """Read the logits at row ``row`` of a computed prefix."""
        state = programs.prefill_row(self._config, self._weights, prefix, np.int32(row))
        return self._read(state, 1, labels, normalise).collect()

    def plan(self, prefix: programs.Prefill, layout: PackedLayout, num_items: int) -> Plan:
        """Tiles filled in order where a tile's slots are computed alike, else fixed slots."""
        return self._plan(lambda: prefix, prefix.keys.shape[2], layout, num_items)

    def padded_length(self, layout: PackedLayout) -> int:
        """Items in the tiles of :meth:`plan`, the prefix in its bucket; it is run only where a tile's shape is new."""
        size = shapes.bucket(layout.prefix_length)
        prefix = cache(lambda: self.prefix(*layout.prefix))
        return self._plan(prefix, size, layout, layout.num_items).padded_length(size)

    def _plan(self, prefix: Callable[[], programs.Prefill], size: int, layout: PackedLayout, num_items: int) -> Plan:
        """:meth:`plan` behind a prefix of ``size`` rows, padding included."""
        plan = stack(layout, num_items)
        if all(self._is_uniform(prefix, size, tile) for tile in plan.tiles):
            return plan
        return place(layout, num_items, scores_only=True)

    def segment(
        self,
        prefix: programs.Prefill,
        visible_prefix: int,
        blocks: Sequence[Block],
        labels: Sequence[int],
        normalise: bool,
    ) -> list[Readout]:
        """Run blocks, of one tile each: each slot against the visible prefix and causally against itself.

        On a CPU there are as many tiles under way as cores: while one waits for its cores to meet, another goes on. An
        accelerator gets all of them at once and computes them in order.
        """

        stop = interruption.current()

        def dispatch(block: Block) -> list[_Dispatched]:
            stop.check()
            (tile,) = block.tiles
            states = self._segment(prefix, visible_prefix, tile)
            return [self._read(each, tile.slots, labels, normalise) for each in states]

        if self._cores is None:
            return [_collected(each) for each in [dispatch(block) for block in blocks]]
        return [*self._cores.map(lambda block: _collected(dispatch(block)), blocks)]

    def _segment(self, prefix: programs.Prefill, visible_prefix: int, tile: Tile) -> list[Any]:
        """The states [≥ G, H] that a tile's passes read, with this model's weights.

        Where items have several readouts, the layers and what is read are programs of their own, and the same ones
        however many readouts there are.
        """
        model = (self._config, self._weights)
        shared = (prefix.keys, prefix.values, np.int32(visible_prefix))
        inside = (self._rotary_for(tile.positions), *shared, tile.tokens, tile.positions)
        how = {"shifted": self._shifted, "kernel": self._segment_kernel}
        if not tile.setwise:
            return [programs.segment(*model, *inside, tile.score_row, **how)]
        computed = programs.segment_layers(*model, *inside, **how)
        sizes = {"slots": tile.slots, "width": tile.width}
        return [programs.segment_rows(*model, *shared, computed, each.row, **sizes, **how) for each in tile.passes]

    def _is_uniform(self, prefix: Callable[[], programs.Prefill], size: int, tile: Tile) -> bool:
        """Whether equal slots give the same bits at every place of a tile like this one behind a prefix of ``size``.

        Measured when a shape is first used: what :func:`engine.plan.stack` rests on, and no library promises it.
        """
        shape = (tile.slots, tile.width, size, tile.setwise)
        if shape not in self._uniform:
            equal = equal_slots(tile.slots, tile.width, size, self.vocab_size, setwise=tile.setwise)
            (computed,) = self._segment(prefix(), size, equal)
            states = np.asarray(computed)[: tile.slots]
            self._uniform[shape] = bool((states == states[:1]).all())
        return self._uniform[shape]

    def dense(self, plan: Plan, labels: Sequence[int], normalise: bool) -> Readout:
        """Run the whole packed sequence, in placed order, under its S×S mask, held as boolean blocks.

        A row meets every key block in placed order, its own the same way each time, so how many other
        blocks there are, and of which shape, changes no bit of it.
        """
        stop = interruption.current()
        blocks = _blocks(plan)
        mask = self._dense_masks(plan, blocks)
        rotary = self._rotary_for(*(block.positions for block in blocks))
        model = (self._config, self._weights)
        hidden = [programs.embed(*model, block.tokens) for block in blocks]
        for number in range(self._config.num_hidden_layers):
            layer = np.int32(number)
            projected = [
                programs.dense_project(*model, rotary, layer, x, block.positions)
                for x, block in zip(hidden, blocks, strict=True)
            ]
            for i, (q, _, _) in enumerate(projected):
                stop.check()
                state = programs.dense_start(q)
                for j, (_, k, v) in enumerate(projected):
                    state = programs.dense_attend(q, k, v, mask(i, j), state)
                hidden[i] = programs.dense_finish(*model, layer, hidden[i], state)
                if self._cores is not None and i >= _AHEAD:  # what is in a CPU's queue of work cannot be stopped
                    jax.block_until_ready(hidden[i - _AHEAD])

        def read(hidden: Any, rows: Sequence[int] | NDArray[Any]) -> _Dispatched:
            at = _padded(np.asarray(rows, dtype=np.int32), shapes.readable(len(rows)))
            return self._read(programs.final_states(*model, hidden, at), len(rows), labels, normalise)

        parts = _parts(hidden, blocks)
        empty = read(parts[0], [plan.empty_score_row])
        tiles = [
            [read(rows, tile.rows_of(each)) for each in tile.passes]
            for rows, tile in zip(parts[1:], plan.tiles, strict=True)
        ]
        return plan.in_item_order(empty.collect(), [_collected(each) for each in tiles])

    def _dense_masks(self, plan: Plan, blocks: Sequence[_Block]) -> Callable[[int, int], Any]:
        """The S×S mask by the numbers of the blocks of its rows and of its keys."""
        if plan.layout.bias is not None:
            weights = plan.layout.log_weights()
            return lambda r, c: _log_weights(weights, blocks[r].placed, blocks[c].placed)
        placed = [jax.device_put(block.placed, self._device) for block in blocks]

        def mask(r: int, c: int) -> Any:
            return programs.dense_mask(plan.layout.semantics, placed[r], placed[c])

        return cache(mask) if sum(len(block.tokens) for block in blocks) <= _MASK_KEPT else mask

    def _read(self, states: Any, rows: int, labels: Sequence[int], normalise: bool) -> _Dispatched:
        """Dispatch the reading of the first n ``rows`` of normed states; the arrays stay on the device until they are
        collected."""
        read = programs.read(self._weights, states, np.asarray(labels, dtype=np.int32), normalise=normalise)
        return _Dispatched(rows, *read)

    def _rotary_for(self, *positions: NDArray[np.int32]) -> programs.Rotary:
        """The rotary tables, grown where a position lies beyond them (JAX would clamp silently)."""
        highest = max(int(block.max()) for block in positions)
        if highest >= len(self._rotary.cos):
            self._rotary = self._rotary_tables(1 << highest.bit_length())
        return self._rotary

    def _rotary_tables(self, size: int) -> programs.Rotary:
        dim = self._config.head_dim
        frequency = self._config.rope_theta ** -(np.arange(0, dim, 2) / dim)
        angle = np.arange(size)[:, None] * frequency
        tables = programs.Rotary(np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32))
        return jax.device_put(tables, self._device)


def keep_compiled_programs() -> None:
    """Keep compiled programs on disk, so that only the first start on a machine compiles.

    The directory is one per kind of processor: a program compiled for another one may not run here.
    A cache the user configured (``JAX_COMPILATION_CACHE_DIR``) is left as it is.
    """
    if jax.config.jax_compilation_cache_dir is not None:
        return
    directory = cache_directory() / "jax" / _processor()
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # nowhere to keep them: compile every time
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _processor() -> str:
    """A short name of this machine's processor and its instruction set."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        flags = sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    except OSError:
        flags = [platform.processor()]
    digest = hashlib.sha256("\n".join(flags).encode()).hexdigest()[:8]
    return f"{platform.machine()}-{os.cpu_count()}-{digest}"


def _find_device(name: str) -> Any:
    try:
        return jax.devices(None if name == "auto" else name)[0]
    except RuntimeError as error:
        raise EngineUnavailable(
            f"device {name!r} was asked for, but JAX {jax.__version__} has none here "
            f"({str(error).splitlines()[0]}); use --device cpu, or install JAX for that device"
        ) from error


def _segment_kernel_for(device: Any) -> Callable[..., Any] | None:
    """What computes segment attention on ``device``: our kernel on a TPU, else None, XLA's products."""
    if device.platform != "tpu":
        return None
    # Imported here, so that an engine elsewhere runs where Pallas' TPU part is missing.
    from pytest_multiitem.engine.segment_kernel import slot_attention

    return slot_attention


def _padded(values: NDArray[np.int32], size: int, fill: int = 0) -> NDArray[np.int32]:
    """``values`` [n] followed by ``fill`` up to ``size``."""
    padded = np.full(size, fill, dtype=np.int32)
    padded[: len(values)] = values
    return padded


def _blocks(plan: Plan) -> list[_Block]:
    """The prefix in its bucket, then each tile's rows, with every row's identity for the mask; long ones in pieces."""
    length = plan.layout.prefix_length
    parts = [((*plan.layout.prefix, np.arange(length)), shapes.bucket(length))]
    for tile in plan.tiles:
        flat = (tile.tokens.reshape(-1), tile.positions.reshape(-1), tile.packed_index.reshape(-1))
        parts.append((flat, shapes.tile_bucket(tile.tokens.size)))
    blocks, start = [], 0
    for number, ((tokens, positions, packed_index), size) in enumerate(parts):
        tokens, positions = _padded(tokens, size), _padded(positions, size)
        index = _padded(packed_index.astype(np.int32), size, fill=-1)
        for at in range(0, size, _BLOCK_ROWS):
            rows = slice(at, min(at + _BLOCK_ROWS, size))
            placed = programs.Placed(
                index=index[rows],
                item=np.where(index[rows] >= 0, plan.layout.item[index[rows]], PREFIX),
                is_delimiter=plan.layout.is_delimiter[index[rows]],
                place=np.arange(start + rows.start, start + rows.stop, dtype=np.int32),
            )
            blocks.append(_Block(tokens[rows], positions[rows], placed, number))
        start += size
    return blocks


def _parts(hidden: Sequence[Any], blocks: Sequence[_Block]) -> list[Any]:
    """The rows of blocks as those of the prefix and of whole tiles."""
    parts: list[list[Any]] = [[] for _ in range(blocks[-1].part + 1)]
    for rows, block in zip(hidden, blocks, strict=True):
        parts[block.part].append(rows)
    return [rows[0] if len(rows) == 1 else jnp.concatenate(rows) for rows in parts]


def _log_weights(weights: NDArray[np.float32], rows: programs.Placed, keys: programs.Placed) -> NDArray[np.float32]:
    """One block [R, C] of a biased mask [S, S], with padding as in `programs.dense_mask`."""
    used = np.ix_(rows.index >= 0, keys.index >= 0)
    block = np.full((len(rows.index), len(keys.index)), -np.inf, dtype=np.float32)
    block[used] = weights[np.ix_(rows.index[rows.index >= 0], keys.index[keys.index >= 0])]
    block[rows.place[:, None] == keys.place[None, :]] = 0
    return block
