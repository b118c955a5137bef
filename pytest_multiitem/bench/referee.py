"""Which timed answers are wrong, told once no clock runs: by what the same items score in other, quiet requests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from pytest_multiitem.scoring.limits import row_differences
from pytest_multiitem.targets.answers import FEW, REPEATS, Answers, Ask, Context, Item, Row, WrongRow, agreed
from pytest_multiitem.transport.client import PreparedRequest, ScoreFailure, Scores

#: Items that are asked for again before an answer is called wrong, at most; the others are judged by what is known.
_SUSPECTS = 64
#: The server repeats itself where that holds for more than this share of the suspects.
_STABLE = 0.5

Answered = tuple[PreparedRequest, Scores]


class Referee:
    """Judges the answers of one server, each by itself.

    ``answers``: what items are known to score (`Answers.judge`). Where an item is in none of them, its first answer
    is what the further ones must equal. ``ask``: sends a request. ``limit``: how far rows of an item may be apart.
    What rests on several answers that agreed stands; else what most of five opinions are (`agreed`), the known one
    and four quiet ones.
    ``unstable``: the largest difference between quiet answers where the server does not repeat itself; whatever it
    answers cannot be told from noise then, and nothing is called wrong.
    """

    def __init__(self, answers: Answers, ask: Ask, *, limit: float, seed: int = 0) -> None:
        self.unstable = 0.0
        self._answers, self._ask, self._limit = answers, ask, limit
        self._random = np.random.default_rng(seed)
        self._first: dict[tuple[Context, Item], Row] = {}
        #: What was asked for again: the row that counts, and how far apart quiet answers are.
        self._settled: dict[tuple[Context, Item], tuple[Row, float]] = {}
        self._references: dict[bytes, tuple[Scores, NDArray[np.float64]]] = {}

    @property
    def doubt(self) -> str | None:
        """Why nothing can be told of some answers; None where all were judged."""
        if not self.unstable:
            return None
        return (
            f"the same items score otherwise each time, by {self.unstable:.3g}: whether a score is wrong cannot "
            "be told from noise"
        )

    def wrong(self, answered: Sequence[Answered]) -> list[WrongRow | None]:
        """The worst row of every answer that is wrong, None for an answer that is right.

        Items that seem to be wrong are asked for again; where that fails, what is known counts.
        """
        suspects: dict[tuple[Context, Item], float] = {}
        for request, scores in answered:
            differences = self._differences(request, scores)
            for index in np.flatnonzero(~(differences <= self._limit)):
                key = (Context.of(request), request.items[index])
                suspects[key] = max(suspects.get(key, 0.0), float(differences[index]))
        if not suspects or not self._repeats_itself(suspects):
            return [None] * len(answered)
        self._references.clear()  # of the suspects, something else may count now
        return [self._worst(*each) for each in answered]

    def _differences(self, request: PreparedRequest, scores: Scores) -> NDArray[np.float64]:
        """How far each row is from what its item scores [N], less what quiet answers differ by."""
        reference, spreads = self._reference(request, scores)
        return row_differences(scores, reference, apply_softmax=request.apply_softmax) - spreads

    def _reference(self, request: PreparedRequest, scores: Scores) -> tuple[Scores, NDArray[np.float64]]:
        """What a request's items score [N, K], and by how much quiet answers differ [N]; items of which nothing is
        known score ``scores``."""
        if request.body not in self._references:
            context = Context.of(request)
            known = self._answers.scores_of(context)
            rows, spreads = [], []
            for item, row in zip(request.items, scores, strict=True):
                settled = self._settled.get((context, item))
                if settled is None:
                    settled = known[item] if item in known else self._first.setdefault((context, item), row), 0.0
                rows.append(settled[0])
                spreads.append(settled[1])
            self._references[request.body] = np.reshape(rows, scores.shape), np.array(spreads)
        return self._references[request.body]

    def _worst(self, request: PreparedRequest, scores: Scores) -> WrongRow | None:
        differences = self._differences(request, scores)
        index = int(np.argmax(differences))
        if differences[index] <= self._limit:
            return None
        return WrongRow(request, index, float(differences[index]), "what it scores in other requests")

    def _repeats_itself(self, suspects: dict[tuple[Context, Item], float]) -> bool:
        """Ask for the worst suspects again, and keep what they score; whether the server gives the same each time."""
        fresh = [key for key in sorted(suspects, key=lambda key: -suspects[key]) if key not in self._settled]
        fresh = fresh[:_SUSPECTS]
        opinions: dict[tuple[Context, Item], list[Row]] = {key: [self._known(key)] for key in fresh}
        try:
            for key, row in self._asked_again(fresh):
                opinions[key].append(row)
        except ScoreFailure:
            return True
        spread = 0.0
        for key, rows in opinions.items():
            context, most = key[0], agreed(rows, key[0], self._limit)
            spread = max(spread, *(context.difference(*pair) for pair in combinations(rows, 2)))
            if most is not None:
                differences = (context.difference(most, row) for row in rows)
                quiet = max(difference for difference in differences if difference <= self._limit)
                self._settled[key] = rows[0] if self._stands(key) else most, quiet
        if fresh and sum(key in self._settled for key in fresh) <= _STABLE * len(fresh):
            self.unstable = max(self.unstable, spread)
            for key in fresh:
                self._settled.pop(key, None)
            return False
        return True

    def _known(self, key: tuple[Context, Item]) -> Row:
        context, item = key
        known = self._answers.scores_of(context).get(item)
        return self._first[key] if known is None else known

    def _stands(self, key: tuple[Context, Item]) -> bool:
        """Whether what is known rests on several answers, none of which has contradicted another."""
        context, item = key
        return item in self._answers.scores_of(context) and not self._answers.total.contradictions

    def _asked_again(self, keys: list[tuple[Context, Item]]) -> Iterator[tuple[tuple[Context, Item], Row]]:
        by_context: dict[Context, list[Item]] = {}
        for context, item in keys:
            by_context.setdefault(context, []).append(item)
        for context, items in by_context.items():
            for _ in range(REPEATS - 1):
                order = [items[place] for place in self._random.permutation(len(items))]
                for begin in range(0, len(order), FEW):
                    company = order[begin : begin + FEW]
                    for item, row in zip(company, self._ask(context.request(company)), strict=True):
                        yield (context, item), row
