"""Rounding or a leak: what a precision rounds to, and whether changes grow with what was changed.

Rounding is a function of a batch's shape that nobody can tell from noise: which of two shapes has the larger score is a
matter of luck. So under rounding alone the answers to one request in several shapes may be exchanged among the shapes,
and no order of the shapes, by how long one item is, stands out. A leak of positions or of a mask stands out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations, product

import numpy as np
from numpy.typing import NDArray

#: How far another order of the same sums moves a score, at least, by the precision of the sums.
_FLOORS = {"float32": 1e-6, "float16": 5e-4, "bfloat16": 2.0**-8}
#: Scores that one shape moves by more than this are none of float32's; the line between two masks.
_FLOAT32_MOST = 1e-4
#: The same of every other precision, and where it is not known; the contract's line for two ways to the same score.
_MOST = 0.02
#: So many floors of a trend are rounding yet, other than in float32: sums in blocks know some order of lengths.
_BLOCKS = 3.0
#: Relabelings of the shapes that are tried; all of them, where there are no more.
_RELABELINGS = 1_999


@dataclass(frozen=True)
class Precision:
    """What a server's scores may differ by where nothing but the order of sums does. ``known``: whether the server says
    what it computes in; ``exact``: whether that is float32 on a machine that has it."""

    floor: float
    most: float
    known: bool
    exact: bool

    @property
    def trend(self) -> float:
        """A trend up to this is no leak."""
        return self.floor if self.exact else self.floor * _BLOCKS


def precision_of(dtype: str | None, device: object = None) -> Precision:
    """That of a served dtype. TPUs multiply float32 by way of bfloat16, unless they are told otherwise."""
    name = (dtype or "").rpartition(".")[2].lower()
    if name == "float32" and str(device).lower().startswith("tpu"):
        name = "bfloat16"
    floor = _FLOORS.get(name)
    if floor is None:
        return Precision(_FLOORS["float32"], _MOST, known=False, exact=False)
    exact = name == "float32"
    return Precision(floor, _FLOAT32_MOST if exact else _MOST, known=True, exact=exact)


@dataclass(frozen=True, eq=False)
class Ladder:
    """One request in M shapes, by the length of one item, ascending: the scores [M, C] of what was not changed.
    ``before``: which of the C columns stand before the item that was."""

    lengths: tuple[int, ...]
    scores: NDArray[np.float64]
    before: NDArray[np.bool_]

    @property
    def changes(self) -> NDArray[np.float64]:
        """How far each longer one is from the shortest [M - 1, C], absolute."""
        return np.abs(self.scores[1:] - self.scores[:1])

    def distinct(self) -> NDArray[np.float64]:
        """The scores of shapes that differ in some bit [m, C], m ≤ M: shapes of one class are computed alike, and say
        nothing of each other."""
        _, first = np.unique(self.scores, axis=0, return_index=True)
        return self.scores[np.sort(first)]


@dataclass(frozen=True)
class Trend:
    """``p_growth``: how often shapes in another order change as much the more, the longer an item is. ``p_direction``:
    how often they go as much one way. ``size``: the largest trend from the shortest to the longest. ``bound``: its
    upper bound, with 95 % confidence. Sizes are in scores."""

    p_growth: float
    p_direction: float
    size: float
    bound: float

    @property
    def p(self) -> float:
        """Of both tests together (Bonferroni)."""
        return min(1.0, 2 * min(self.p_growth, self.p_direction))


def trend(ladders: Sequence[Ladder], *, seed: int) -> Trend:
    """Whether scores follow the length of the changed item: permutation tests over the shapes of each ladder, together.

    Direction: the sum of the squared correlations of every score with the rank of its shape. Growth: the correlation of
    the mean distance from the shortest with that rank. Every relabeling, where there are no more than some thousands;
    else as many that are drawn with ``seed``.
    """
    tables = [table for ladder in ladders if len(table := ladder.distinct()) > 2]
    if not tables:
        size = max((float(np.ptp(ladder.scores, axis=0).max(initial=0.0)) for ladder in ladders), default=0.0)
        return Trend(1.0, 1.0, size, size)
    directions = growths = sizes = np.zeros(1)
    for table, order in zip(tables, _relabelings([len(table) for table in tables], seed), strict=True):
        count = len(table)
        rank = np.arange(count) - (count - 1) / 2
        centred = table - table.mean(axis=0)
        norm = np.sqrt((centred**2).sum(axis=0))
        moved = norm > 0
        placed = np.empty(order.shape)
        np.put_along_axis(placed, order, np.broadcast_to(rank, order.shape), axis=1)
        slopes = placed @ centred[:, moved]  # [R, c]
        unit = np.sqrt((rank**2).sum())
        directions = directions + ((slopes / (unit * norm[moved])) ** 2).sum(axis=1)
        sizes = np.maximum(sizes, np.abs(slopes).max(axis=1) * (count - 1) / unit**2)
        scaled = centred[:, moved] / norm[moved]
        distance = np.abs(scaled[:, None] - scaled[None]).mean(axis=2)
        away = distance[order[:, 1:], order[:, :1]]  # [R, m - 1]
        away = away - away.mean(axis=1, keepdims=True)
        ranks = np.arange(count - 1) - (count - 2) / 2
        spread = np.sqrt((away**2).sum(axis=1) * (ranks**2).sum())
        growths = growths + np.divide(away @ ranks, spread, out=np.zeros(len(order)), where=spread > 0)
    size = float(sizes[0])
    return Trend(_share(growths), _share(directions), size, size + float(np.quantile(sizes[1:], 0.95)))


def _share(statistics: NDArray[np.float64]) -> float:
    """How many of the statistics are as large as the first one, itself among them."""
    return float((statistics >= statistics[0] * (1 - 1e-12)).mean())


def _relabelings(counts: Sequence[int], seed: int) -> list[NDArray[np.int64]]:
    """For tables of so many shapes, orders of the shapes [R, m]; the first is the one that they have."""
    if math.prod(map(math.factorial, counts)) <= _RELABELINGS:
        every = product(*(permutations(range(count)) for count in counts))
        return [np.array(orders) for orders in zip(*every, strict=True)]
    rng = np.random.default_rng(seed)
    drawn = []
    for count in counts:
        orders = rng.permuted(np.tile(np.arange(count), (_RELABELINGS + 1, 1)), axis=1)
        orders[0] = np.arange(count)
        drawn.append(orders)
    return drawn
