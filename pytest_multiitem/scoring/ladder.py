"""Requests of every size that users send: the rungs of a ladder, one axis after another.

Rungs of an axis share their query and their items as far as they can, so that an item that was checked on one rung
need not be checked again on the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np

from pytest_multiitem.scoring.cases import Case, TokenIds, drawn

_SIZES = (128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
_COUNTS = (1, 2, 3, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 511, 512, 513)
_BORDERS = (15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129)
_SHARED = (1, 15, 16, 17, 31, 32, 33, 64, 128, 256)
#: Up to this many tokens, and items that weigh so many, a size has three rungs; above it one, where a threshold shows.
_FULL_BELOW, _WEIGHT = {"quick": 256, "normal": 1024}, 8
_BEYOND_16_BITS = (65_535, 65_536)
#: Packed tokens of one rung, at most.
_MOST_TOKENS = {"quick": 1100, "normal": 4200, "full": 200_000}
#: Tokens of the query and of the items of the sizes; of the items that are counted.
_QUERY, _ITEM, _SMALL_ITEM = 24, 20, 4
#: Every item length up to here is tried.
_EVERY_LENGTH = 40
_TAIL = 3
#: Packed tokens of the requests in which several item lengths, or beginnings, stand together.
_TOGETHER = 1000


@dataclass(frozen=True)
class Rung:
    """One request of the ladder. ``serial``: the items to compare with the serial server too."""

    axis: str
    label: str
    case: Case
    serial: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """The length of the request when it is packed."""
        return len(self.case.query) + 1 + sum(len(item) + 1 for item in self.case.items)


@dataclass(frozen=True)
class Ladder:
    """What the requests of a ladder are drawn from, and how far it goes.

    ``pool``: ordinary token ids; ``every_token``: all that content may hold. ``max_tokens`` (packed) and ``max_items``:
    the server's own limits, None where it does not tell.
    """

    pool: TokenIds
    every_token: TokenIds
    labels: tuple[int, ...]
    max_tokens: int | None
    max_items: int | None
    seed: int
    effort: str = "normal"

    @property
    def most_tokens(self) -> int:
        """Packed tokens of the largest rung."""
        return min(_MOST_TOKENS[self.effort], self.max_tokens or _MOST_TOKENS["normal"])

    @property
    def most_items(self) -> int:
        """Items of the largest rung."""
        return min(self.max_items or _COUNTS[-1], 129 if self.effort == "quick" else _COUNTS[-1])

    def not_tried(self) -> dict[str, str]:
        """By axis, which rungs are left out, and why."""
        left: dict[str, str] = {}
        if over := [size for size in _SIZES if size > self.most_tokens]:
            left["packed tokens"] = f"{', '.join(map(str, over))}: {self._why(self.max_tokens, over[0])}"
        if counts := [count for count in _COUNTS if count > self.most_items]:
            left["items"] = f"{', '.join(map(str, counts))}: {self._why(self.max_items, counts[0])}"
        if long := [length for length in _BEYOND_16_BITS if length + 64 > self.most_tokens]:
            left["item length"] = f"{', '.join(map(str, long))}: {self._why(self.max_tokens, long[0] + 64)}"
        if shared := [length for length in _SHARED if not self._shares(length)]:
            left["shared beginnings"] = f"{', '.join(map(str, shared))}: {self._why(self.max_tokens, 4 * shared[0])}"
        return left

    def rungs(self) -> Iterator[Rung]:
        """All rungs that the server takes, the smallest of each axis first."""
        axes = (
            self._sizes, self._counts, self._item_lengths, self._query_lengths, self._shared_beginnings,
            self._token_ids,
        )  # fmt: skip
        for rung in chain.from_iterable(axis() for axis in axes):
            if rung.tokens <= self.most_tokens and len(rung.case.items) <= self.most_items:
                yield rung

    def _is_full(self, size: int) -> bool:
        """Whether rungs stand below, at and above a size; else above it only."""
        return size <= _FULL_BELOW.get(self.effort, size)

    def _why(self, limit: int | None, size: int) -> str:
        if limit is not None and size > limit:
            return f"the server takes {limit}"
        if limit is None and self.effort == "full":
            return "the server tells no limit"
        return f"not at effort {self.effort}"

    def _draw(self, axis: str, pool: TokenIds | None = None) -> Callable[[int], TokenIds]:
        """Draws token sequences, the same ones for an axis whatever else is tried."""
        return partial(drawn, np.random.default_rng([self.seed, *axis.encode()]), pool or self.pool)

    def _rung(
        self, axis: str, label: str, query: TokenIds, items: Sequence[TokenIds], serial: Sequence[int] | None = None
    ) -> Rung:
        ends = (0, len(items) // 2, len(items) - 1)
        case = Case(f"{axis}: {label}", query, tuple(items), self.labels, self.pool)
        return Rung(axis, label, case, tuple(dict.fromkeys(ends if serial is None else serial)))

    def _sizes(self) -> Iterator[Rung]:
        axis = "packed tokens"
        draw = self._draw(axis)
        query, last = draw(_QUERY), draw(2 * _ITEM)
        items: list[TokenIds] = []
        for middle in _SIZES:
            for size in (middle - 1, middle, middle + 1) if self._is_full(middle) else (middle + 1,):
                if middle > self.most_tokens or size > (self.max_tokens or size):
                    continue
                left = size - _QUERY - 1
                count = max(0, left // (_ITEM + 1) - 1)
                count = min(count, self.most_items - 1)
                while len(items) < count:
                    items.append(draw(_ITEM))
                rest = left - count * (_ITEM + 1) - 1
                if rest > len(last):  # the items are as many as the server takes: the last one makes up for them
                    last = (*last, *draw(rest - len(last)))
                yield self._rung(axis, str(size), query, [*items[:count], last[:rest]])

    def _counts(self) -> Iterator[Rung]:
        axis = "items"
        draw = self._draw(axis)
        query, items = draw(_QUERY), [draw(_SMALL_ITEM) for _ in range(self.most_items)]
        for count in _COUNTS:
            beyond = count == self.most_items or count + 1 not in _COUNTS
            if not (beyond or self._is_full(count * _WEIGHT)):
                continue
            if count <= self.most_items and _QUERY + 1 + count * (_SMALL_ITEM + 1) <= self.most_tokens:
                yield self._rung(axis, str(count), query, items[:count])

    def _item_lengths(self) -> Iterator[Rung]:
        axis = "item length"
        draw = self._draw(axis)
        query, most = draw(_QUERY), self.most_tokens - _QUERY - 16
        lengths = [*range(1, _EVERY_LENGTH + 1), *(length for length in _BORDERS if length > _EVERY_LENGTH)]
        for group in self._grouped([length for length in lengths if length <= most], lambda length: length + 1, 1):
            items = [draw(length) for length in group]
            yield self._rung(axis, f"{group[0]} to {group[-1]}", query, items, range(len(items)))
        short = [draw(3) for _ in range(4)]
        long = [min(most, _TOGETHER), *(length for length in _BEYOND_16_BITS if length <= most)]
        for length in long:
            yield self._rung(axis, f"{length} among short ones", query, [*short[:2], draw(length), *short[2:]])

    def _query_lengths(self) -> Iterator[Rung]:
        axis = "query length"
        draw = self._draw(axis)
        items, query = [draw(length) for length in (5, 1, 9)], draw(_BORDERS[-1])
        for length in (1, *_BORDERS) if self.effort != "quick" else (1, 15, 16, 17):
            if length + 20 <= self.most_tokens:
                yield self._rung(axis, str(length), query[:length], items)

    def _shares(self, length: int) -> bool:
        return 5 * (length + _TAIL + 1) + _QUERY + 1 <= self.most_tokens

    def _shared_beginnings(self) -> Iterator[Rung]:
        """Neighbours and items far apart that are equal for some tokens, then different; one that is the beginning
        of the others, and one that is there twice."""
        axis = "shared beginnings"
        draw = self._draw(axis)
        query = draw(_QUERY)
        lengths = [length for length in _SHARED if self._shares(length)]
        groups = self._grouped(lengths, lambda length: 4 * length + 13, 4, spare=_TOGETHER)
        for group in groups:
            beginnings = [draw(length) for length in group]
            near = [(*start, *draw(_TAIL)) for start in beginnings for _ in range(2)]
            far = [(*start, *draw(_TAIL)) for start in beginnings]
            items = [*near, *beginnings, *far, near[0]]
            yield self._rung(axis, ", ".join(map(str, group)), query, items, range(len(items)))

    def _token_ids(self) -> Iterator[Rung]:
        """Content from the whole vocabulary, evenly, and the first and last ids of it."""
        axis = "token ids"
        draw, every = self._draw(axis, self.every_token), self.every_token
        places = np.linspace(0, len(every) - 1, 24 * 16).astype(int)
        places = np.random.default_rng(self.seed).permutation(places)
        items = [tuple(every[place] for place in places[at : at + 16]) for at in range(0, len(places), 16)]
        items, query = [every[:2], every[-2:], *items], draw(_QUERY)
        for group in self._grouped(range(len(items)), lambda index: len(items[index]) + 1, 1):
            chosen = [items[index] for index in group]
            yield self._rung(axis, f"{every[0]} to {every[-1]}", query, chosen, range(len(chosen)))

    def _grouped(
        self, each: Sequence[int], cost: Callable[[int], int], items: int, spare: int = 0
    ) -> Iterator[list[int]]:
        """Neighbours in groups that make one request each: of so many ``items``, which cost so many tokens."""
        room, group = min(_TOGETHER + spare, self.most_tokens - _QUERY - 1), list[int]()
        for one in each:
            full = sum(map(cost, group)) + cost(one) > room or (len(group) + 1) * items >= self.most_items
            if group and full:
                yield group
                group = []
            group.append(one)
        if group:
            yield group


def label_sets(vocab_size: int, excluded: Sequence[int], *, seed: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Labels from every quarter of a vocabulary: 1 of each, then 2, 3, 26 and 512 together, with a name."""
    random = np.random.default_rng(seed)
    known = np.setdiff1d(np.arange(vocab_size), np.asarray(excluded))
    quarters = np.array_split(known, 4)
    for number, quarter in enumerate(quarters, 1):
        yield f"1 of quarter {number}", (int(random.choice(quarter)),)
    for count in (2, 3, 26, 512):
        if count <= len(known):
            each = [random.choice(part, 1)[0] for part in np.array_split(known, count)]
            yield f"{count} over the vocabulary", tuple(int(label) for label in random.permutation(each))
