"""Which shapes each check is made at: all about the borders at which kernels have been wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from pytest_multiitem.kernels.abilities import Abilities, Dtype
from pytest_multiitem.kernels.census import census
from pytest_multiitem.kernels.equivalence import equivalence
from pytest_multiitem.kernels.exact import exact
from pytest_multiitem.kernels.finding import Finding
from pytest_multiitem.kernels.layout import Lengths
from pytest_multiitem.kernels.poison import large, nonfinite
from pytest_multiitem.kernels.records import CheckName
from pytest_multiitem.kernels.repeats import repeats
from pytest_multiitem.kernels.shapes import Shape
from pytest_multiitem.kernels.subject import Subject
from pytest_multiitem.scoring.semantics import Semantics

Look = Callable[[Subject, Shape, Dtype], Finding | None]

#: What each check looks at in one call or a few.
CHECKS: Final[dict[CheckName, Look]] = {
    "exact": exact,
    "large": large,
    "nonfinite": nonfinite,
    "equivalence": equivalence,
    "ladder": census,
    "repeats": repeats,
}

#: A query and items of no round length; with rows beyond a tile of 64; with rows beyond one of 128.
_SMALL: Final[Lengths] = (5, (3, 1, 4))
_MEDIUM: Final[Lengths] = (20, (7, 33, 2, 18, 1))
_LARGE: Final[Lengths] = (70, (64, 65, 3))
_EMPTY: Final[Lengths] = (4, (0, 3, 0, 0, 2, 0))
#: As many keys as a sum in bfloat16 loses count of.
_MANY_KEYS: Final[Lengths] = (2100, (130, 5))
_BATCH: Final[tuple[Lengths, ...]] = ((3, (2, 5)), (17, (5, 16, 1)), (1, (1,)), (40, (30, 9)))
#: As many rows of each sequence, and other borders between them.
_ALIKE: Final[tuple[Lengths, ...]] = ((3, (2, 5)), (5, (1, 4)), (3, (5, 2)))
#: Calls of as many rows, sequences and items, one after another: what is kept of one is wrong for the next.
_TWINS: Final[tuple[tuple[Lengths, ...], ...]] = (
    (_SMALL,),
    ((5, (4, 1, 3)),),
    ((4, (4, 1, 4)),),
    _BATCH,
    tuple((query, items[::-1]) for query, items in _BATCH),
)
#: Key-value heads: one alone, for which kernels have a path of their own; no power of two, and more than a block of
#: heads; more than 32.
_KV_HEADS: Final = (1, 9, 33)
#: Tiles of rows or keys that kernels have.
_TILES: Final = (16, 24, 32, 48, 64, 96, 128, 192, 256)
_NUMBERS_OF_ITEMS: Final = (1, 2, 31, 32, 33, 40, 64, 65, 129, 257)
_NUMBERS_OF_SEQUENCES: Final = (2, 32, 33, 65, 129)
#: Longer ones are in the ladder of the first type alone.
_SHORT_ROWS: Final = 4097
#: Where 16-bit numbers end, signed and unsigned.
_WORDS: Final = (2**15, 2**16)


@dataclass(frozen=True)
class Step:
    """One check at one shape in one type. ``memory``: bytes that it needs at least."""

    check: CheckName
    shape: Shape
    dtype: Dtype
    memory: int


def steps(can: Abilities) -> Iterator[Step]:
    """Every step of a kernel, those within its limits and those beyond; each check's from small to large."""
    for name in CHECKS:
        if name == "nonfinite" and not can.keeps_nonfinite:
            continue
        for dtype in can.dtypes:
            shapes = dict.fromkeys(_with_heads(shape, can) for shape in _SHAPES[name](can))
            if name == "ladder" and dtype != can.dtypes[0]:
                # Each length once, long ones aside.
                lengths = {shape.lengths: shape for shape in reversed(shapes) if shape.rows <= _SHORT_ROWS}
                shapes = dict.fromkeys(reversed(lengths.values()))
            for shape in shapes:
                yield Step(name, shape, dtype, _memory(shape))


def _with_heads(shape: Shape, can: Abilities) -> Shape:
    """The shape with as many key-value heads as the kernel takes: the next more of these, or the most."""
    if not can.kv_heads:
        return shape
    more = [heads for heads in can.kv_heads if heads >= shape.kv_heads]
    return replace(shape, kv_heads=min(more, default=max(can.kv_heads)))


def _memory(shape: Shape) -> int:
    """q, k, v and the result, as NumPy's float32 and as the kernel's own, once each."""
    return shape.rows * shape.head_dim * (2 * shape.heads + 2 * shape.kv_heads) * 8


def _base(can: Abilities, *lengths: Lengths) -> Iterator[Shape]:
    """Each mask at the lengths given."""
    for each in lengths:
        for semantics in can.semantics:
            yield Shape(semantics, (each,), max(can.groups), 2, can.head_dims[0], _pages(can)[0])


def _pages(can: Abilities) -> tuple[int | None, ...]:
    return can.page_sizes or (None,)


def _heads(can: Abilities, lengths: Lengths) -> Iterator[Shape]:
    """Each head dimension with each number of query heads for a key-value head."""
    for dim in can.head_dims:
        for group in can.groups:
            yield Shape(can.semantics[0], (lengths,), group, 2, dim, _pages(can)[0])


def _batches(can: Abilities) -> Iterator[Shape]:
    """Several sequences, in each mask and each size of page."""
    for semantics in can.semantics:
        for page in _pages(can):
            yield Shape(semantics, _some(can, _BATCH), max(can.groups), 2, can.head_dims[0], page)


def _some(can: Abilities, sequences: tuple[Lengths, ...]) -> tuple[Lengths, ...]:
    """As many of them as a call may have; all where it may have one alone, which leaves them out."""
    return sequences if can.max_sequences == 1 else sequences[: can.max_sequences]


def _exact(can: Abilities) -> Iterator[Shape]:
    mask, page = can.semantics[0], _pages(can)[0]
    yield from _base(can, _SMALL, _EMPTY, _MEDIUM, _LARGE)
    yield from _heads(can, _SMALL)
    for heads in _KV_HEADS:
        yield Shape(mask, (_SMALL,), max(can.groups), heads, can.head_dims[0], page)
    for dim in can.head_dims:
        yield Shape(mask, (_LARGE,), max(can.groups), 2, dim, page)
    for size in can.page_sizes:
        yield Shape(mask, (_MEDIUM,), max(can.groups), 2, can.head_dims[0], size)
    yield from _batches(can)


def _poisoned(can: Abilities) -> Iterator[Shape]:
    yield from _base(can, _SMALL, _EMPTY, _MEDIUM, _LARGE)
    yield from _batches(can)


def _equivalence(can: Abilities) -> Iterator[Shape]:
    yield from _base(can, _SMALL, _LARGE)
    yield from _heads(can, _SMALL)
    yield from _batches(can)
    yield replace(next(_base(can, _MANY_KEYS)), group=min(can.groups), kv_heads=1, head_dim=min(can.head_dims))


def _repeats(can: Abilities) -> Iterator[Shape]:
    for lengths in (_SMALL, _MEDIUM, _LARGE):
        yield next(_base(can, lengths))
    yield from _batches(can)


def _ladder(can: Abilities) -> Iterator[Shape]:
    """One length after another."""
    for at, lengths in enumerate(_borders(can)):
        for mask, group, dim, page in _turns(can, at):
            yield Shape(mask, lengths, group, 2, dim, page)
    # Few heads where there are many rows.
    dim, group, page = min(can.head_dims), min(can.groups), _pages(can)[-1]
    for mask in can.semantics:
        for lengths in _TWINS:
            yield Shape(mask, _some(can, lengths), group, 2, dim, page)
    for size in can.page_sizes:
        for each in _page_borders(size):
            yield Shape(can.semantics[0], (each,), group, 2, dim, size)
    for at, lengths in enumerate(_long(can)):
        yield Shape(can.semantics[at % len(can.semantics)], lengths, group, 2, dim, page)
    mask = can.semantics[0]
    for word in _WORDS:
        for rows in (word - 1, word, word + 1, word + 300):
            yield Shape(mask, (_of_rows(rows, can),), group, 1, dim, page)
        # A sequence that starts before, and one that starts behind; as many items.
        batch = (_of_rows(word - 100, can), _of_rows(300, can), _SMALL)
        yield Shape(mask, _some(can, batch), group, 1, dim, page)
        yield Shape(mask, ((2, (1,) * (word + 1)),), group, 1, dim, page)
    for word in _WORDS:
        yield Shape(mask, ((3, (2, word + 1, 2)),), group, 1, dim, page)
        yield Shape(mask, ((word + 1, (2, 3)),), group, 1, dim, page)
    # More numbers than 31 bits count, in q and in the result.
    widest = max(can.head_dims)
    heads = 64 * max(can.groups)
    yield Shape(mask, (_of_rows(2**31 // (heads * widest) + 300, can),), max(can.groups), 64, widest, page)


def _borders(can: Abilities) -> Iterator[tuple[Lengths, ...]]:
    """Lengths about every border, of some hundred rows at most."""
    for tile in sorted({*_TILES, *can.tiles}):
        for length in (tile - 1, tile, tile + 1):
            yield ((3, (length, 1, length)),)
            yield ((length, (2, 3)),)
            # So many rows in all; the longest item ends with them.
            yield ((2, (1, length - 6)),)
        # Each item begins where a tile begins, and fills one with its delimiter.
        yield ((tile - 1, (tile - 1, tile - 1)),)
        if tile > 7:
            rows = (tile, tile - 1, tile + 1, tile)
            yield _some(can, tuple((2, (1, length - 6)) for length in rows))
    for number in _NUMBERS_OF_ITEMS:
        yield ((2, (1,) * number),)
    yield ((1, (1,)),)
    yield ((1, (2, 3)),)
    yield (_EMPTY,)
    for sequences in (_BATCH, _ALIKE, tuple((query, (query, 3)) for query in range(1, 9))):
        yield _some(can, sequences)
    for number in _NUMBERS_OF_SEQUENCES:
        yield _sequences(number)


def _turns(can: Abilities, at: int) -> Iterator[tuple[Semantics, int, int, int | None]]:
    """What a border is tried with: each mask, number of query heads, head dimension and size of page, once or more,
    and not the same ones together at every border."""
    masks, groups, dims, pages = can.semantics, can.groups, can.head_dims, _pages(can)
    for turn in range(max(len(masks), len(groups), len(dims), len(pages))):
        yield (
            masks[(at + turn) % len(masks)],
            groups[turn % len(groups)],
            dims[(at // 2 + turn) % len(dims)],
            pages[(at // 4 + turn) % len(pages)],
        )


def _page_borders(size: int) -> Iterator[Lengths]:
    """A query, items and a sequence that end about the end of a page."""
    if size > 1:
        yield 3, (size - 1, size, size + 1)
        yield size - 1, (2, 3)
    rows = size * -(-8 // size)
    for total in (rows - 1, rows, rows + 1):
        yield 2, (1, total - 6)


def _long(can: Abilities) -> Iterator[tuple[Lengths, ...]]:
    """Many rows, as prefix and as items; and the limits that the kernel says it has."""
    for rows in (1024, 1025, 4097):
        yield (_of_rows(rows, can),)
    for query in (1025, 4097):
        yield ((query, (2, 3)),)
    if can.max_items is not None:
        yield ((2, (1,) * can.max_items),)
    if can.max_item_length is not None:
        yield ((3, (2, can.max_item_length, 1)),)
    if can.max_sequences is not None and can.max_sequences > 1:
        yield _sequences(can.max_sequences)
    if can.max_rows is not None:
        yield (_of_rows(can.max_rows, can),)


def _sequences(number: int) -> tuple[Lengths, ...]:
    """So many short ones, of two lengths in turn."""
    return tuple((1 + at % 2, (1,)) for at in range(number))


def _of_rows(rows: int, can: Abilities) -> Lengths:
    """A query and items of a few hundred tokens that fill so many rows, 4 or more."""
    query = min(64, max(rows // 4, 1))
    item = max(min(250, can.max_item_length or 250, rows - query - 2), 1)
    count = min((rows - 1 - query) // (item + 1), can.max_items or rows)
    return rows - 1 - count * (item + 1), (item,) * count


_SHAPES: Final[dict[CheckName, Callable[[Abilities], Iterator[Shape]]]] = {
    "exact": _exact,
    "large": _poisoned,
    "nonfinite": _poisoned,
    "equivalence": _equivalence,
    "ladder": _ladder,
    "repeats": _repeats,
}
