"""Where each token of a packed sequence is computed: fixed slots in fixed tiles.

Floating-point sums depend on the shape and the placement of their operands. If one item's length
could move another item's rows, or change the shape of a matrix they are computed in, the other
item's score would change in its last bits, and an isolation of exactly 0.0 would be luck. So:

* the prefix (query and first delimiter) is computed alone; its shape depends on Q only;
* an item's block is computed in a slot whose WIDTH depends on its own length only, at a PLACE
  (tile number, slot number) that depends on its own index and width only;
* a tile's shape depends on the slot width and on N only, and is computed whole, empty slots
  included; tiles of different width never share a matrix;
* whatever an item does not see contributes an exact zero, added in a separate term.

Mutating, lengthening, shortening or emptying one item therefore changes no operand, shape or
placement of any number that another item's score is computed from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pytest_multiitem.scoring.layout import PackedLayout

#: The narrowest slot, in tokens. Widths double from here, so that few shapes exist: every further
#: width is another set of half-empty tiles and, in JAX, other programs to compile.
_NARROWEST = 12
#: Rows that a tile aims at: enough for an efficient matrix product, few enough to stay in cache.
_TILE_ROWS = 384


def slot_width(block_length: int) -> int:
    """Tokens reserved for a block of ``block_length`` tokens; a function of that block alone."""
    if block_length > _TILE_ROWS:
        return -(-block_length // _TILE_ROWS) * _TILE_ROWS
    width = _NARROWEST
    while width < block_length:
        width *= 2
    return width


def slots_per_tile(width: int, num_items: int) -> int:
    """G, the slots of ``width`` tokens in one tile of a sequence of N items; a function of these two alone.

    N is rounded up to 1, 2, 3, 4, 6, 8, 12, 16, … so that few shapes exist; N equal items then fill
    their tiles almost evenly.
    """
    power = 1 << max(0, num_items - 1).bit_length()
    rounded = power * 3 // 4 if power >= 4 and num_items <= power * 3 // 4 else power
    tiles = max(1, -(-rounded * width // _TILE_ROWS))
    return -(-rounded // tiles)


@dataclass(frozen=True, eq=False)
class Tile:
    """G slots of W tokens each, computed as one matrix of G·W rows.

    ``tokens``, ``positions`` [G, W]: padding is token 0 at position 0, after a block's own tokens,
    so causality alone hides it. ``packed_index`` [G, W]: index in the packed sequence, -1 for
    padding. ``item`` [G]: item index, -1 for an empty slot. ``score_row`` [G]: row within the slot
    whose logits score the item (0 where there is nothing to read here). ``reads`` [G]: whether the
    slot's score is read in this tile (false for empty slots and for empty items).
    """

    tokens: NDArray[np.int32]
    positions: NDArray[np.int32]
    packed_index: NDArray[np.int64]
    item: NDArray[np.int32]
    score_row: NDArray[np.int32]
    reads: NDArray[np.bool_]

    @property
    def slots(self) -> int:
        """G."""
        return int(self.tokens.shape[0])

    @property
    def width(self) -> int:
        """W, in tokens."""
        return int(self.tokens.shape[1])


@dataclass(frozen=True, eq=False)
class TilePlan:
    """A packed sequence placed in tiles.

    ``prefix_tokens``, ``prefix_positions`` [Q + 1]. ``visible_prefix``: how many leading prefix
    tokens items see. ``empty_items``: items without tokens; they score prefix row
    ``empty_score_row``.
    """

    layout: PackedLayout
    prefix_tokens: NDArray[np.int32]
    prefix_positions: NDArray[np.int32]
    visible_prefix: int
    tiles: tuple[Tile, ...]
    empty_items: tuple[int, ...]
    empty_score_row: int

    def reading_tiles(self) -> Iterator[Tile]:
        """The tiles that hold at least one score."""
        return (tile for tile in self.tiles if tile.reads.any())


def place(layout: PackedLayout, num_items: int | None = None) -> TilePlan:
    """Place a packed sequence in tiles; ``num_items`` sizes them (default: the N of the layout).

    A batch that is not full is placed with the full batch's number, so that it computes the same shapes.
    """
    num_items = layout.num_items if num_items is None else num_items
    groups: dict[tuple[int, int], list[tuple[int, int]]] = {}  # (width, tile number) -> [(slot, item)]
    lengths = np.diff(np.append(layout.block_start, layout.length))
    for item, length in enumerate(lengths.tolist()):
        width = slot_width(length)
        number, slot = divmod(item, slots_per_tile(width, num_items))
        groups.setdefault((width, number), []).append((slot, item))

    tiles = []
    for (width, _), members in sorted(groups.items()):
        slots = slots_per_tile(width, num_items)
        packed_index = np.full((slots, width), -1, dtype=np.int64)
        items = np.full(slots, -1, dtype=np.int32)
        score_row = np.zeros(slots, dtype=np.int32)
        reads = np.zeros(slots, dtype=np.bool_)
        for slot, item in members:
            block = layout.block(item)
            packed_index[slot, : block.stop - block.start] = np.arange(block.start, block.stop)
            items[slot] = item
            if block.stop - block.start > 1:
                score_row[slot] = layout.score_index[item] - block.start
                reads[slot] = True
        used = packed_index >= 0
        tiles.append(
            Tile(
                tokens=np.where(used, layout.token_ids[packed_index], 0).astype(np.int32),
                positions=np.where(used, layout.positions[packed_index], 0).astype(np.int32),
                packed_index=packed_index,
                item=items,
                score_row=score_row,
                reads=reads,
            )
        )
    prefix = slice(0, layout.prefix_length)
    empty = np.flatnonzero(lengths == 1)
    return TilePlan(
        layout=layout,
        prefix_tokens=layout.token_ids[prefix].astype(np.int32),
        prefix_positions=layout.positions[prefix],
        visible_prefix=layout.visible_prefix_length,
        tiles=tuple(tiles),
        empty_items=tuple(int(i) for i in empty),
        empty_score_row=layout.visible_prefix_length - 1
        if layout.semantics.has_serial_reference
        else layout.query_length,
    )
