"""Having all cells of a measurement measured: a cell that fails runs again elsewhere, and none is counted twice.

The driver alone knows what is measured already. It does not wait for ever: not for a cell that does not end, and not
for a node that could take one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_multiitem.errors import MultiItemError, UsageError
from pytest_multiitem.execution.cells import Attempt, Cell, Ended, Executor

#: How often a cell is tried.
_TRIES = 2
#: Seconds for which an executor is waited for before deadlines are looked at again.
_LOOK = 0.5


class CellFailed(MultiItemError):
    """A cell that could not be measured, with the reason of every try."""


@dataclass(frozen=True)
class Deadlines:
    """Seconds: ``cell``: in which a try must end. ``node``: for which a cell waits while no node could take it."""

    cell: float = 1800.0
    node: float = 60.0


@dataclass(frozen=True)
class Measured:
    """A cell with its result; ``failures``: of an earlier try."""

    cell: Cell
    node: str
    value: Any
    failures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Failed:
    """A cell that could not be measured. ``error``: of the last try, where that was in this process."""

    cell: Cell
    reasons: tuple[str, ...]
    error: Exception | None = None

    @property
    def as_error(self) -> CellFailed:
        """All reasons, as one error."""
        return CellFailed(f"{self.cell.key} could not be measured: {'; then '.join(self.reasons)}")


@dataclass(frozen=True)
class Repeated:
    """A cell that ended a second time, because its first try was given up too early. ``difference``: between the two
    results; None where they say the same. The first one counts."""

    cell: Cell
    nodes: tuple[str, str]
    difference: str | None


Outcome = Measured | Failed | Repeated
#: How two results of one cell differ; None where they say the same.
Compare = Callable[[Any, Any], str | None]


def measure_all(
    executor: Executor,
    cells: Sequence[Cell],
    deadlines: Deadlines,
    compare: Compare,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Outcome]:
    """Every cell's outcome as it comes, once a cell; and beside them what ended twice.

    Raises UsageError where a cell in this process raises one: it says nothing of any score, and is so for all cells.
    """
    keys = [cell.key for cell in cells]
    if len({*keys}) < len(keys):
        raise ValueError("two cells have one key")
    yield from _Driver(executor, [_Tried(cell) for cell in cells], deadlines, compare, clock).outcomes()


@dataclass
class _Tried:
    """A cell and what became of it. ``attempts``: in hand, with when each began; those that were given up stay: they
    may end yet. ``stranded``: since when no node could take it."""

    cell: Cell
    attempts: dict[Attempt, float] = field(default_factory=dict)
    given_up: set[Attempt] = field(default_factory=set)
    reasons: list[str] = field(default_factory=list)
    avoid: list[str] = field(default_factory=list)
    result: Measured | None = None
    stranded: float | None = None

    @property
    def waits(self) -> bool:
        """Whether it is to be handed to the executor."""
        return self.result is None and self.attempts.keys() <= self.given_up


class _Driver:
    def __init__(
        self,
        executor: Executor,
        tried: list[_Tried],
        deadlines: Deadlines,
        compare: Compare,
        clock: Callable[[], float],
    ) -> None:
        self._executor, self._deadlines, self._compare, self._clock = executor, deadlines, compare, clock
        self._left = tried
        self._of: dict[Attempt, _Tried] = {}

    def outcomes(self) -> Iterator[Outcome]:
        """See `measure_all`."""
        while self._left:
            self._submit()
            for ended in self._executor.wait(_LOOK):
                yield from self._taken(ended)
            for tried in list(self._left):
                yield from self._overdue(tried)

    def _submit(self) -> None:
        for tried in self._left:
            if tried.waits:
                attempt = self._executor.submit(tried.cell, tried.avoid)
                if attempt is not None:
                    tried.attempts[attempt] = self._clock()
                    self._of[attempt] = tried

    def _taken(self, ended: Ended) -> Iterator[Outcome]:
        tried = self._of.pop(ended.attempt)
        del tried.attempts[ended.attempt]
        if ended.reason is None:
            if tried.result is not None:
                nodes = (tried.result.node, ended.node)
                yield Repeated(tried.cell, nodes, self._compare(tried.result.value, ended.value))
            elif tried in self._left:  # else it was told to have failed, and stays so
                tried.result = Measured(tried.cell, ended.node, ended.value, tuple(tried.reasons))
                self._left.remove(tried)
                yield tried.result
        elif tried in self._left and ended.attempt not in tried.given_up:
            if isinstance(ended.error, UsageError):
                raise ended.error
            yield from self._failed(tried, ended.node, ended.reason, ended.error)

    def _failed(self, tried: _Tried, node: str, reason: str, error: Exception | None = None) -> Iterator[Outcome]:
        tried.reasons.append(f"{node}: {reason}" if node else reason)
        tried.avoid.append(node)
        if len(tried.reasons) >= _TRIES:
            yield self._given_up(tried, error)

    def _given_up(self, tried: _Tried, error: Exception | None = None) -> Failed:
        self._left.remove(tried)
        return Failed(tried.cell, tuple(tried.reasons), error)

    def _overdue(self, tried: _Tried) -> Iterator[Outcome]:
        """What has waited for too long: for its end, or for a node."""
        now = self._clock()
        for attempt, began in list(tried.attempts.items()):
            if attempt not in tried.given_up and now - began > self._deadlines.cell:
                tried.given_up.add(attempt)
                node = self._executor.where(attempt)
                yield from self._failed(tried, node, f"it did not end within {self._deadlines.cell:g} s")
        if tried not in self._left:
            return
        refusal = self._executor.refusal(tried.cell)
        if refusal is None:
            tried.stranded = None
        elif tried.stranded is None:
            tried.stranded = now
        elif now - tried.stranded > self._deadlines.node:
            tried.reasons.append(f"{refusal}; waited {self._deadlines.node:g} s for one")
            yield self._given_up(tried)
