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
_EMPTY: Final[Lengths] = (4, (0, 3, 0, 2))
#: As many keys as a sum in bfloat16 loses count of.
_MANY_KEYS: Final[Lengths] = (2100, (130, 5))
_BATCH: Final[tuple[Lengths, ...]] = ((3, (2, 5)), (17, (5, 16, 1)), (1, (1,)), (40, (30, 9)))
#: Tiles of rows or keys that kernels have.
_TILES: Final = (16, 64, 128)
_NUMBERS_OF_ITEMS: Final = (1, 2, 31, 32, 33, 40, 64, 65, 129, 257)
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
        dtypes = can.dtypes[:1] if name == "ladder" else can.dtypes
        for dtype in dtypes:
            seen = set()
            for shape in _SHAPES[name](can):
                if shape not in seen:
                    seen.add(shape)
                    yield Step(name, shape, dtype, _memory(shape))


def _memory(shape: Shape) -> int:
    """q, k, v and the result, as NumPy's float32 and as the kernel's own, once each."""
    return shape.rows * shape.head_dim * (2 * shape.heads + 2 * shape.kv_heads) * 8


def _base(can: Abilities, *lengths: Lengths) -> Iterator[Shape]:
    """Each mask at the lengths given."""
    page = can.page_sizes[0] if can.page_sizes else None
    for each in lengths:
        for semantics in can.semantics:
            yield Shape(semantics, (each,), max(can.groups), 2, can.head_dims[0], page)


def _exact(can: Abilities) -> Iterator[Shape]:
    mask = can.semantics[0]
    page = can.page_sizes[0] if can.page_sizes else None
    yield from _base(can, _SMALL, _EMPTY, _MEDIUM, _LARGE)
    for dim in can.head_dims:
        for group in can.groups:
            yield Shape(mask, (_SMALL,), group, 2, dim, page)
    for size in can.page_sizes:
        yield Shape(mask, (_MEDIUM,), max(can.groups), 2, can.head_dims[0], size)
    for semantics in can.semantics:
        yield Shape(semantics, _BATCH, max(can.groups), 2, can.head_dims[0], page)


def _poisoned(can: Abilities) -> Iterator[Shape]:
    yield from _base(can, _SMALL, _MEDIUM, _LARGE)
    yield from _batch(can)


def _equivalence(can: Abilities) -> Iterator[Shape]:
    yield from _base(can, _SMALL, _LARGE)
    yield from _batch(can)
    yield replace(next(_base(can, _MANY_KEYS)), group=min(can.groups), kv_heads=1, head_dim=min(can.head_dims))


def _repeats(can: Abilities) -> Iterator[Shape]:
    for lengths in (_SMALL, _MEDIUM, _LARGE):
        yield next(_base(can, lengths))
    yield from _batch(can)


def _batch(can: Abilities) -> Iterator[Shape]:
    page = can.page_sizes[-1] if can.page_sizes else None
    yield Shape(can.semantics[-1], _BATCH, max(can.groups), 2, can.head_dims[0], page)


def _ladder(can: Abilities) -> Iterator[Shape]:
    """One length after another, on one head dimension; masks take turns."""
    dim, group = min(can.head_dims), min(can.groups)
    page = can.page_sizes[-1] if can.page_sizes else None
    found: list[tuple[Lengths, ...]] = []
    for tile in sorted({*_TILES, *can.tiles}):
        for length in (tile - 1, tile, tile + 1):
            found.append(((3, (length, 1, length)),))
            found.append(((length, (2, 3)),))
            # So many rows in all; the longest item ends with them.
            found.append(((2, (1, length - 6)),))
    found += [((2, (1,) * number),) for number in _NUMBERS_OF_ITEMS]
    found += [((1, (1,)),), (_EMPTY,)]
    found += [((3, (size - 1, size, size + 1)),) for size in can.page_sizes if size > 1]
    found += [_BATCH, tuple((query, (query, 3)) for query in range(1, 9))]
    found += [(_of_rows(rows),) for rows in (1024, 1025, 4097)]
    turn = len(can.semantics)
    for at, lengths in enumerate(found):
        yield Shape(can.semantics[at % turn], lengths, group, 2, dim, page)
    mask = can.semantics[0]
    for size in can.page_sizes:
        yield Shape(mask, (_MEDIUM,), group, 2, dim, size)
    for other in can.groups:
        yield Shape(mask, (_MEDIUM,), other, 2, dim, page)
    for word in _WORDS:
        for rows in (word - 1, word, word + 1, word + 300):
            yield Shape(mask, (_of_rows(rows),), group, 1, dim, page)
    for word in _WORDS:
        yield Shape(mask, ((3, (2, word + 1, 2)),), group, 1, dim, page)
    # More numbers than 31 bits count, in q and in the result.
    widest = max(can.head_dims)
    heads = 64 * max(can.groups)
    yield Shape(mask, (_of_rows(2**31 // (heads * widest) + 300),), max(can.groups), 64, widest, page)


def _of_rows(rows: int, query: int = 64, item: int = 250) -> Lengths:
    """A query and items of a few hundred tokens that fill so many rows."""
    left = rows - query - 1
    count = left // (item + 1)
    rest = left - count * (item + 1)
    return query, (*[item] * count, *([rest - 1] if rest > 1 else []))


_SHAPES: Final[dict[CheckName, Callable[[Abilities], Iterator[Shape]]]] = {
    "exact": _exact,
    "large": _poisoned,
    "nonfinite": _poisoned,
    "equivalence": _equivalence,
    "ladder": _ladder,
    "repeats": _repeats,
}
