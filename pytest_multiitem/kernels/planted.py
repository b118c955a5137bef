"""A tiled NumPy kernel that is right, and kernels that are wrong in one known way each.

The right one is FlashAttention-2's loop (Dao 2023, arXiv:2307.08691): tiles of rows against tiles of keys, with running
maximum, sum and values in float32. The wrong ones are it with one line changed: they are what a check must see, as
small as the check claims to see it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from pytest_multiitem.kernels.abilities import Abilities
from pytest_multiitem.kernels.arrays import rounded
from pytest_multiitem.kernels.layout import Bounds, Layout
from pytest_multiitem.kernels.subject import Attention, Subject
from pytest_multiitem.scoring.semantics import Semantics

_Array = NDArray[Any]
Seen = Callable[[_Array, _Array], _Array]


@dataclass(frozen=True)
class Tiled:
    """The kernel, and the places in which it can be wrong.

    ``tile``: rows, and keys, of a tile. ``bounds``: what each row sees, from the layout. ``seen``: more, or less, than
    these say, from rows, keys and what they say. ``kv_head``: of each query head, from heads and kv_heads.
    ``bias``: what is added to scores in the place of a mask. ``held``: how sums are held between tiles. ``operand``:
    how operands are taken. ``spills``: a weight of 0 is multiplied with what is hidden. ``width``: how many numbers of
    a head scores are taken from. ``cache``: how keys and values are read. ``last_tile``: the number of tiles of rows.
    ``order``: in which tiles of keys are summed. ``lowest``: where the running maximum begins. ``scale``: of scores,
    from D. ``scored``: what is done to scaled scores.
    """

    tile: int = 64
    bounds: Callable[[Layout], Bounds] = lambda layout: layout.bounds
    seen: Callable[[Layout, _Array, _Array, _Array], _Array] | None = None
    kv_head: Callable[[int, int], _Array] = lambda heads, kv_heads: np.arange(heads) // (heads // kv_heads)
    bias: Callable[[Layout, _Array, _Array], _Array] | None = None
    held: Callable[[_Array], _Array] = lambda x: x
    operand: Callable[[_Array], _Array] = lambda x: x
    spills: bool = False
    width: int | None = None
    cache: Callable[[Layout, _Array], _Array] | None = None
    last_tile: Callable[[int, int], int] = lambda rows, tile: -(-rows // tile)
    order: Callable[[list[_Array]], list[_Array]] = lambda tiles: tiles
    lowest: float = -np.inf
    scale: Callable[[int], float] = lambda dim: dim**-0.5
    scored: Callable[[_Array], _Array] = lambda x: x

    def __call__(self, q: Any, k: Any, v: Any, layout: Layout) -> Any:
        """``attention(q, k, v, layout)``."""
        rows, heads, dim = q.shape
        mapped = self.kv_head(heads, k.shape[1])
        if self.cache is not None:
            k, v = self.cache(layout, k), self.cache(layout, v)
        query = self.operand(q.astype(np.float32)[:, :, : self.width]).transpose(1, 0, 2)
        key, value = (self.operand(each.astype(np.float32)).transpose(1, 0, 2)[mapped] for each in (k, v))
        key = key[:, :, : self.width]
        bounds = self.bounds(layout)
        out = np.zeros((heads, rows, dim), dtype=np.float32)
        for number in range(self.last_tile(rows, self.tile)):
            mine = np.arange(number * self.tile, min((number + 1) * self.tile, rows))
            out[:, mine] = self._row_tile(layout, bounds, mine, query[:, mine], key, value, dim)
        return out.transpose(1, 0, 2).astype(q.dtype)

    def _row_tile(
        self, layout: Layout, bounds: Bounds, mine: _Array, query: _Array, key: _Array, value: _Array, dim: int
    ) -> _Array:
        heads = query.shape[0]
        maximum = np.full((heads, len(mine), 1), self.lowest, dtype=np.float32)
        total = np.zeros_like(maximum)
        sums = np.zeros((heads, len(mine), dim), dtype=np.float32)
        spoilt = np.zeros((heads, len(mine), dim), dtype=np.bool_)
        for keys in self.order(_key_tiles(bounds, mine, layout.rows, self.tile)):
            visible = _sees(bounds, mine[:, None], keys[None, :])
            if self.seen is not None:
                visible = self.seen(layout, mine[:, None], keys[None, :], visible)
            scores = self.scored(query @ key[:, keys].transpose(0, 2, 1) * np.float32(self.scale(dim)))
            if self.bias is not None:
                bias = self.bias(layout, mine[:, None], keys[None, :])
                scores, visible = scores + bias, ~np.isneginf(bias)
            scores = np.where(visible, scores, -np.inf)
            now = np.maximum(maximum, scores.max(axis=2, keepdims=True))
            safe = np.where(np.isneginf(now), np.float32(0), now)
            weights, rescale = np.exp(scores - safe), np.exp(maximum - safe)
            tile_value = value[:, keys]
            if not self.spills:
                bad = ~np.isfinite(tile_value)
                if bad.any():
                    spoilt |= (visible.astype(np.float32) @ bad.astype(np.float32)) > 0
                    tile_value = np.where(bad, np.float32(0), tile_value)
            total = self.held(total * rescale + weights.sum(axis=2, keepdims=True))
            sums = self.held(sums * rescale + weights @ tile_value)
            maximum = now
        return np.where(spoilt, np.float32(np.nan), sums / total)


def _sees(bounds: Bounds, rows: _Array, keys: _Array) -> _Array:
    first, prefix_end, own_start = (each[rows] for each in bounds)
    found: _Array = ((first <= keys) & (keys < prefix_end)) | ((own_start <= keys) & (keys <= rows))
    return found


def _key_tiles(bounds: Bounds, mine: _Array, rows: int, tile: int) -> list[_Array]:
    """The keys that some row of a tile sees, and the one behind its last row, tile by tile."""
    first, prefix_end, own_start = (each[mine] for each in bounds)
    prefix = np.arange(first.min(), max(prefix_end.max(), first.min()))
    # The key before the first own one and the one behind the last row are hidden, and read: a tile has its borders.
    own = np.arange(max(own_start.min() - 1, 0), min(mine[-1] + 2, rows))
    keys = np.unique(np.concatenate([prefix, own]))
    return [keys[start : start + tile] for start in range(0, len(keys), tile)]


def _overwriting() -> Attention:
    right = Tiled()

    def attention(q: Any, k: Any, v: Any, layout: Layout) -> Any:
        out = right(q, k, v, layout)
        v[-1, -1, -1] = 0
        return out

    return attention


def _widening() -> Attention:
    right = Tiled()
    return lambda q, k, v, layout: right(q, k, v, layout).astype(np.float32)


@dataclass(frozen=True)
class Planted:
    """A kernel that is wrong. ``claimed``: the check that must see it. ``what``: its fault, in words."""

    name: str
    claimed: str
    what: str
    make: Callable[[], Attention]
    can: Abilities


#: Limits of kernels whose fault is small: all checks of one then take a second or two.
_SHORT = Abilities(max_rows=1100, max_item_length=250, max_items=64)


def good(can: Abilities = _SHORT) -> Subject:
    """The right kernel, within what is asked of it."""
    return Subject("right", Tiled(cache=_through_pages), can)


def subject(fault: Planted) -> Subject:
    """A wrong kernel, new: none has a memory of another check's calls."""
    return Subject(fault.name, fault.make(), fault.can)


def _through_pages(layout: Layout, x: _Array, *, in_order: bool = False) -> _Array:
    """Rows written into a cache and read again; ``in_order``: as if the pages of a sequence were the first ones."""
    if layout.page_size is None:
        return x
    pages = layout.pages()
    cache = np.full((pages.total * pages.size, *x.shape[1:]), layout.unused, dtype=x.dtype)
    cache[pages.slots] = x
    if not in_order:
        read: _Array = cache[pages.slots]
        return read
    place = np.concatenate([np.arange(length) for length in np.diff(layout.starts)])
    in_turn: _Array = cache[pages.indptr[layout.sequence_ids] * pages.size + place]
    return in_turn


def _mask_dropped(layout: Layout) -> Bounds:
    first = layout.bounds.first
    return Bounds(first, first, first)


def _causal_beyond(rows: int) -> Callable[[Layout], Bounds]:
    return lambda layout: _mask_dropped(layout) if layout.rows > rows else layout.bounds


def _last_items(layout: Layout) -> _Array:
    """Which rows belong to the last item of their sequence."""
    last = np.array([each.num_items - 1 for each in layout.sequences])
    found: _Array = layout.segment_ids == last[layout.sequence_ids]
    return found


def _place_kept(layout: Layout) -> Bounds:
    first, prefix_end, own_start = layout.bounds
    before = np.maximum(own_start - 1, 0)
    kept = _last_items(layout) & (layout.segment_ids > 0)
    return Bounds(first, prefix_end, np.where(kept, own_start[before], own_start))


def _query_hidden(layout: Layout) -> Bounds:
    first, prefix_end, own_start = layout.bounds
    return Bounds(first, prefix_end - (_last_items(layout) & (layout.segment_ids >= 0)), own_start)


def _wrapping(layout: Layout) -> Bounds:
    first, prefix_end, own_start = layout.bounds
    return Bounds(first, prefix_end, own_start.astype(np.uint16).astype(np.int64))


def _from_item(number: int) -> Callable[[Layout], Bounds]:
    """From this item on, counted from 1, each sees the one before."""

    def bounds(layout: Layout) -> Bounds:
        first, prefix_end, own_start = layout.bounds
        leaks = layout.segment_ids >= number - 1
        return Bounds(first, prefix_end, np.where(leaks, own_start[np.maximum(own_start - 1, 0)], own_start))

    return bounds


def _first_table(layout: Layout) -> Bounds:
    first, prefix_end, own_start = (each.copy() for each in layout.bounds)
    length = int(layout.starts[1])
    for start, end in zip(layout.starts[1:-1], layout.starts[2:], strict=True):
        shared = min(int(end - start), length)
        for each in (prefix_end, own_start):
            each[start : start + shared] = start + each[:shared]
    return Bounds(first, prefix_end, own_start)


def _after_empty(layout: Layout) -> Bounds:
    first, prefix_end, own_start = layout.bounds
    starts = np.flatnonzero(own_start == np.arange(layout.rows))
    empty = set(starts[layout.is_delimiter[starts] & (layout.segment_ids[starts] >= 0)])
    leaks = np.array([start - 1 in empty for start in own_start]) & (layout.segment_ids >= 0)
    return Bounds(first, prefix_end, own_start - leaks)


def _first_delimiter(layout: Layout) -> Bounds:
    first, prefix_end, own_start = layout.bounds
    shown = (layout.segment_ids >= 0) & (layout.semantics is Semantics.QUERY_PREFIX)
    return Bounds(first, prefix_end + shown, own_start)


def _next_delimiter(layout: Layout, rows: _Array, keys: _Array, visible: _Array) -> _Array:
    found: _Array = visible | ((keys == rows + 1) & layout.is_delimiter[keys] & ~layout.is_delimiter[rows])
    return found


def _tile_border(layout: Layout, rows: _Array, keys: _Array, visible: _Array) -> _Array:
    found: _Array = visible & ~((rows % 64 == 0) & (rows > 0) & (keys == rows))
    return found


def _hidden_by(size: float, *, foreign: bool) -> Callable[[Layout, _Array, _Array], _Array]:
    """A finite bias for hidden keys: those of other items (``foreign``), or later ones of the same item."""

    def bias(layout: Layout, rows: _Array, keys: _Array) -> _Array:
        visible = _sees(layout.bounds, rows, keys)
        own = layout.bounds.own_start
        same = (keys > rows) & (own[keys] == own[rows]) & ~layout.is_delimiter[keys]
        weak = ~same if foreign else same
        return np.where(visible, np.float32(0), np.where(weak, np.float32(-size), np.float32(-np.inf)))

    return bias


def _alternating() -> Attention:
    """Every second call takes the tiles of keys from the other end, as a reduction without an order does."""
    calls = [0]

    def backwards(tiles: list[_Array]) -> list[_Array]:
        return tiles[::-1] if calls[0] % 2 else tiles

    kernel = Tiled(tile=16, order=backwards)

    def attention(q: Any, k: Any, v: Any, layout: Layout) -> Any:
        calls[0] += 1
        return kernel(q, k, v, layout)

    return attention


def _alike(layout: Layout) -> Bounds:
    """What a sequence's rows see is taken from the first one that is as long."""
    found = Bounds(*(each.copy() for each in layout.bounds))
    first_of: dict[int, int] = {}
    for start, end in zip(layout.starts[:-1], layout.starts[1:], strict=True):
        of = first_of.setdefault(int(end - start), int(start))
        for each in found:
            each[start:end] = each[of : of + end - start] + (start - of)
    return found


def _full_page(layout: Layout) -> Bounds:
    """With pages of 16 the last item of a sequence whose pages are all full sees itself alone."""
    first, prefix_end, own_start = layout.bounds
    full = (np.diff(layout.starts) % 16 == 0)[layout.sequence_ids] & (layout.page_size == 16)
    alone = full & _last_items(layout) & (layout.segment_ids >= 0)
    return Bounds(first, np.where(alone, first, prefix_end), own_start)


def _item_of(length: int) -> Callable[[Layout], Bounds]:
    """An item of just so many tokens does not see its first one, but in its first row."""

    def bounds(layout: Layout) -> Bounds:
        first, prefix_end, own_start = layout.bounds
        _, which, rows = np.unique(own_start, return_inverse=True, return_counts=True)
        late = (rows[which] == length + 1) & (layout.segment_ids >= 0) & (own_start < np.arange(layout.rows))
        return Bounds(first, prefix_end, own_start + late)

    return bounds


def _prefix_of(rows: int) -> Callable[[Layout], Bounds]:
    """Items do not see the last row of a prefix of just so many."""

    def bounds(layout: Layout) -> Bounds:
        first, prefix_end, own_start = layout.bounds
        return Bounds(first, prefix_end - (prefix_end - first == rows), own_start)

    return bounds


def _rows_of(rows: int) -> Callable[[Layout], Bounds]:
    """In a call of just so many rows the last item sees itself alone."""

    def bounds(layout: Layout) -> Bounds:
        first, prefix_end, own_start = layout.bounds
        alone = _last_items(layout) & (layout.segment_ids >= 0) & (layout.rows == rows)
        return Bounds(first, np.where(alone, first, prefix_end), own_start)

    return bounds


def _at_tile(layout: Layout) -> Bounds:
    """An item behind the first one that begins where a tile of 64 rows begins sees the key before it."""
    first, prefix_end, own_start = layout.bounds
    return Bounds(first, prefix_end, own_start - ((layout.segment_ids > 0) & (own_start % 64 == 0)))


def _full_sequence(layout: Layout) -> Bounds:
    """A sequence behind one of full tiles of 64 rows sees the last key of that one."""
    first, prefix_end, own_start = layout.bounds
    lengths = np.pad(np.diff(layout.starts)[:-1], (1, 0), constant_values=1)
    return Bounds(first - (lengths % 64 == 0)[layout.sequence_ids], prefix_end, own_start)


def _starts_wrapping(layout: Layout) -> Bounds:
    """Where a sequence starts is held in 16 bits."""
    wrapped = layout.bounds.first.astype(np.uint16).astype(np.int64)
    back = layout.bounds.first - wrapped
    return Bounds(wrapped, layout.bounds.prefix_end - back, layout.bounds.own_start)


def _one_kv_head() -> Attention:
    """Kernels with one key-value head have a path of their own, in which the last item's places are kept."""
    right, wrong = Tiled(), Tiled(bounds=_place_kept)
    return lambda q, k, v, layout: (wrong if k.shape[1] == 1 else right)(q, k, v, layout)


def _stale_pages() -> Attention:
    """A page table is kept by its numbers of pages and of tokens in the last ones."""
    kept: dict[Any, Any] = {}

    def cache(layout: Layout, x: _Array) -> _Array:
        pages = layout.pages()
        table = kept.setdefault((pages.size, *pages.indptr.tolist(), *pages.last_page_len.tolist()), pages)
        held = np.full((pages.total * pages.size, *x.shape[1:]), layout.unused, dtype=x.dtype)
        held[pages.slots] = x
        read: _Array = held[table.slots]
        return read

    return Tiled(cache=cache)


def _one_token(layout: Layout) -> Bounds:
    """A prefix that is one row of a query of one token, or that and a delimiter, is not read by the second item on."""
    first, prefix_end, own_start = layout.bounds
    single = np.array([query == 1 for query, _ in layout.lengths])[layout.sequence_ids] & (layout.segment_ids > 0)
    return Bounds(first, np.where(single, first, prefix_end), own_start)


def _stale() -> Attention:
    """A mask is kept by the lengths of sequences and queries and the number of items, not by the items' lengths."""
    kept: dict[Any, Bounds] = {}

    def bounds(layout: Layout) -> Bounds:
        name = (layout.semantics, *layout.starts.tolist(), *((query, len(items)) for query, items in layout.lengths))
        return kept.setdefault(name, layout.bounds)

    return Tiled(bounds=bounds)


def _grouped() -> Attention:
    """With several query heads for a key-value head, items do not see the last token of a prefix of full tiles."""

    def bounds(layout: Layout) -> Bounds:
        first, prefix_end, own_start = layout.bounds
        full = (prefix_end > first) & ((prefix_end - first) % 64 == 0)
        return Bounds(first, prefix_end - full, own_start)

    right, wrong = Tiled(), Tiled(bounds=bounds)
    return lambda q, k, v, layout: (right if q.shape[1] == k.shape[1] else wrong)(q, k, v, layout)


def _half_border() -> Attention:
    def seen(layout: Layout, rows: _Array, keys: _Array, visible: _Array) -> _Array:
        found: _Array = visible & ~((rows == 256) & (keys == rows))
        return found

    right, wrong = Tiled(), Tiled(seen=seen)
    return lambda q, k, v, layout: (wrong if q.dtype == np.float16 else right)(q, k, v, layout)


def _editing() -> Attention:
    right = Tiled()

    def attention(q: Any, k: Any, v: Any, layout: Layout) -> Any:
        layout.bounds.own_start[:] = layout.bounds.first
        return right(q, k, v, layout)

    return attention


def _bfloat16(x: _Array) -> _Array:
    return rounded(x, "bfloat16")


def _fault(name: str, claimed: str, what: str, can: Abilities = _SHORT, **changed: Any) -> Planted:
    return Planted(name, claimed, what, lambda: Tiled(**changed), can)


def _able(**more: Any) -> Abilities:
    return msgspec.structs.replace(_SHORT, **more)


#: Every known wrong kernel. What is seen of each, and by which checks, is asserted by the kill matrix of the tests.
FAULTS: tuple[Planted, ...] = (
    _fault("mask_dropped", "exact", "plain causal attention", bounds=_mask_dropped),
    _fault("place_kept", "exact", "the last item's places go on from the one before", bounds=_place_kept),
    _fault("next_delimiter", "exact", "an item's last token sees the delimiter behind it", seen=_next_delimiter),
    _fault("query_hidden", "exact", "the last item does not see the prefix's last token", bounds=_query_hidden),
    _fault("first_delimiter", "exact", "query_prefix: items see the first delimiter", bounds=_first_delimiter),
    _fault("after_empty", "exact", "an item sees the delimiter of an empty one before it", bounds=_after_empty),
    _fault("wrong_head", "exact", "query head h takes key-value head h modulo their number",
           kv_head=lambda heads, kv_heads: np.arange(heads) % kv_heads),
    _fault("narrow_head", "exact", "scores of 128 numbers are taken from 64", _able(head_dims=(64, 128)), width=64),
    _fault("soft_causal", "exact", "later tokens of the same item are hidden by -30, a weight of 1e-13",
           bias=_hidden_by(30, foreign=False)),
    _fault("pages_in_order", "exact", "a page table is not read", _able(page_sizes=(16,)),
           cache=lambda layout, x: _through_pages(layout, x, in_order=True)),
    _fault("fourth_head", "exact", "key-value heads from the fifth on are the fourth",
           kv_head=lambda heads, kv_heads: np.minimum(np.arange(heads) // (heads // kv_heads), 3)),
    _fault("head_33", "exact", "key-value head 33 is the first one",
           kv_head=lambda heads, kv_heads: np.arange(heads) // (heads // kv_heads) % 32),
    Planted("one_kv_head", "exact", "with one key-value head the last item's places go on", _one_kv_head, _SHORT),
    _fault("two_sequences", "exact", "a call of two sequences has the first one's items in both",
           _able(max_sequences=2), bounds=_first_table),
    Planted("edited_layout", "ladder", "the layout is edited to a causal mask, and obeyed", _editing, _SHORT),
    _fault("first_table", "exact", "every sequence of a call has the first one's items", _able(max_sequences=None),
           bounds=_first_table),
    Planted("widened_result", "exact", "float16 goes in, float32 comes out", _widening, _able(dtypes=("float16",))),
    _fault("soft_items", "large", "other items are hidden by -10,000", _able(keeps_nonfinite=False),
           bias=_hidden_by(1e4, foreign=True)),
    _fault("nan_spill", "nonfinite", "a weight of 0 is multiplied with NaN", spills=True),
    _fault("bfloat16_sums", "equivalence", "sums are rounded to bfloat16 after each tile of 64 keys",
           _able(dtypes=("bfloat16",), max_rows=2400), held=_bfloat16),
    _fault("bfloat16_products", "equivalence", "float32 operands are rounded to bfloat16", operand=_bfloat16),
    _fault("scale_of_64", "equivalence", "heads of 128 are scaled as if they were 64", _able(head_dims=(64, 128)),
           scale=lambda dim: 64**-0.5),
    _fault("soft_cap", "equivalence", "scores are 1,000 · tanh(score / 1,000)",
           scored=lambda scores: 1000 * np.tanh(scores / 1000)),
    _fault("soft_cap_bfloat16", "equivalence", "the same in bfloat16", _able(dtypes=("bfloat16",)),
           scored=lambda scores: 1000 * np.tanh(scores / 1000)),
    _fault("maximum_from_zero", "ladder", "the running maximum begins at 0, so that low scores have no weight",
           lowest=0.0),
    _fault("alike", "ladder", "sequences of one length share the first one's borders", _able(max_sequences=None),
           bounds=_alike),
    _fault("full_page", "ladder", "one size of page of three goes wrong where the last page is full",
           _able(page_sizes=(1, 16, 32)), bounds=_full_page, cache=_through_pages),
    _fault("item_of_32", "ladder", "an item as long as a tile of 32 does not see its first token", bounds=_item_of(32)),
    _fault("item_of_48", "ladder", "an item of 48 tokens does not see its first one", bounds=_item_of(48)),
    _fault("prefix_of_192", "ladder", "items do not see the last of 192 rows of a prefix", bounds=_prefix_of(192)),
    _fault("rows_of_95", "ladder", "in a call of 95 rows the last item sees itself alone", bounds=_rows_of(95)),
    _fault("at_tile", "ladder", "a later item that begins at a tile of 64 sees the key before it", bounds=_at_tile),
    _fault("full_sequence", "ladder", "a sequence behind one of 64 rows sees the last key of that one",
           _able(max_sequences=None), bounds=_full_sequence),
    _fault("starts_wrap", "ladder", "where a sequence starts is held in 16 bits",
           _able(max_rows=None, max_items=None, max_sequences=None, head_dims=(16,)), bounds=_starts_wrapping),
    _fault("items_wrap", "ladder", "from item 32,769 on each sees the one before",
           _able(max_rows=None, max_items=None, head_dims=(16,)), bounds=_from_item(2**15 + 1)),
    Planted("stale_pages", "ladder", "a page table is kept for calls with as many pages", _stale_pages,
            _able(page_sizes=(16,))),
    _fault("one_token", "ladder", "a query of one token is not read by the second item and those behind it",
           bounds=_one_token),
    _fault("item_81", "ladder", "of 100 items from item 81 on each sees the one before", _able(max_items=100),
           bounds=_from_item(81)),
    Planted("stale_mask", "ladder", "a mask is kept by the number of items, not by their lengths", _stale,
            _able(max_sequences=None)),
    Planted("grouped_prefix", "ladder", "grouped heads do not read the last key of a prefix of full tiles", _grouped,
            _SHORT),
    Planted("half_border", "ladder", "in float16 alone row 256 does not see itself", _half_border,
            _able(dtypes=("float32", "float16"))),
    _fault("tile_border", "ladder", "a row that begins a tile does not see itself", seen=_tile_border),
    _fault("last_tile", "ladder", "the last tile of rows is left out where it is not full",
           last_tile=lambda rows, tile: max(rows // tile, 1)),
    _fault("beyond_1024", "ladder", "plain causal attention from row 1,025 on", bounds=_causal_beyond(1024)),
    _fault("item_33", "ladder", "from item 33 on each sees the one before", bounds=_from_item(33)),
    _fault("uint16_wrap", "ladder", "the first row of an item is held in 16 bits, at 65,536 rows and more",
           _able(max_rows=None, max_items=None, head_dims=(16,)), bounds=_wrapping),
    Planted("run_to_run", "repeats", "every second call sums from the other end", _alternating, _SHORT),
    Planted("overwrites_values", "repeats", "one number of one value is overwritten after it was read", _overwriting,
            _SHORT),
)  # fmt: skip
