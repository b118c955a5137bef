"""Which tokens of a packed request see which, attention under that mask, and the faults that can be planted in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention

#: Rows whose attention is computed at once: a long request never has a mask of all its tokens by all its tokens.
BLOCK = 256


@dataclass(frozen=True)
class Items:
    """Where a request's items are, in FlashInfer's terms.

    ``prefix``: tokens of the query. ``offsets``: int64, for every token after it the distance from the delimiter
    before it, 0 at a delimiter. ``longest``: tokens of the longest item.
    """

    prefix: int
    offsets: torch.Tensor
    longest: int


#: Rows and the items they belong to (from 1; 0 in the query) -> rows that see everything before them.
Leaks = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    items: Items,
    *,
    first_row: int = 0,
    scale: float | None = None,
    leaks: Leaks | None = None,
) -> torch.Tensor:
    """Attention of one packed request: [rows, heads, head size].

    ``query`` holds the rows from ``first_row`` on, ``key`` and ``value`` [tokens, KV heads, head size] all tokens.
    """
    total = key.shape[0]
    query, key, value = (tensor.movedim(0, 1).unsqueeze(0) for tensor in (query, key, value))
    output = torch.empty_like(query)
    numbers = item_numbers(items, total)
    for start in range(first_row, total, BLOCK):
        end = min(start + BLOCK, total)
        rows = torch.arange(start, end)
        leaky = torch.zeros(len(rows), dtype=torch.bool) if leaks is None else leaks(rows, numbers[rows])
        # No row without a leak sees a token between the query and its own item, as FlashInfer's tiles have it too.
        low = 0 if leaky.any() else max(items.prefix, start - items.longest)
        seen = torch.arange(end)
        if low > items.prefix:
            seen = torch.cat([seen[: items.prefix], seen[low:]])
        output[:, :, start - first_row : end - first_row] = scaled_dot_product_attention(
            query[:, :, start - first_row : end - first_row],
            key[:, :, seen],
            value[:, :, seen],
            attn_mask=visible(items, rows, seen, leaky),
            scale=scale,
            enable_gqa=query.shape[1] != key.shape[1],
        )
    return output.squeeze(0).movedim(0, 1)


def visible(items: Items, rows: torch.Tensor, keys: torch.Tensor, leaky: torch.Tensor) -> torch.Tensor:
    """Which keys each row sees: bool [rows, keys].

    The query is causal. A token of an item sees the query and its own item so far, no delimiter. A delimiter sees the
    query alone. ``leaky`` rows see everything before them.
    """
    rows, keys = rows.unsqueeze(1), keys.unsqueeze(0)
    in_query = rows < items.prefix
    offsets = torch.cat([torch.zeros(items.prefix, dtype=torch.int64), items.offsets])[rows]
    own = (keys < items.prefix) | (keys > rows - offsets)
    return (keys <= rows) & (in_query | own | leaky.unsqueeze(1))


def item_numbers(items: Items, total: int) -> torch.Tensor:
    """Of every token, which item it belongs to, from 1; 0 in the query. A delimiter belongs to the item after it."""
    numbers = torch.zeros(total, dtype=torch.int64)
    numbers[items.prefix :] = (items.offsets == 0).cumsum(0)
    return numbers


@dataclass(frozen=True)
class Fault:
    """A defect of the mask: from some place on, tokens see everything before them. The positions stay right.

    ``kind``: ``leak_from_item`` (from the item with the number ``at``, counted from 1), ``leak_past_token`` (from the
    packed token ``at``, counted from 0), ``second_request`` (in every request of a batch but its first), or empty.
    """

    kind: str = ""
    at: int = 0

    @classmethod
    def read(cls, text: str) -> Fault:
        """A fault as it is written, ``kind:at``. Raises ValueError for one that does not exist."""
        kind, _, at = text.partition(":")
        if text and not (text == "second_request" or (kind in ("leak_from_item", "leak_past_token") and at.isdigit())):
            raise ValueError(f"no fault is called {text!r}: leak_from_item:N, leak_past_token:N or second_request")
        return cls(kind, int(at or 0))

    def __str__(self) -> str:
        return f"{self.kind}:{self.at}" if self.at else self.kind or "none"

    def leaks(self, request: int) -> Leaks | None:
        """Which rows leak in the request at that place of a batch, counted from 0; None: no row does."""
        if self.kind == "leak_from_item":
            return lambda rows, numbers: numbers >= self.at
        if self.kind == "leak_past_token":
            return lambda rows, numbers: rows >= self.at
        if self.kind == "second_request" and request:
            return lambda rows, numbers: torch.ones(len(rows), dtype=torch.bool)
        return None
