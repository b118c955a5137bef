"""The shape of one call: what is laid out, how many heads there are, and how it is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from pytest_multiitem.kernels.abilities import Abilities
from pytest_multiitem.kernels.layout import Layout, Lengths
from pytest_multiitem.scoring.layout import packed_length
from pytest_multiitem.scoring.semantics import Semantics


@dataclass(frozen=True)
class Shape:
    """q [rows, heads, D], k and v [rows, kv_heads, D], and where the rows stand."""

    semantics: Semantics
    lengths: tuple[Lengths, ...]
    group: int = 1
    kv_heads: int = 2
    head_dim: int = 64
    page_size: int | None = None

    @property
    def heads(self) -> int:
        """Query heads."""
        return self.group * self.kv_heads

    @property
    def rows(self) -> int:
        """Rows of all sequences together, without laying them out."""
        return sum(packed_length(query, items) for query, items in self.lengths)

    def layout(self, unused: float = 0.0) -> Layout:
        """Where its rows stand."""
        return Layout(self.semantics, self.lengths, self.page_size, unused)

    def __str__(self) -> str:
        """As a report shows it: ``query=3 items=2+1 heads=2/1 dim=64 prefix_first_delim``."""
        several = [f"query={query} items={_items(items)}" for query, items in self.lengths]
        page = "" if self.page_size is None else f" page={self.page_size}"
        return f"{' | '.join(several)} heads={self.heads}/{self.kv_heads} dim={self.head_dim}{page} {self.semantics}"


def _items(lengths: Sequence[int]) -> str:
    runs = [(length, len(list(run))) for length, run in groupby(lengths)]
    return "+".join(f"{count}×{length}" if count > 2 else "+".join([str(length)] * count) for length, count in runs)


def beyond(shape: Shape, can: Abilities) -> str | None:
    """Why a shape lies beyond what a kernel says that it can do; None where it does not."""
    items = [length for _, lengths in shape.lengths for length in lengths]
    asked = {
        "max_rows": shape.rows,
        "max_items": max(len(lengths) for _, lengths in shape.lengths),
        "max_item_length": max(items, default=0),
        "max_sequences": len(shape.lengths),
    }
    for name, number in asked.items():
        limit = getattr(can, name)
        if limit is not None and number > limit:
            return f"{number:,} is more than {name}={limit:,}"
    if can.kv_heads and shape.kv_heads not in can.kv_heads:
        return f"{shape.kv_heads} is none of kv_heads={', '.join(map(str, can.kv_heads))}"
    if not can.empty_items and 0 in items:
        return "empty_items=False"
    return None


def smaller(shape: Shape, can: Abilities) -> Iterator[Shape]:
    """Shapes a step smaller and within a kernel's limits, those that take most away first."""
    return (less for less in _steps_down(shape, can) if beyond(less, can) is None)


def _steps_down(shape: Shape, can: Abilities) -> Iterator[Shape]:
    least_group = min(can.groups)
    if len(shape.lengths) > 1:
        for at in range(len(shape.lengths)):
            yield replace(shape, lengths=shape.lengths[:at] + shape.lengths[at + 1 :])
    if shape.kv_heads > 1:
        for heads in dict.fromkeys((1, *_below(shape.kv_heads, least=1))):
            yield replace(shape, kv_heads=heads)
    if shape.group > least_group:
        yield replace(shape, group=least_group)
    if shape.head_dim > min(can.head_dims):
        yield replace(shape, head_dim=min(can.head_dims))
    for at, (query, items) in enumerate(shape.lengths):
        for fewer in _parts(items):
            yield _with(shape, at, (query, fewer))
        for less in _below(query, least=1):
            yield _with(shape, at, (less, items))
        longest = sorted(range(len(items)), key=lambda item: -items[item])[:3]
        for which in longest:
            for less in _below(items[which], least=1):
                yield _with(shape, at, (query, (*items[:which], less, *items[which + 1 :])))
        if items and len(set(items)) == 1 and len(items) > 1:
            for less in _below(items[0], least=1):
                yield _with(shape, at, (query, (less,) * len(items)))


def _with(shape: Shape, at: int, lengths: Lengths) -> Shape:
    return replace(shape, lengths=(*shape.lengths[:at], lengths, *shape.lengths[at + 1 :]))


def _parts(items: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Fewer items, by ever smaller parts that are taken away; at least one is left."""
    size = len(items) // 2
    while size:
        for start in range(0, len(items), size):
            if size < len(items):
                yield items[:start] + items[start + size :]
        if size > 4 and len(items) > 64:
            size //= 4
        else:
            size //= 2


def _below(number: int, *, least: int) -> Iterator[int]:
    """Smaller numbers, the smallest first."""
    step = number
    while step := step // 2:
        if number - step >= least:
            yield number - step
