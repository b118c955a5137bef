"""Segment attention by PyTorch's FlexAttention: prefix and own keys as one sequence, under a block mask.

On a CUDA device it is compiled, and tiles that no row of a query tile sees are skipped; elsewhere PyTorch computes
every score, for numbers only. Prefix and own keys are copied into one array, once a layer. A row meets keys in tiles
of the whole sequence, so where an item stands may change its last bits; and zero times NaN is NaN, so an item that is
not finite may spoil others. `engine.triton_attention` has neither weakness.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from pytest_multiitem.engine.slot_bounds import by_bounds


def _attend(
    query: Tensor, key: Tensor, value: Tensor, prefix_key: Tensor, prefix_value: Tensor, first: Tensor, last: Tensor
) -> Tensor:
    heads, rows, dim = query.shape
    prefix = prefix_key.shape[1]
    keys, values = torch.cat([prefix_key, key], dim=1)[None], torch.cat([prefix_value, value], dim=1)[None]

    def seen(_batch: Any, _head: Any, row: Any, at: Any) -> Any:
        own = at - prefix
        return (own < 0) | ((first[row] <= own) & (own <= last[row]))

    mask = _masks(query.device).of(seen, first, last, rows, keys.shape[2])
    out = _flex(query.device.type)(query[None], keys, values, block_mask=mask, enable_gqa=True)[0]
    return out.transpose(0, 1).reshape(rows, heads * dim)


#: `engine.torch_attention.segment` and ``segment_last`` by FlexAttention.
segment, segment_last = by_bounds(_attend)


class _Masks:
    """The block mask last made: all layers of a block ask for the same one, and making it takes as long as some."""

    def __init__(self) -> None:
        self._made: tuple[Tensor, Tensor, int, Any] | None = None

    def of(self, seen: Any, first: Tensor, last: Tensor, rows: int, keys: int) -> Any:
        """The mask of ``seen``, which is the same function of these bounds and sizes every time."""
        made = self._made
        if made is None or made[0] is not first or made[1] is not last or made[2] != keys:
            mask = create_block_mask(seen, None, None, rows, keys, device=first.device)
            self._made = made = (first, last, keys, mask)
        return made[3]


@cache
def _masks(device: torch.device) -> _Masks:
    return _Masks()


@cache
def _flex(device: str) -> Any:
    return torch.compile(flex_attention, dynamic=True) if device == "cuda" else flex_attention
