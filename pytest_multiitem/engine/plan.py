"""Where each token of a packed sequence is computed.

Floating-point sums depend on the shape and the placement of their operands. If one item's length could move another
item's rows, or change the shape of a matrix they are computed in, the other item's score would change in its last bits,
and an isolation of exactly 0.0 would be luck. There are three placements, and none leaves it to luck:

* :func:`place`, fixed slots in fixed tiles, needs nothing but that a computation repeats itself. An
  item's slot has a WIDTH that depends on its own length only, at a PLACE (tile number, slot number)
  that depends on its own index and width only; a tile's shape depends on the slot width and on N
  only, and is computed whole, empty slots included. The price is those empty slots.
* :func:`stack` fills tiles of a width in item order, so that few slots are empty. It is for a backend
  that was seen to give a slot the same bits at every place of a tile.
* :func:`pack`, slots side by side in blocks of a few fixed heights, has next to no empty rows. It is
  for a backend that was seen to give a row the same bits in every row of every such block.

In all the prefix (query and first delimiter) is computed alone, its shape depends on Q only, and
whatever an item does not see contributes an exact zero, added in a separate term.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pytest_multiitem.scoring.layout import PackedLayout
from pytest_multiitem.scoring.readout import Readout

#: Rows that a tile aims at: enough for an efficient matrix product, few enough to stay in cache.
_TILE_ROWS = 384
#: The narrowest slot of :func:`place`, in tokens. Widths double from here, so that few shapes exist: every
#: further width is another set of half-empty tiles and, in JAX, other programs to compile.
_NARROWEST = 12
#: Slots of :func:`stack` in tokens. Few, for each is a program to compile; items of 20 tokens, the usual workload,
#: need no padding.
_STACKED = (12, 20, 32, 48, 96, 192, 384)
#: Rows that a tile of :func:`stack` holds at most, unless one slot does: more of them share what is read once for a
#: tile, such as a prefix's keys, but the last tile of every width has more empty slots.
_STACKED_ROWS = 512
_NONE = np.zeros(0, dtype=np.int64)
#: Slots of :func:`pack` are this many tokens wide, or multiples of it.
_STEP = 4


def slot_width(block_length: int) -> int:
    """Tokens that :func:`place` reserves for a block of ``block_length`` tokens; a function of that block alone."""
    if block_length > _TILE_ROWS:
        return -(-block_length // _TILE_ROWS) * _TILE_ROWS
    width = _NARROWEST
    while width < block_length:
        width *= 2
    return width


def packed_width(block_length: int) -> int:
    """Tokens that :func:`pack` reserves: an eighth more than ``block_length`` at most, or up to a multiple of 4."""
    step = max(_STEP, (1 << max(0, block_length - 1).bit_length()) // 16)
    return -(-block_length // step) * step


def stacked_width(length: int) -> int:
    """Tokens that :func:`stack` reserves for an item; a function of its ``length`` alone."""
    return next((width for width in _STACKED if width >= length), -(-length // _STACKED[-1]) * _STACKED[-1])


def slots_per_tile(width: int, num_items: int) -> int:
    """G, the slots of ``width`` tokens in one tile of a sequence of N items; a function of these two alone.

    N is rounded up to 1, 2, 3, 4, 6, 8, 12, 16, … so that few shapes exist; N equal items then fill
    their tiles almost evenly.
    """
    rounded = _rounded_up(num_items)
    tiles = max(1, -(-rounded * width // _TILE_ROWS))
    return -(-rounded // tiles)


def stacked_slots(width: int, num_items: int) -> int:
    """G of :func:`stack`, as in :func:`slots_per_tile`, but the same for every N that one tile does not hold: a width
    then has a shape for many items and a few for few."""
    return min(_rounded_up(num_items), _rounded_down(max(1, _STACKED_ROWS // width)))


def _rounded_up(count: int) -> int:
    """The least of 1, 2, 3, 4, 6, 8, 12, 16, … that is not below ``count``."""
    power = 1 << max(0, count - 1).bit_length()
    return power * 3 // 4 if power >= 4 and count <= power * 3 // 4 else power


def _rounded_down(count: int) -> int:
    """The greatest of 1, 2, 3, 4, 6, 8, 12, 16, … that is not above ``count``."""
    power = 1 << count.bit_length() - 1
    return power * 3 // 2 if power >= 2 and count >= power * 3 // 2 else power


@dataclass(frozen=True, eq=False)
class Pass:
    """One readout of each slot of a tile, or of a block, at most.

    ``row`` [G]: the row within the slot whose logits are read (0 where there is nothing to read). ``readout`` [G]: its
    number in the layout, -1 where nothing is read: empty slots, empty items, items that have fewer readouts.
    """

    row: NDArray[np.int32]
    readout: NDArray[np.int32]

    @property
    def reads(self) -> NDArray[np.bool_]:
        """Whether each slot is read [G]."""
        return self.readout >= 0


@dataclass(frozen=True, eq=False)
class Tile:
    """G slots of W tokens each, one after another.

    ``tokens``, ``positions`` [G, W]: padding is token 0 at position 0, after a block's own tokens, so causality alone
    hides it. ``packed_index`` [G, W]: index in the packed sequence, -1 for padding. ``item`` [G]: item index, -1 for an
    empty slot. ``passes``: one, or, where items have several readouts (``setwise``), as many as one of them has: the
    n-th holds the n-th readout of every slot, so that what is read at once has the tile's shape, whatever the items.
    """

    tokens: NDArray[np.int32]
    positions: NDArray[np.int32]
    packed_index: NDArray[np.int64]
    item: NDArray[np.int32]
    passes: tuple[Pass, ...]
    setwise: bool = False

    @property
    def score_row(self) -> NDArray[np.int32]:
        """The row of each slot's first readout [G], within the slot."""
        return self.passes[0].row

    @property
    def reads(self) -> NDArray[np.bool_]:
        """Whether each slot is read in this tile [G]."""
        return self.passes[0].reads

    @property
    def slots(self) -> int:
        """G."""
        return int(self.tokens.shape[0])

    @property
    def width(self) -> int:
        """W, in tokens."""
        return int(self.tokens.shape[1])

    @property
    def score_rows(self) -> NDArray[np.int64]:
        """The row of each slot's first readout [G] among the tile's G · W rows."""
        return self.rows_of(self.passes[0])

    def rows_of(self, each: Pass) -> NDArray[np.int64]:
        """The rows of a pass [G] among the tile's G · W rows."""
        return np.arange(self.slots) * self.width + each.row


@dataclass(frozen=True, eq=False)
class Block:
    """What is computed as one matrix of ``rows`` rows: tiles one after another, then padding."""

    tiles: tuple[Tile, ...]
    rows: int

    @cached_property
    def tokens(self) -> NDArray[np.int32]:
        """[rows]; padding is token 0."""
        return self._padded([tile.tokens for tile in self.tiles])

    @cached_property
    def positions(self) -> NDArray[np.int32]:
        """[rows]; padding has position 0."""
        return self._padded([tile.positions for tile in self.tiles])

    @cached_property
    def item(self) -> NDArray[np.int32]:
        """Item index of each of the block's slots, -1 for an empty one."""
        return np.concatenate([tile.item for tile in self.tiles])

    @cached_property
    def passes(self) -> tuple[Pass, ...]:
        """Those of all tiles together; a tile that has fewer is not read in the later ones."""
        count = max(len(tile.passes) for tile in self.tiles)
        filled = [(*tile.passes, *[_nothing(tile.slots)] * (count - len(tile.passes))) for tile in self.tiles]
        return tuple(
            Pass(np.concatenate([each.row for each in parts]), np.concatenate([each.readout for each in parts]))
            for parts in zip(*filled, strict=True)
        )

    @cached_property
    def readout(self) -> NDArray[np.int32]:
        """The number of what is read in each slot in each pass, one pass after another, -1 for nothing."""
        return np.concatenate([each.readout for each in self.passes])

    @property
    def reads(self) -> NDArray[np.bool_]:
        """Whether each slot is read here, in the first pass."""
        return self.passes[0].reads

    @property
    def score_rows(self) -> NDArray[np.int64]:
        """The row of each slot's first readout among the block's rows."""
        return self.rows_of(self.passes[0])

    def rows_of(self, each: Pass) -> NDArray[np.int64]:
        """The rows of a pass among the block's rows."""
        return self._slot_starts + each.row

    @cached_property
    def _slot_starts(self) -> NDArray[np.int64]:
        """The first row of each slot among the block's rows."""
        starts = np.cumsum([0, *(tile.tokens.size for tile in self.tiles)])
        return np.concatenate(
            [start + np.arange(tile.slots) * tile.width for start, tile in zip(starts, self.tiles, strict=False)]
        )

    def _padded(self, parts: Sequence[NDArray[np.int32]]) -> NDArray[np.int32]:
        padded = np.zeros(self.rows, dtype=np.int32)
        used = np.concatenate([part.reshape(-1) for part in parts])
        padded[: len(used)] = used
        return padded


@dataclass(frozen=True, eq=False)
class Plan:
    """A packed sequence whose items are placed in blocks; its prefix is computed by itself."""

    layout: PackedLayout
    blocks: tuple[Block, ...]

    @property
    def tiles(self) -> tuple[Tile, ...]:
        """The tiles of all blocks."""
        return tuple(tile for block in self.blocks for tile in block.tiles)

    @property
    def visible_prefix(self) -> int:
        """How many leading prefix tokens items see."""
        return self.layout.visible_prefix_length

    def padded_length(self, prefix_rows: int) -> int:
        """S and its padding: every row that is computed and holds no token of the sequence.

        ``prefix_rows``: those that the prefix is computed in. S counts whole, with tokens that no score depends on.
        """
        placed = sum(int(np.count_nonzero(tile.packed_index >= 0)) for tile in self.tiles)
        padding = prefix_rows - self.layout.prefix_length + sum(block.rows for block in self.blocks) - placed
        return self.layout.length + padding

    def in_item_order(self, empty: Readout, tiles: Sequence[Readout]) -> Readout:
        """One readout [R] from those of the tiles, each [G] a pass, and the one row that empty items share."""
        count = self.layout.num_readouts
        logits = np.repeat(empty.label_logits, count, axis=0)
        normaliser = None if empty.log_normaliser is None else np.repeat(empty.log_normaliser, count)
        for tile, read in zip(self.tiles, tiles, strict=True):
            number = np.concatenate([each.readout for each in tile.passes])
            logits[number[number >= 0]] = read.label_logits[number >= 0]
            if normaliser is not None and read.log_normaliser is not None:
                normaliser[number[number >= 0]] = read.log_normaliser[number >= 0]
        return Readout(logits, normaliser)

    @cached_property
    def empty_items(self) -> tuple[int, ...]:
        """Items without tokens that have a score all the same: where readouts are inside items, they have none."""
        if self.layout.readout_item is not None:
            return ()
        return tuple(np.flatnonzero(_block_lengths(self.layout) == 1).tolist())

    @property
    def empty_score_row(self) -> int:
        """The row of the prefix that scores them: the state at an empty item's own leading delimiter."""
        if self.layout.semantics.has_serial_reference:
            return self.layout.visible_prefix_length - 1
        return self.layout.query_length


def place(layout: PackedLayout, num_items: int | None = None, *, scores_only: bool = False) -> Plan:
    """Fixed slots in fixed tiles, one tile a block, sized for ``num_items`` (default: the N of the layout).

    A batch that is not full is placed with the full batch's number, so that it computes the same shapes.
    ``scores_only``: leave out what no score depends on: closing delimiters, empty items, tiles that hold nothing else.
    """
    num_items = layout.num_items if num_items is None else num_items
    lengths = _needed(layout) if scores_only else _block_lengths(layout)
    groups: dict[tuple[int, int], dict[int, int]] = {}  # (width, tile number) -> {slot: item}
    for item, length in enumerate(lengths.tolist()):
        if length:
            width = slot_width(length)
            number, slot = divmod(item, slots_per_tile(width, num_items))
            groups.setdefault((width, number), {})[slot] = item
    blocks = []
    for (width, _), members in sorted(groups.items()):
        items = np.full(slots_per_tile(width, num_items), -1)
        items[list(members)] = list(members.values())
        blocks.append(Block((_tile(layout, items, lengths, width),), len(items) * width))
    return Plan(layout, tuple(blocks))


def stack(layout: PackedLayout, num_items: int) -> Plan:
    """Slots of one width in tiles, filled in item order, one tile a block; ``num_items`` sizes the tiles.

    Holds what scores depend on only.
    """
    lengths = _needed(layout)
    widths = np.array([stacked_width(length) for length in lengths.tolist()])
    blocks = []
    for width in sorted(set(widths[lengths > 0].tolist())):
        items = np.flatnonzero((widths == width) & (lengths > 0))
        slots = stacked_slots(width, num_items)
        filled = np.pad(items, (0, -len(items) % slots), constant_values=-1)
        blocks += [Block((_tile(layout, part, lengths, width),), slots * width) for part in filled.reshape(-1, slots)]
    return Plan(layout, tuple(blocks))


def pack(layout: PackedLayout, sizes: Sequence[int], at_once: int = 1) -> Plan:
    """Slots side by side, ordered by width, in blocks of one of ``sizes`` rows (ascending); the last block may be of a
    smaller one.

    Holds what scores depend on only. ``at_once``: blocks that are computed at the same time; few rows are spread over
    as many. An item wider than a block has one of its own, of a multiple of the size.
    """
    lengths = _needed(layout)
    widths = np.where(lengths > 0, [packed_width(length) for length in lengths.tolist()], 0)
    share = -(-int(widths.sum()) // at_once)
    largest = next((size for size in sizes if size >= share), sizes[-1])
    contents: list[list[int]] = []
    free = 0
    for item in np.argsort(widths, kind="stable").tolist():
        if not lengths[item]:
            continue
        width = int(widths[item])
        if width > free:
            contents.append([])
            free = max(largest, width)
        contents[-1].append(item)
        free -= width
    blocks = []
    for items in contents:
        tiles = []
        for width in sorted({int(widths[item]) for item in items}):
            tiles.append(_tile(layout, np.array([i for i in items if widths[i] == width]), lengths, width))
        used = sum(tile.tokens.size for tile in tiles)
        rows = next((size for size in sizes if size >= used), -(-used // largest) * largest)
        blocks.append(Block(tuple(tiles), rows))
    return Plan(layout, tuple(blocks))


def equal_slots(slots: int, width: int, start: int, vocab_size: int, *, setwise: bool = False) -> Tile:
    """A tile of ``slots`` slots of the same ``width`` tokens behind ``start`` others, each read at its end: what shows
    whether slots are computed alike."""
    shape = (slots, width)
    return Tile(
        tokens=np.broadcast_to(arbitrary_tokens(width, vocab_size), shape),
        positions=np.broadcast_to(np.arange(start, start + width, dtype=np.int32), shape),
        packed_index=np.arange(slots * width).reshape(shape),
        item=np.arange(slots, dtype=np.int32),
        passes=(Pass(np.full(slots, width - 1, dtype=np.int32), np.arange(slots, dtype=np.int32)),),
        setwise=setwise,
    )


def arbitrary_tokens(count: int, vocab_size: int) -> NDArray[np.int32]:
    """``count`` token ids, the same every time, spread over a vocabulary."""
    return (np.arange(1, count + 1, dtype=np.int64) * 7919 % vocab_size).astype(np.int32)


def _tile(layout: PackedLayout, items: NDArray[np.int64], lengths: NDArray[np.int64], width: int) -> Tile:
    """Slots of ``width`` tokens for ``items`` (-1: an empty slot), holding the first ``lengths`` tokens of each."""
    offsets = np.arange(width)
    used = (offsets < lengths[items][:, None]) & (items >= 0)[:, None]
    packed_index = np.where(used, layout.block_start[items][:, None] + offsets, -1)
    return Tile(
        tokens=np.where(used, layout.token_ids[packed_index], 0).astype(np.int32),
        positions=np.where(used, layout.positions[packed_index], 0).astype(np.int32),
        packed_index=packed_index,
        item=items.astype(np.int32),
        passes=_passes(layout, items),
        setwise=layout.readout_item is not None,
    )


def _passes(layout: PackedLayout, items: NDArray[np.int64]) -> tuple[Pass, ...]:
    """What is read in slots for ``items`` (-1: an empty slot)."""
    if layout.readout_item is None:
        reads = (items >= 0) & (_block_lengths(layout)[items] > 1)
        return (_pass(layout, np.where(reads, items, -1), items),)
    of_item = [np.flatnonzero(layout.readout_item == item) if item >= 0 else _NONE for item in items.tolist()]
    count = max(1, *map(len, of_item))
    numbers = np.array([np.pad(own, (0, count - len(own)), constant_values=-1) for own in of_item])
    return tuple(_pass(layout, number, items) for number in numbers.T)


def _pass(layout: PackedLayout, readout: NDArray[np.int64], items: NDArray[np.int64]) -> Pass:
    row = np.where(readout >= 0, layout.score_index[readout] - layout.block_start[items], 0)
    return Pass(row.astype(np.int32), readout.astype(np.int32))


def _nothing(slots: int) -> Pass:
    """A pass that reads nothing."""
    return Pass(np.zeros(slots, dtype=np.int32), np.full(slots, -1, dtype=np.int32))


def _block_lengths(layout: PackedLayout) -> NDArray[np.int64]:
    """Tokens of each item's block [N], its closing delimiter included."""
    return np.diff(np.append(layout.block_start, layout.length))


def _needed(layout: PackedLayout) -> NDArray[np.int64]:
    """How many leading tokens of each item's block its readouts depend on [N]; 0 for an empty item."""
    if layout.readout_item is not None:
        needed = np.zeros(layout.num_items, dtype=np.int64)
        np.maximum.at(needed, layout.readout_item, layout.score_index - layout.block_start[layout.readout_item] + 1)
        return needed
    return np.where(_block_lengths(layout) > 1, layout.score_index - layout.block_start + 1, 0)
