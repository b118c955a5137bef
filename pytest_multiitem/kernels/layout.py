"""Where the rows of a call stand: what a kernel is told beside q, k and v.

A call has one sequence or several, one behind the other: rows of sequence 0, rows of sequence 1, … Each is
``query d item_1 d … item_N d`` as in `scoring.layout`, whose mask rule, positions and blocks these are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from pytest_multiitem.scoring.layout import PackedLayout, build_layout
from pytest_multiitem.scoring.semantics import Semantics

#: A sequence's query length and the lengths of its items, in tokens.
Lengths = tuple[int, tuple[int, ...]]


class Bounds(NamedTuple):
    """What each row sees, as int64 [rows]: keys ``first`` to ``prefix_end`` - 1, and keys ``own_start`` to itself."""

    first: NDArray[np.int64]
    prefix_end: NDArray[np.int64]
    own_start: NDArray[np.int64]


class MisArrays(NamedTuple):
    """The four arguments of FlashInfer's prefill wrappers for multi-item scoring, by their names there.

    B sequences. ``prefix_len_ptr`` uint32 [B]: tokens that every item sees. ``token_pos_in_items_ptr`` uint16
    [B · ``token_pos_in_items_len``]: of each token behind the prefix its place in its item, from 1, and 0 for a
    delimiter; zeros behind the end. ``max_item_len_ptr`` uint16 [B]: tokens of the longest item.

    Source: ``flashinfer.prefill.BatchPrefillWithPagedKVCacheWrapper.plan``. Both uint16 wrap beyond 65,535, as there.
    """

    prefix_len_ptr: NDArray[np.uint32]
    token_pos_in_items_ptr: NDArray[np.uint16]
    token_pos_in_items_len: int
    max_item_len_ptr: NDArray[np.uint16]


class Pages(NamedTuple):
    """A paged cache of ``total`` pages of ``size`` tokens, as FlashInfer and vLLM describe it.

    Sequence b has the pages ``indices[indptr[b] : indptr[b + 1]]`` in that order, and ``last_page_len[b]`` tokens in
    the last. ``slots`` int64 [rows]: where each row lies in the cache of ``total`` · ``size`` tokens. Pages are in no
    order, and some belong to nobody; what no row fills must hold ``Layout.unused``.
    """

    size: int
    total: int
    indptr: NDArray[np.int32]
    indices: NDArray[np.int32]
    last_page_len: NDArray[np.int32]
    slots: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the rows of one call stand.

    ``lengths``: of each sequence. ``page_size``: tokens of a page; None: no pages are asked for. ``unused``: what a
    kernel must put into whatever it has beside the rows: padding, slots of pages that no row fills.
    """

    semantics: Semantics
    lengths: tuple[Lengths, ...]
    page_size: int | None = None
    unused: float = 0.0

    @cached_property
    def sequences(self) -> tuple[PackedLayout, ...]:
        """Each sequence by itself, with indices that begin at 0. All token ids are 0: a kernel sees none."""
        return tuple(
            build_layout([0] * query, [[0] * length for length in items], 0, self.semantics)
            for query, items in self.lengths
        )

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """The first row of each sequence, and the number of rows at the end: int64 [B + 1]."""
        return np.cumsum([0, *(each.length for each in self.sequences)]).astype(np.int64)

    @property
    def rows(self) -> int:
        """Rows of all sequences together."""
        return int(self.starts[-1])

    @property
    def query_length(self) -> int:
        """Tokens of the query, where there is one sequence. Raises ValueError where there are several."""
        return self._only()[0]

    @property
    def item_lengths(self) -> tuple[int, ...]:
        """Tokens of each item, where there is one sequence. Raises ValueError where there are several."""
        return self._only()[1]

    def _only(self) -> Lengths:
        if len(self.lengths) != 1:
            raise ValueError(f"this call has {len(self.lengths)} sequences; use Layout.lengths or Layout.sequences")
        return self.lengths[0]

    @cached_property
    def positions(self) -> NDArray[np.int32]:
        """The position that each row carries: int32 [rows]. Queries and keys have been rotated by it already."""
        return np.concatenate([each.positions for each in self.sequences])

    @cached_property
    def sequence_ids(self) -> NDArray[np.int32]:
        """The sequence of each row: int32 [rows]."""
        return np.repeat(np.arange(len(self.lengths), dtype=np.int32), np.diff(self.starts))

    @cached_property
    def segment_ids(self) -> NDArray[np.int32]:
        """The item of each row within its sequence, int32 [rows]; -1 for the query and the first delimiter. The
        delimiter that closes an item belongs to it."""
        return np.concatenate([each.item for each in self.sequences])

    @cached_property
    def is_delimiter(self) -> NDArray[np.bool_]:
        """Which rows are delimiters: [rows]."""
        return np.concatenate([each.is_delimiter for each in self.sequences])

    @cached_property
    def judged(self) -> NDArray[np.bool_]:
        """Rows whose result counts: [rows]. Of a delimiter only where items see it: else nobody reads its result, and
        kernels differ in what it sees."""
        parts = []
        for each in self.sequences:
            counts = ~each.is_delimiter
            counts[: each.visible_prefix_length] = True
            parts.append(counts)
        return np.concatenate(parts)

    @cached_property
    def bounds(self) -> Bounds:
        """What each row sees."""
        first = np.repeat(self.starts[:-1], np.diff(self.starts))
        prefix_end, own_start = first.copy(), first.copy()
        for start, each in zip(self.starts[:-1], self.sequences, strict=True):
            behind = slice(int(start) + each.prefix_length, int(start) + each.length)
            prefix_end[behind] = start + each.visible_prefix_length
            own_start[behind] = start + each.block_start[each.item[each.prefix_length :]]
        return Bounds(first, prefix_end, own_start)

    def visible(self, rows: NDArray[np.integer[Any]], keys: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
        """Whether each of ``rows`` sees each of ``keys``, on arrays that broadcast."""
        first, prefix_end, own_start = (each[rows] for each in self.bounds)
        found: NDArray[np.bool_] = ((first <= keys) & (keys < prefix_end)) | ((own_start <= keys) & (keys <= rows))
        return found

    def mask(self) -> NDArray[np.bool_]:
        """The dense mask [rows, rows]: entry (r, k) says whether row r sees key k. O(rows²) memory."""
        index = np.arange(self.rows)
        return self.visible(index[:, None], index[None, :])

    def mis_arrays(self) -> MisArrays:
        """The four arguments of FlashInfer's wrappers."""
        parts = []
        for each in self.sequences:
            place = np.arange(each.length) + 1
            place[each.prefix_length :] -= each.block_start[each.item[each.prefix_length :]]
            place[each.is_delimiter] = 0
            parts.append(place[each.visible_prefix_length :])
        width = max(map(len, parts))
        padded = [np.pad(part, (0, width - len(part))) for part in parts]
        return MisArrays(
            np.array([each.visible_prefix_length for each in self.sequences], dtype=np.uint32),
            np.concatenate(padded).astype(np.uint16),
            width,
            np.array([max(items, default=0) for _, items in self.lengths]).astype(np.uint16),
        )

    def pages(self, lengths: Iterable[int] | None = None) -> Pages:
        """Where the rows lie in a cache; with ``lengths`` a cache for other sequences of so many tokens each, such as
        items that share the pages of their prefix. Raises ValueError where no pages are asked for."""
        found = self._pages
        return found if lengths is None else _pages_of(found.size, lengths, self._seed)

    @property
    def pages_were_read(self) -> bool:
        """Whether somebody has asked where the rows lie in a cache."""
        return "_pages" in self.__dict__

    @cached_property
    def _pages(self) -> Pages:
        if self.page_size is None:
            raise ValueError("this call has no pages; name page_sizes in what the kernel can do")
        return _pages_of(self.page_size, np.diff(self.starts), self._seed)

    @property
    def _seed(self) -> int:
        """Other items have other pages, though they fill as many."""
        return crc32(repr(self.lengths).encode())


def _pages_of(size: int, lengths: Iterable[int], seed: int) -> Pages:
    """A cache for sequences of so many tokens, with one page in four to spare, its pages in no order."""
    rows = [int(length) for length in lengths]
    needed = [-(-length // size) for length in rows]
    indptr = np.cumsum([0, *needed]).astype(np.int32)
    count = int(indptr[-1]) + 1 + int(indptr[-1]) // 4
    indices = np.random.default_rng((count, seed)).permutation(count)[: indptr[-1]].astype(np.int32)
    slots = []
    for at, length in enumerate(rows):
        token = np.arange(length)
        mine = indices[indptr[at] : indptr[at + 1]].astype(np.int64)
        slots.append(mine[token // size] * size + token % size)
    last = [length - (pages - 1) * size for length, pages in zip(rows, needed, strict=True)]
    return Pages(size, count, indptr, indices, np.array(last, dtype=np.int32), np.concatenate(slots))
