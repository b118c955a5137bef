"""What a server has answered, and whether it contradicts itself: no score that a run receives goes unjudged.

An item must score the same behind the same query, whenever it is sent, whatever stands beside it and however many
there are. So every row is compared with the rows of the same item in other requests, and an item that was seen in one
request alone is asked again in a smaller one, in other company. What is asked again is judged as well.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray

from pytest_multiitem.scoring.limits import row_difference
from pytest_multiitem.transport.client import PreparedRequest, ScoreFailure, Scores, prepare

Row = NDArray[np.float64]
Item = tuple[int, ...]
#: Sends a request and gives its scores [N, K].
Ask = Callable[[PreparedRequest], Scores]

#: Items of a request that asks again, at most.
FEW = 24
#: Items of a request that has room for a neighbour when it is asked again.
_PAIR = 2
#: Rows of the same item from which it is told what it scores, the doubtful one among them.
REPEATS = 5
#: Contradictions that are looked into; further ones are counted.
_SETTLED = 3
#: Contradictions after which nothing is asked again any more: a server that has as many is wrong, or noisy.
_ENOUGH = 24
#: Rows that differ by less than this share of the limit repeat one another.
_CLOSELY = 0.1


@dataclass(frozen=True)
class Context:
    """What an item's score depends on beside the item."""

    query: Item
    labels: Item
    apply_softmax: bool
    item_first: bool = False

    @classmethod
    def of(cls, request: PreparedRequest) -> Context:
        """That of a request's items."""
        return cls(request.query, request.labels, request.apply_softmax, request.item_first)

    def request(self, items: Sequence[Item]) -> PreparedRequest:
        """Items in this context."""
        return prepare(self.query, items, self.labels, apply_softmax=self.apply_softmax, item_first=self.item_first)

    def difference(self, left: Row, right: Row) -> float:
        """How far two rows are apart (`scoring.limits.row_difference`)."""
        return row_difference(left, right, apply_softmax=self.apply_softmax)


@dataclass(frozen=True, eq=False)
class WrongRow:
    """A row that is not what the same item scores elsewhere. ``elsewhere``: where that is, in words."""

    request: PreparedRequest
    index: int
    difference: float
    elsewhere: str

    def __str__(self) -> str:
        request = self.request
        tokens = len(request.query) + 1 + sum(len(item) + 1 for item in request.items)
        return (
            f"item {self.index + 1} of {request.num_items} ({len(request.items[self.index])} tokens, {tokens} tokens "
            f"packed) is {self.difference:.3g} away from {self.elsewhere}"
        )


@dataclass
class Judged:
    """What became of some answers. ``rows``: compared; ``asked``: requests that asked again. ``largest``: difference.

    ``wrong``: rows that are wrong for certain. ``contradictions``: all that were found. ``unstable``: the largest
    difference where the server does not repeat itself either, so that nothing can be told.
    """

    answers: int = 0
    rows: int = 0
    asked: int = 0
    largest: float = 0.0
    contradictions: int = 0
    unstable: float = 0.0
    wrong: list[WrongRow] = field(default_factory=list)

    @property
    def problem(self) -> str | None:
        """What is wrong, in words; None where nothing is."""
        if not self.wrong:
            return None
        further = f" ({self.contradictions} contradictions in all)" if self.contradictions > 1 else ""
        return f"wrong_scores: {self.wrong[0]}{further}"

    @property
    def doubt(self) -> str | None:
        """Why nothing can be told of some contradiction; None where there is none."""
        if not self.unstable:
            return None
        return (
            f"the same request gives other scores each time, by {self.unstable:.3g}: whether a score is wrong cannot "
            "be told from noise"
        )

    def add(self, other: Judged) -> None:
        """Take in what became of further answers."""
        for name in ("answers", "rows", "asked", "contradictions"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.largest, self.unstable = max(self.largest, other.largest), max(self.unstable, other.unstable)
        self.wrong += other.wrong


@dataclass(frozen=True, eq=False)
class _Seen:
    """A row of an answer."""

    request: PreparedRequest
    index: int
    row: Row


class Answers:
    """The answers of one server: those that nobody has judged yet, and what every item is known to score."""

    def __init__(self) -> None:
        self.total = Judged()
        self._heard: list[tuple[PreparedRequest, Scores]] = []
        self._known: dict[Context, dict[Item, Row]] = defaultdict(dict)

    def add(self, request: PreparedRequest, scores: Scores) -> None:
        """Take an answer in; from any thread."""
        self._heard.append((request, scores))

    def mark(self) -> int:
        """The place of the next answer among those that nobody has judged."""
        return len(self._heard)

    def heard(self, since: int = 0) -> list[tuple[PreparedRequest, Scores]]:
        """The answers that nobody has judged, from a place on."""
        return self._heard[since:]

    def drop(self, since: int = 0) -> None:
        """Forget the answers that nobody has judged, from the place ``since`` on."""
        del self._heard[since:]

    def known(self) -> Iterator[tuple[Context, dict[Item, Row]]]:
        """What items are known to score, by context."""
        yield from self._known.items()

    def scores_of(self, context: Context) -> dict[Item, Row]:
        """What the items of a context are known to score."""
        return self._known.get(context, {})

    def judge(self, ask: Ask, *, limit: float, seed: int = 0, since: int = 0) -> Judged:
        """Judge every answer that came in since the last time; those before the place ``since`` are left for later.

        ``ask``: sends a request; what it answers is compared here. ``limit``: how far rows of the same item
        may be apart. Raises what ``ask`` raises.
        """
        heard = self._heard[since:]
        judged = Judged(answers=len(heard))
        contexts: dict[Context, dict[Item, list[_Seen]]] = defaultdict(lambda: defaultdict(list))
        for request, scores in heard:
            rows = contexts[Context.of(request)]
            for index, (item, row) in enumerate(zip(request.items, scores, strict=True)):
                rows[item].append(_Seen(request, index, row))
        random = np.random.default_rng(seed)
        suspects: list[tuple[float, Context, _Seen]] = []

        def compare(context: Context, seen: _Seen, reference: Row) -> None:
            difference = context.difference(seen.row, reference)
            judged.rows += 1
            judged.largest = max(judged.largest, difference)
            if not difference <= limit:
                suspects.append((difference, context, seen))

        for context, items in contexts.items():
            known = self._known[context]
            alone: dict[Item, _Seen] = {}
            for item, rows_of_item in items.items():
                first = min(rows_of_item, key=lambda seen: seen.request.num_items)
                reference = known.get(item)
                if reference is None:
                    if len({seen.request.body for seen in rows_of_item}) == 1:
                        alone[item] = first
                    else:
                        known[item] = first.row
                for seen in rows_of_item:
                    if reference is not None:
                        compare(context, seen, reference)
                    elif seen is not first:  # a row is no evidence for itself
                        compare(context, seen, first.row)
            for company in _dealt(list(alone), random, whole=len(alone) == len(items)):
                if len(suspects) >= _ENOUGH:
                    break
                scores = _asked(ask, context, company, judged)
                for item, row in zip(company, scores, strict=False):
                    known[item] = row
                    compare(context, alone[item], row)
        self._settle(suspects, ask, limit, judged)
        del self._heard[since:]  # what was asked again has been compared
        self.total.add(judged)
        return judged

    def _settle(self, suspects: list[tuple[float, Context, _Seen]], ask: Ask, limit: float, judged: Judged) -> None:
        """Tell wrong rows from noise: a server that repeats itself, and contradicts itself, is wrong."""
        judged.contradictions += len(suspects)
        for difference, context, seen in sorted(suspects, key=lambda suspect: -suspect[0])[:_SETTLED]:
            item = seen.request.items[seen.index]
            alone = context.request([item])
            there = [seen.row, *(ask(seen.request)[seen.index] for _ in range(REPEATS - 1))]
            here = [ask(alone)[0] for _ in range(REPEATS - 1)]
            here.append(self._known[context].get(item, here[0]))  # where there was enough, it was not asked again
            judged.asked += 2 * (REPEATS - 1)
            known, settled = agreed(there, context, limit), agreed(here, context, limit)
            if known is None or settled is None:
                spread = (context.difference(*pair) for rows in (there, here) for pair in combinations(rows, 2))
                judged.unstable = max(judged.unstable, *spread)
                continue
            self._known[context][item] = settled
            apart = context.difference(known, settled)
            if apart > limit:
                judged.wrong.append(WrongRow(seen.request, seen.index, apart, "its score in a request of its own"))
            else:
                what = "its score in every later request"
                judged.wrong.append(WrongRow(seen.request, seen.index, difference, what))


def cross_checked(
    packed: Answers, serial: Answers, serial_query: Callable[[Item], Sequence[int]]
) -> Iterator[tuple[Context, Item, Row, Row]]:
    """What both servers are known to score, of items with tokens: context and item as packed, both rows."""
    for context, items in packed.known():
        if context.item_first:
            continue
        behind = Context(tuple(serial_query(context.query)), context.labels, context.apply_softmax)
        theirs = serial.scores_of(behind)
        for item in filter(None, items.keys() & theirs.keys()):
            yield context, item, items[item], theirs[item]


def _dealt(items: list[Item], random: np.random.Generator, *, whole: bool) -> Iterator[list[Item]]:
    """Items in new company, `FEW` in a request at most. Those that begin alike are dealt out to different requests,
    so that none is taken for the other. Where they are the ``whole`` of what was sent, in two requests at least, but
    for a pair: turned round and before a neighbour (`_asked`), each has other company on either side."""
    if not items:
        return
    ordered = sorted(items)
    alike = any(left[:1] == right[:1] for left, right in pairwise(ordered))
    if whole and len(items) <= _PAIR and not alike:
        yield items[::-1]
        return
    hands = max(-(-len(items) // FEW), min(2, len(items)) if whole else 1)
    for hand in range(hands):
        company = ordered[hand::hands]
        yield [company[place] for place in random.permutation(len(company))]


def _asked(ask: Ask, context: Context, company: list[Item], judged: Judged) -> Scores:
    """The scores of items in a request of their own; few get a neighbour, unless it is refused."""
    judged.asked += 1
    neighbour = next((item[:FEW][::-1] for item in company if item), None)
    if len(company) > _PAIR or neighbour is None:
        return ask(context.request(company))
    try:
        return ask(context.request([*company, neighbour]))
    except ScoreFailure as failure:
        if failure.status is None or failure.status >= 500:
            raise
        return ask(context.request(company))


def agreed(rows: Iterable[Row], context: Context, limit: float) -> Row | None:
    """The row of the same item that most of the rows are: more than half of them closely, or all but one within the
    limit; None where there is none. Of noise of a few limits, some rows are near one another by chance."""
    rows = list(rows)
    for enough, near in ((len(rows) // 2 + 1, _CLOSELY * limit), (len(rows) - 1, limit)):
        for row in rows:
            if sum(context.difference(row, other) <= near for other in rows) >= enough:
                return row
    return None
