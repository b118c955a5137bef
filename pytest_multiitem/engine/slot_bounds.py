"""Which of a block's keys a row sees, as two numbers a row: what kernels take instead of tiles.

Rows are those of slots one after another, then padding, as in `engine.torch_attention.segment`. Padding sees no key:
its first one is `NO_KEY`, its last one -1. ``tiles``: (G, W) of the slots. A block's shape recurs in every layer and
few shapes exist, so what follows from it alone is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

import torch
from torch import Tensor

#: Behind every key: the first key of a row that sees none.
NO_KEY: Final = 2**31 - 1
_Tiles = tuple[tuple[int, int], ...]


def by_bounds(attend: Callable[..., Tensor]) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """`engine.torch_attention.segment` and ``segment_last``, of a kernel that takes bounds.

    ``attend``: of query, key, value, prefix_key, prefix_value, first, last, as these functions have them.
    """

    def segment(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        prefix_key: Tensor,
        prefix_value: Tensor,
        tiles: Sequence[tuple[int, int]],
    ) -> Tensor:
        first, last = bounds(tuple(tiles), query.shape[1], query.device)
        return attend(query, key, value, prefix_key, prefix_value, first, last)

    def segment_last(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        prefix_key: Tensor,
        prefix_value: Tensor,
        tiles: Sequence[tuple[int, int]],
        last: Tensor,
    ) -> Tensor:
        return attend(query, key, value, prefix_key, prefix_value, *last_bounds(tuple(tiles), last))

    return segment, segment_last


@lru_cache(maxsize=256)
def bounds(tiles: _Tiles, rows: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The first and the last key that each of all rows sees, int32 [rows]: its slot's first one, and itself."""
    first, last = _none(rows), torch.full((rows,), -1, dtype=torch.int32)
    start = 0
    for slots, width in tiles:
        these = slice(start, start + slots * width)
        last[these] = torch.arange(these.start, these.stop, dtype=torch.int32)
        first[these] = start + torch.arange(slots, dtype=torch.int32).repeat_interleave(width) * width
        start = these.stop
    return first.to(device), last.to(device)


def last_bounds(tiles: _Tiles, last: Tensor) -> tuple[Tensor, Tensor]:
    """As :func:`bounds` of one row a slot, then padding: ``last`` [n] is the row's place within its slot."""
    first = _starts(tiles, len(last), last.device)
    return first, torch.where(first < NO_KEY, first + last, -1).to(torch.int32)


@lru_cache(maxsize=256)
def _starts(tiles: _Tiles, rows: int, device: torch.device) -> Tensor:
    """The first key of each slot, int32 [rows]."""
    starts = _none(rows)
    row = start = 0
    for slots, width in tiles:
        starts[row : row + slots] = start + torch.arange(slots, dtype=torch.int32) * width
        row, start = row + slots, start + slots * width
    return starts.to(device)


def _none(rows: int) -> Tensor:
    return torch.full((rows,), NO_KEY, dtype=torch.int32)
