"""Cells of a measurement, and what it takes to have them measured somewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pytest_multiitem.errors import MultiItemError

GIB = 2**30


@dataclass(frozen=True)
class Needs:
    """What a cell must have to itself on its node. ``memory``: in bytes. ``further``: resources that a cluster's owner
    has named, such as ``(("TPU", 1.0),)``."""

    cpus: float = 1.0
    gpus: float = 0.0
    memory: float = 0.0
    further: tuple[tuple[str, float], ...] = ()

    def __str__(self) -> str:
        named = (("CPU", self.cpus), ("GPU", self.gpus), ("memory", self.memory / GIB), *self.further)
        return ",".join(f"{name}={number:g}" for name, number in named if number)


@dataclass(frozen=True)
class Cell:
    """A part of a measurement. ``key``: names it among all. ``task``: what is measured; it travels, and is pickled.

    ``lane``: cells of one lane are measured one after the other where they share one machine with other lanes.
    """

    key: str
    task: Any
    needs: Needs = Needs()
    lane: str = ""


@dataclass(frozen=True)
class Place:
    """Where cells are measured. ``directory``: for the servers and their logs. ``quiet``: the directory whose locks say
    who has the machine to itself (`quiet`); it is one for all places of a measurement on one machine."""

    directory: Path
    quiet: Path


class Workplace(Protocol):
    """What measures cells at one place, and keeps servers from one to the next."""

    def measure(self, cell: Cell) -> Any:
        """The cell's result: records, or bytes; never a path, which exists at this place only.

        Called by one thread a lane.
        """

    def close(self) -> None:
        """Stop the servers; cells in hand end with an error."""


class Work(Protocol):
    """What is done with cells. It travels, and is pickled."""

    def open(self, place: Place) -> Workplace:
        """Get ready at a place."""


@dataclass(frozen=True, eq=False)
class Attempt:
    """A cell that an executor has in hand."""

    cell: Cell


@dataclass(frozen=True)
class Ended:
    """An attempt that has come to an end. ``reason``: why there is no ``value``. ``error``: that of a cell that was
    measured in this process. ``node``: where it was measured, as far as that is known."""

    attempt: Attempt
    node: str
    value: Any = None
    reason: str | None = None
    error: Exception | None = None


class ExecutorClosed(MultiItemError):
    """The measurement was ended while cells were in hand."""


class Executor(Protocol):
    """Has cells measured. All methods are called by one thread, except `close`, which any may call, at any time; after
    it, the others raise ExecutorClosed."""

    def begin(self, work: Work) -> None:
        """Tell what is done with cells. Raises UsageError where nothing can be measured."""

    def submit(self, cell: Cell, avoid: Sequence[str]) -> Attempt | None:
        """Have a cell measured, on another node than those to ``avoid`` where there is one; None: not now."""

    def refusal(self, cell: Cell) -> str | None:
        """Why no node that is there now could ever take a cell; None where one can."""

    def where(self, attempt: Attempt) -> str:
        """The node that has an attempt in hand; "" where that is not known."""

    def wait(self, seconds: float) -> list[Ended]:
        """Attempts that have ended; waits for the first of them for at most so long."""

    def close(self) -> None:
        """Stop what is in hand, and leave nothing behind. Idempotent."""
