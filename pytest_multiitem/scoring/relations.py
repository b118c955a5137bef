"""What must not change a score: metamorphic relations between requests, and how their answers are compared.

A relation draws a request and a variant of it, and says which rows of the two answers must agree. Nothing
needs to be known about the right scores, so it holds for every model, precision and declared semantics.

Everything is drawn through `Choices`: who makes them, a search that can also make them smaller, is not known
here. A token sequence is a length, a start and a stride over the pool, never token by token: few choices are
drawn fast, and a counterexample stays short when it is shrunk.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from pytest_multiitem.scoring.cases import TokenIds
from pytest_multiitem.scoring.limits import placed_limit

Rows = NDArray[np.float64]
T = TypeVar("T")

#: Where neither N nor any item's index changes, an engine has no reason to compute another item's score in another
#: way: the limit is that of the isolation gates.
LIMIT_EXACT = 0.0

#: Tokens of a query. Few of them, and close together, because an engine that compiles does so for further lengths.
QUERY_LENGTHS = (1, 7, 16, 30)
#: Tokens of an item, weighted: 1, and around 16, where blocks, pages and tiles end; few above 23, for the same reason.
ITEM_LENGTHS = tuple(
    sorted([*range(1, 24), *[1] * 12, *[2] * 3, 15, 16, 16, 17, 17, *[18] * 5, 19, 20, 31, 32, 33, 40])
)
#: Tokens that some items of a request begin with alike: 1, and around the blocks that caches and hashes know.
SHARED = (1, 15, 16, 16, 17, 31, 32, 33, 64, 64, 128)
#: What follows a shared beginning; of two items that end with it, one is the other's prefix, or they are equal.
TAILS = (1, 1, 2, 5, 16, 0)
#: Items that a large request has beside those that are drawn one by one, weighted: what many items do shows in few.
CROWDS = (1, 4, 16, 32, 64, 64, 128, 128, 248)
#: Steps through the pool from one token to the next; 0 repeats one token.
STRIDES = (0, 1, 7, 101, 1009)
#: What becomes of an item; half of them are left alone.
MARKS = (0, 0, 0, 1, 2, 3)
#: Items that are drawn one by one, at most.
_DRAWN_ITEMS = 8
#: The same of most requests.
_FEW_ITEMS = 4
#: Items of a request, at most.
MOST_ITEMS = CROWDS[-1] + _DRAWN_ITEMS
#: Tokens by which an item grows, at most.
_GROWTH = 24
#: Items that a change touches, at most.
_TOUCHED = 16
#: Requests that the items of one are sent in, at most.
_CHUNKS = 8
#: Sequences that the serial side scores for one request, at most.
_SERIAL = 8
#: Tokens of the smallest large request. The others lie a factor √2 apart, up to what the server takes.
_LARGE = 128
#: For each large request there are so many small ones: of relations that compare items in other company, and of all
#: others, which large requests show less of.
_SMALL, _MORE_SMALL = 3, 15
#: For each large request whose crowd is a single item, or one of short items, so many are as large as they can be.
_WHOLE = 15
#: For each request with shared beginnings there are so many without.
_UNSHARED = 2


class ScoreBody(msgspec.Struct, frozen=True, kw_only=True):
    """One request, in the words of the wire; N items, K labels."""

    query: TokenIds
    items: tuple[TokenIds, ...]
    label_token_ids: tuple[int, ...]
    apply_softmax: bool = True

    @property
    def tokens(self) -> int:
        """The length of the request when it is packed."""
        return len(self.query) + sum(len(item) + 1 for item in self.items)

    def with_items(self, items: Sequence[TokenIds]) -> ScoreBody:
        """The same request with other items."""
        return msgspec.structs.replace(self, items=tuple(items))

    def __str__(self) -> str:
        lengths = ", ".join(str(len(item)) for item in self.items)
        softmax = "" if self.apply_softmax else ", apply_softmax false"
        return f"{len(self.items)} item(s) of {lengths} tokens behind a query of {len(self.query)}{softmax}"


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """A request, its variant, and what of their answers must agree.

    ``variant``: requests in their order; their rows are concatenated. ``pairs``: (row of the base, row of the
    variant). ``columns``: (column of the base, column of the variant); empty: all, as they stand. ``before``: sent
    before the variant, answers ignored. ``beside``: sent by others while the variant is. ``normalise``: rows of the
    variant are probabilities over the vocabulary; divided by their sum they must be the base's softmax over the
    labels, and their sum must not exceed 1. ``exact``: not even the last bit may differ. ``fresh``: the variant goes
    over a connection that was not there before. ``serial``: the serial server is asked for it.
    """

    relation: str
    exact: bool
    base: ScoreBody
    variant: tuple[ScoreBody, ...]
    pairs: tuple[tuple[int, int], ...]
    columns: tuple[tuple[int, int], ...] = ()
    before: tuple[ScoreBody, ...] = ()
    beside: tuple[ScoreBody, ...] = ()
    normalise: bool = False
    fresh: bool = False
    serial: bool = False

    @property
    def requests(self) -> tuple[ScoreBody, ...]:
        """Every request that it sends."""
        return (self.base, *self.before, *self.variant, *self.beside)

    @property
    def same_shape(self) -> bool:
        """Whether every request of the variant has the lengths of the base, and none beside it: a server may compute
        those in one batch with it."""
        if self.beside:
            return False
        shapes = {(len(each.query), *map(len, each.items)) for each in (self.base, *self.variant)}
        return len(shapes) == 1

    def limit(self, dtype: str | None) -> float:
        """The largest difference that a server of this precision may show."""
        return LIMIT_EXACT if self.exact else placed_limit(dtype)

    def differences(self, base: Rows, variant: Rows) -> Rows:
        """How far each pair is apart, [pairs]: the largest absolute difference of its columns.

        With ``normalise``, how far a row's sum is from what it may be counts as a difference too.
        """
        ours, theirs = zip(*self.pairs, strict=True)
        left, right = base[list(ours)], variant[list(theirs)]
        beyond = np.zeros(len(left))
        if self.normalise:
            sums = right.sum(axis=1)
            beyond = np.maximum(np.maximum(sums - 1.0, np.abs(left.sum(axis=1) - 1.0)), 0.0)
            right = right / np.where(sums > 0, sums, 1.0)[:, None]
        if self.columns:
            ours, theirs = zip(*self.columns, strict=True)
            left, right = left[:, list(ours)], right[:, list(theirs)]
        distance: Rows = np.maximum(np.abs(left - right).max(axis=1), beyond)
        return distance

    def magnified(self, variant: Rows) -> float:
        """By how much a change of the variant's scores is magnified before they are compared."""
        sums = variant.sum(axis=1)
        return float(1.0 / min(1.0, sums[sums > 0].min(initial=1.0))) if self.normalise else 1.0


class Choices(Protocol):
    """Who decides what a drawn request looks like. The first option of each choice is the simplest."""

    def number(self, least: int, most: int) -> int:
        """A whole number, both ends included."""

    def among(self, options: Sequence[T]) -> T:
        """One of them."""

    def several(self, one: Callable[[Choices], T], least: int, most: int) -> list[T]:
        """A list of so many."""


@dataclass(frozen=True)
class Space:
    """What requests to a server are drawn from.

    ``pool``: token ids of content, rising, neither labels nor the delimiter. ``labels``: K of them. ``spare_label``: a
    further one; None where the vocabulary has none to spare. ``max_tokens``: of a packed request.
    ``empty_items``: whether an item without tokens may be sent. ``context``: what the serial server reads between the
    query and an item; None where no serial server can be asked.
    """

    pool: TokenIds
    labels: tuple[int, ...]
    spare_label: int | None
    max_tokens: int
    empty_items: bool = False
    context: TokenIds | None = None

    def request(self, choose: Choices, *, least: int = 1, small: int = _MORE_SMALL) -> ScoreBody:
        """A request of ``least`` items or more, at least one of them with tokens. ``small``: so many small ones are
        drawn for each large one."""
        return self._drawn(choose, (0,), least, 0, small)[0]

    def few(self, choose: Choices) -> ScoreBody:
        """A small request, no item of which begins like another by intent."""
        return self._drawn(choose, (0,), 1, 0, None)[0]

    def marked(self, choose: Choices, *, least: int = 1, reserve: int = 0) -> tuple[ScoreBody, list[int]]:
        """A request as above, ``reserve`` tokens short of what the server takes, and a mark for each item, which says
        what becomes of it.

        A mark is drawn with its item: where a search leaves the item out, the others keep theirs.
        """
        return self._drawn(choose, MARKS, least, reserve, _SMALL)

    @cached_property
    def large(self) -> tuple[int, ...]:
        """Tokens of large requests, log-uniform up to what the server takes, the smallest first."""
        halvings = range(int(2 * math.log2(max(1, self.max_tokens / _LARGE))), -1, -1)
        return tuple(int(self.max_tokens / 2 ** (halving / 2)) for halving in halvings)

    def _drawn(
        self, choose: Choices, marks: Sequence[int], least: int, reserve: int, small: int | None
    ) -> tuple[ScoreBody, list[int]]:
        """A few items are drawn one by one; in a large request a crowd of equal length joins them."""
        budget = self.max_tokens - min(reserve, self.max_tokens // 4)
        size = 0 if small is None else choose.among((0,) * (small * len(self.large)) + self.large)
        start, stride = self._direction(choose)
        query = self.tokens(min(choose.among(QUERY_LENGTHS), max(1, budget - 3 * least)), start, stride)
        shared = () if small is None else self._shared(choose, (start, stride), (budget - len(query)) // 3)
        lengths = (*ITEM_LENGTHS, *([0] * 4 if self.empty_items else []))

        def one(choose: Choices) -> tuple[TokenIds, int, tuple[int, int], int]:
            alike = bool(shared) and choose.among((True, True, True, False))
            beginning = shared if alike else ()
            length = len(beginning) + choose.among(TAILS if beginning else lengths)
            return beginning, length, self._direction(choose), choose.among(marks)

        most = _FEW_ITEMS if small is None else choose.among((_FEW_ITEMS, _FEW_ITEMS, _DRAWN_ITEMS))
        most = min(most, (budget - len(query)) // 2)
        least = max(least, min(2, most)) if shared else least
        drawn = choose.several(one, least, max(least, most))
        left, taken = budget - len(query), []
        for index, (_, length, _, _) in enumerate(drawn):
            behind = 2 * (len(drawn) - index - 1)  # what the items behind it need at least
            taken.append(min(length, left - 1 - behind))
            left -= taken[-1] + 1
        if not any(taken):
            taken[0], left = 1, left - 1
        items = [
            self._begun(beginning, length, *direction)
            for length, (beginning, _, direction, _) in zip(taken, drawn, strict=True)
        ]
        marked = [mark for *_, mark in drawn]
        room = min(size, budget) - (budget - left)
        if size and room > 1:
            longer = self._longer(choose, len(query), room)
            query, room = self.tokens(longer, start, stride), room - (longer - len(query))
            crowd = self._crowd(choose, room, shared)
            mark = choose.among((0, 0, marks[-1]))
            at = choose.number(0, len(items))
            items[at:at], marked[at:at] = crowd, [mark] * len(crowd)
        return ScoreBody(query=query, items=tuple(items), label_token_ids=self.labels), marked

    def _shared(self, choose: Choices, query: tuple[int, int], longest: int) -> TokenIds:
        """What some items begin with; it may be what the query begins with."""
        fitting = tuple(length for length in SHARED if length <= longest)
        length = choose.among((0,) * (_UNSHARED * len(fitting) or 1) + fitting)
        if not length:
            return ()
        return self.tokens(length, *(query if choose.among((False, True)) else self._direction(choose)))

    def _longer(self, choose: Choices, length: int, room: int) -> int:
        """The length of a large request's query: as it is, or a power of two that takes up to half, or all, of the
        room; an engine that compiles does so for further lengths."""
        share = choose.among((0, 0, 0, 0, 0, room // 2, room))
        return max(length, 1 << share.bit_length() - 1) if share else length

    def _crowd(self, choose: Choices, room: int, shared: TokenIds) -> list[TokenIds]:
        """Items of one length that fill a room of so many tokens."""
        counts = tuple(count for count in CROWDS if 2 * count <= room)
        if not counts:
            return []
        count = choose.among(counts)
        length = room // count - 1
        # The first options are seldom drawn: they let a counterexample become small.
        count = choose.among((1, *[count] * _WHOLE))
        length = choose.among((min(length, 18), *[length] * _WHOLE))
        start, stride = self._direction(choose)
        step = choose.number(1, len(self.pool) - 1)
        alike = 0 < len(shared) < length and choose.among((False, True))
        beginning = shared if alike else ()
        return [self._begun(beginning, length, start + step * place, stride) for place in range(count)]

    def _begun(self, beginning: TokenIds, length: int, start: int, stride: int) -> TokenIds:
        """A sequence of ``length`` tokens that begins with some; its own ones follow."""
        return (*beginning, *self.tokens(max(0, length - len(beginning)), start, stride))[:length]

    def item(self, choose: Choices, longest: int = ITEM_LENGTHS[-1]) -> TokenIds:
        """An item of at least one token."""
        return self._sequence(choose, min(choose.among(ITEM_LENGTHS), max(1, longest)))

    def room(self, request: ScoreBody) -> int:
        """Tokens that a request may still grow by."""
        return self.max_tokens - request.tokens

    def tokens(self, length: int, start: int, stride: int) -> TokenIds:
        """A token sequence; its place in the pool wraps around."""
        size = len(self.pool)
        return tuple(self.pool[(start + step * stride) % size] for step in range(length))

    def other(self, choose: Choices, item: TokenIds) -> TokenIds:
        """As many tokens, each of them another one."""
        return self.shifted(item, choose.number(1, len(self.pool) - 1))

    def shifted(self, tokens: TokenIds, by: int) -> TokenIds:
        """Each token so many places further in the pool."""
        return tuple(self.pool[(self._place(token) + by) % len(self.pool)] for token in tokens)

    def _place(self, token: int) -> int:
        return bisect_left(self.pool, token)

    def _direction(self, choose: Choices) -> tuple[int, int]:
        """The start and the stride of a sequence."""
        return choose.number(0, len(self.pool) - 1), choose.among(STRIDES)

    def _sequence(self, choose: Choices, length: int) -> TokenIds:
        return self.tokens(length, *self._direction(choose))


#: Draws the fields of a scenario in which a relation must hold.
_Draw = Callable[[Choices, Space], dict[str, Any]]


@dataclass(frozen=True)
class Relation:
    """One thing that must not change scores.

    ``states``: it, in one sentence. ``share``: how much of a budget it gets, in parts. ``needs``: whether a space has
    such requests.
    """

    name: str
    exact: bool
    states: str
    share: int
    draw: _Draw
    needs: Callable[[Space], bool]

    def scenario(self, choose: Choices, space: Space) -> Scenario:
        """Requests under which it must hold."""
        return Scenario(relation=self.name, exact=self.exact, **self.draw(choose, space))


_RELATIONS: dict[str, Relation] = {}


def _relation(
    *, exact: bool, share: int = 1, needs: Callable[[Space], bool] = lambda space: True
) -> Callable[[_Draw], _Draw]:
    def register(draw: _Draw) -> _Draw:
        states = " ".join((draw.__doc__ or "").split())
        _RELATIONS[draw.__name__] = Relation(draw.__name__, exact, states, share, draw, needs)
        return draw

    return register


def relations(space: Space) -> tuple[Relation, ...]:
    """The relations that can be tried in a space, the simplest first."""
    return tuple(relation for relation in _RELATIONS.values() if relation.needs(space))


def budget(tried: Sequence[Relation], examples: int) -> dict[str, int]:
    """How many of ``examples`` each relation gets, by its share; the first ones get what cannot be divided."""
    parts = sum(relation.share for relation in tried)
    given = {relation.name: examples * relation.share // parts for relation in tried}
    for relation in tried:
        if sum(given.values()) < examples:
            given[relation.name] += 1
    return given


def relation(name: str) -> Relation | None:
    """The relation of that name; None where there is none."""
    return _RELATIONS.get(name)


def relation_names() -> tuple[str, ...]:
    """All of them."""
    return tuple(_RELATIONS)


def _marked(marks: Sequence[int], candidates: Sequence[int]) -> list[int]:
    """The marked items among the candidates: one or more of them, but not many, nor all items that there are."""
    chosen = [index for index in candidates if marks[index]][:_TOUCHED] or [candidates[0]]
    return chosen[:-1] if len(chosen) == len(marks) else chosen


def _most_marked(marks: Sequence[int]) -> int:
    """The first of the items with the highest mark."""
    return max(range(len(marks)), key=lambda index: marks[index])


def _changed(base: ScoreBody, changed: dict[int, TokenIds]) -> dict[str, Any]:
    """Items replaced where they stand; every other one keeps its score."""
    items = [changed.get(index, item) for index, item in enumerate(base.items)]
    unchanged = ((index, index) for index in range(len(items)) if index not in changed)
    return _fields(base, base.with_items(items), pairs=unchanged)


def _fields(
    base: ScoreBody, *variant: ScoreBody, pairs: Iterable[tuple[int, int]] | None = None, **further: Any
) -> dict[str, Any]:
    """The fields of a scenario; ``pairs``: by default each row with the one in its own place."""
    same = ((index, index) for index in range(len(base.items)))
    return {"base": base, "variant": variant, "pairs": tuple(same if pairs is None else pairs), **further}


def _labelled(base: ScoreBody, labels: Sequence[int], columns: Iterable[tuple[int, int]]) -> dict[str, Any]:
    """The same request with other labels."""
    variant = msgspec.structs.replace(base, label_token_ids=tuple(labels))
    return _fields(base, variant, columns=tuple(columns))


@_relation(exact=True, share=3)
def mutate(choose: Choices, space: Space) -> dict[str, Any]:
    """Items keep their scores when other items get other tokens, as many as before."""
    base, marks = space.marked(choose, least=2)
    touched = _marked(marks, [i for i, item in enumerate(base.items) if item])
    return _changed(base, {index: space.other(choose, base.items[index]) for index in touched})


@_relation(exact=True, share=2)
def lengthen(choose: Choices, space: Space) -> dict[str, Any]:
    """Items keep their scores when other items get longer."""
    base, marks = space.marked(choose, least=2, reserve=_GROWTH)
    touched = _marked(marks, range(len(marks)))
    room = space.room(base)
    changed: dict[int, TokenIds] = {}
    for index in touched[:room]:
        more = min(choose.number(1, _GROWTH), room - (len(touched) - len(changed) - 1))
        changed[index] = base.items[index] + space._sequence(choose, max(1, more))
        room -= max(1, more)
    return _changed(base, changed)


@_relation(exact=True)
def shorten(choose: Choices, space: Space) -> dict[str, Any]:
    """Items keep their scores when other items lose their last tokens."""
    base, marks = space.marked(choose, least=2, reserve=2)
    long = [i for i, item in enumerate(base.items) if len(item) > 1]
    if not long:
        base = base.with_items([base.items[0], space.tokens(2, 0, 1), *base.items[2:]])
        long = [1]
    touched = _marked(marks, long)
    return _changed(base, {i: base.items[i][: choose.number(1, len(base.items[i]) - 1)] for i in touched})


@_relation(exact=True, needs=lambda space: space.empty_items)
def empty(choose: Choices, space: Space) -> dict[str, Any]:
    """Items keep their scores when other items lose all of their tokens."""
    base, marks = space.marked(choose, least=2)
    filled = [i for i, item in enumerate(base.items) if item]
    return _changed(base, dict.fromkeys(_marked(marks, filled), ()))


@_relation(exact=False)
def insert(choose: Choices, space: Space) -> dict[str, Any]:
    """Items keep their scores when an item is put between them."""
    base, marks = space.marked(choose, reserve=ITEM_LENGTHS[-1] + 1)
    count, at = len(marks), _most_marked(marks) + choose.number(0, 1)
    new = space.item(choose, space.room(base) - 1)
    items = (*base.items[:at], new, *base.items[at:])
    return _fields(base, base.with_items(items), pairs=((index, index + (index >= at)) for index in range(count)))


@_relation(exact=False)
def delete(choose: Choices, space: Space) -> dict[str, Any]:
    """Items keep their scores when an item is left out."""
    base, marks = space.marked(choose, least=2)
    at = _most_marked(marks)
    pairs = ((index, index - (index > at)) for index in range(len(base.items)) if index != at)
    return _fields(base, base.with_items(base.items[:at] + base.items[at + 1 :]), pairs=pairs)


@_relation(exact=False, share=2)
def permute(choose: Choices, space: Space) -> dict[str, Any]:
    """Items take their scores along when their order changes."""
    base, marks = space.marked(choose, least=2)
    order = sorted(range(len(marks)), key=lambda index: marks[index])
    order = _turned(order[::-1] if choose.among((False, True)) else order)
    pairs = ((index, place) for place, index in enumerate(order))
    return _fields(base, base.with_items([base.items[index] for index in order]), pairs=pairs)


@_relation(exact=False)
def duplicate(choose: Choices, space: Space) -> dict[str, Any]:
    """A copy of an item scores like the item, and every other item keeps its score."""
    base, marks = space.marked(choose, reserve=ITEM_LENGTHS[-1] + 1)
    count, original = len(marks), _most_marked(marks)
    short = base.items[original][: max(1, space.room(base) - 1)]  # of one as long as the server takes there are no two
    base = base.with_items([*base.items[:original], short, *base.items[original + 1 :]])
    at = choose.number(0, count)
    items = (*base.items[:at], base.items[original], *base.items[at:])
    pairs = (*((index, index + (index >= at)) for index in range(count)), (original, at))
    return _fields(base, base.with_items(items), pairs=pairs)


@_relation(exact=False)
def split(choose: Choices, space: Space) -> dict[str, Any]:
    """Items keep their scores when a request is sent as two."""
    base, marks = space.marked(choose, least=2)
    at = _most_marked(marks) or 1
    return _fields(base, base.with_items(base.items[:at]), base.with_items(base.items[at:]))


@_relation(exact=False)
def client_chunks(choose: Choices, space: Space) -> dict[str, Any]:
    """Items keep their scores when the client sends fewer of them in each request."""
    base = space.request(choose, least=2, small=_SMALL)
    count = len(base.items)
    size = choose.number(-(-count // _CHUNKS), count - 1)
    return _fields(base, *(base.with_items(base.items[at : at + size]) for at in range(0, count, size)))


@_relation(exact=True)
def before(choose: Choices, space: Space) -> dict[str, Any]:
    """A request keeps its scores when another one is sent before it."""
    base = space.request(choose)
    return _fields(base, base, before=_others(choose, space, base))


@_relation(exact=True)
def beside(choose: Choices, space: Space) -> dict[str, Any]:
    """A request keeps its scores while others are sent at the same time."""
    base = space.request(choose)
    return _fields(base, base, beside=_others(choose, space, base))


@_relation(exact=True)
def reconnect(choose: Choices, space: Space) -> dict[str, Any]:
    """A request that is sent over a fresh connection gets the same scores."""
    base = space.request(choose)
    return _fields(base, base, fresh=True)


@_relation(exact=False, needs=lambda space: space.context is not None)
def serial(choose: Choices, space: Space) -> dict[str, Any]:
    """An item scores what the serial server gives it by itself, behind the same query."""
    assert space.context is not None
    base = space.request(choose, small=_SMALL)
    filled = [index for index, item in enumerate(base.items) if item]
    step = -(-len(filled) // _SERIAL)
    return _against_serial(base, space.context, filled[choose.number(0, step - 1) :: step])


@_relation(exact=False, needs=lambda space: len(space.labels) > 1)
def label_order(choose: Choices, space: Space) -> dict[str, Any]:
    """Labels take their scores along when their order changes."""
    base = space.request(choose)
    order = _order(choose, len(base.label_token_ids))
    labels = [base.label_token_ids[index] for index in order]
    return _labelled(base, labels, ((index, place) for place, index in enumerate(order)))


@_relation(exact=False)
def softmax_off(choose: Choices, space: Space) -> dict[str, Any]:
    """Probabilities over the vocabulary, divided by their sum over the labels, are the softmax over the labels."""
    base = space.request(choose)
    return _fields(base, msgspec.structs.replace(base, apply_softmax=False), normalise=True)


@_relation(exact=False, needs=lambda space: space.spare_label is not None and len(space.labels) > 1)
def other_label(choose: Choices, space: Space) -> dict[str, Any]:
    """A label's probability over the vocabulary does not depend on which other labels are asked for."""
    base = msgspec.structs.replace(space.request(choose), apply_softmax=False)
    at = choose.number(0, len(space.labels) - 1)
    assert space.spare_label is not None
    labels = (*space.labels[:at], space.spare_label, *space.labels[at + 1 :])
    return _labelled(base, labels, ((column, column) for column in range(len(labels)) if column != at))


@_relation(exact=True)
def replay(choose: Choices, space: Space) -> dict[str, Any]:
    """A request that is sent again gets the same scores."""
    base = space.request(choose)
    return _fields(base, base)


def beside_serial(base: ScoreBody, context: TokenIds) -> Scenario:
    """All items of a request, compared with the serial server, which reads ``context`` after the query."""
    whole = _against_serial(base, context, range(len(base.items)))
    return Scenario(relation=serial.__name__, exact=False, **whole)


def _against_serial(base: ScoreBody, context: TokenIds, chosen: Sequence[int]) -> dict[str, Any]:
    alone = msgspec.structs.replace(
        base, query=(*base.query, *context), items=tuple(base.items[index] for index in chosen)
    )
    return _fields(base, alone, pairs=((index, place) for place, index in enumerate(chosen)), serial=True)


def _others(choose: Choices, space: Space, base: ScoreBody) -> tuple[ScoreBody, ...]:
    """One or two further requests: unrelated ones, or such as begin like the base and end otherwise."""

    def one(choose: Choices) -> ScoreBody:
        other = space.few(choose)
        items = tuple((*item[:-1], *space.shifted(item[-1:], 1)) for item in base.items)
        related = (
            other,
            other,
            msgspec.structs.replace(other, query=base.query),
            base.with_items(items),
            msgspec.structs.replace(base, query=(*base.query[:-1], *space.shifted(base.query[-1:], 1))),
        )
        return choose.among([each for each in related if each.tokens <= space.max_tokens])

    return tuple(choose.several(one, 1, 2))


def _order(choose: Choices, count: int) -> list[int]:
    """An order of ``count`` things that is not the one they are in."""
    left, order = list(range(count)), []
    while left:
        order.append(left.pop(choose.number(0, len(left) - 1)))
    return _turned(order)


def _turned(order: list[int]) -> list[int]:
    """The order, or another one where it is the one that things are in."""
    return order if order != sorted(order) else [1, 0, *order[2:]]
