"""Cells on this machine: a thread a lane, and one place whose servers all lanes share."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from pytest_multiitem.errors import MultiItemError
from pytest_multiitem.execution.cells import Attempt, Cell, Ended, ExecutorClosed, Place, Work, Workplace
from pytest_multiitem.untrusted.words import plain_lines

NAME = "this machine"


class LocalExecutor:
    """`cells.Executor` of this process. ``directory``: where its servers' logs go.

    A lane in which a cell has failed goes on at a new place: what is wrong with the old one's servers is not known.
    """

    def __init__(self, directory: Path) -> None:
        self._place = Place(directory, directory / ".quiet")
        self._ended: queue.SimpleQueue[Ended] = queue.SimpleQueue()
        self._busy: set[str] = set()
        self._at: dict[str, int] = {}
        self._open: list[Workplace] = []
        self._opening = threading.Lock()
        self._closed = threading.Event()

    def begin(self, work: Work) -> None:
        """See `cells.Executor`."""
        self._work = work
        self._place.quiet.mkdir(parents=True, exist_ok=True)

    def submit(self, cell: Cell, avoid: Sequence[str]) -> Attempt | None:
        """One cell a lane; there is no other node."""
        if cell.lane in self._busy:
            return None
        self._busy.add(cell.lane)
        attempt = Attempt(cell)
        name = f"multiitem cell {cell.key}"
        threading.Thread(target=self._measure, args=(attempt,), name=name, daemon=True).start()
        return attempt

    def refusal(self, cell: Cell) -> str | None:
        """What this machine lacks is for the cell to say: its gates are NOT_RUN."""
        return None

    def where(self, attempt: Attempt) -> str:
        """See `cells.Executor`."""
        return NAME

    def wait(self, seconds: float) -> list[Ended]:
        """See `cells.Executor`."""
        if self._closed.is_set():
            raise ExecutorClosed
        try:
            ended = [self._ended.get(timeout=seconds)]
        except queue.Empty:
            return []
        while not self._ended.empty():
            ended.append(self._ended.get())
        for each in ended:
            lane = each.attempt.cell.lane
            self._busy.discard(lane)
            if each.reason is not None:
                self._at[lane] = self._at.get(lane, 0) + 1
        return ended

    def close(self) -> None:
        """Stop all servers; threads that still ask them end with an error that nobody waits for."""
        with self._opening:
            self._closed.set()
            places, self._open = self._open, []
        with ExitStack() as closing:  # each of them, whatever becomes of another one
            for place in places:
                closing.callback(place.close)

    def _measure(self, attempt: Attempt) -> None:
        try:
            value = self._workplace(attempt.cell.lane).measure(attempt.cell)
        except Exception as error:  # noqa: BLE001 - whoever waits for the cell gets it
            known = isinstance(error, MultiItemError)
            reason = str(error) if known else plain_lines(f"{type(error).__name__}: {error}")
            self._ended.put(Ended(attempt, NAME, reason=reason, error=error))
        else:
            self._ended.put(Ended(attempt, NAME, value))

    def _workplace(self, lane: str) -> Workplace:
        """The place of a lane: the one that all share, or its own after a failure."""
        number = self._at.get(lane, 0)
        with self._opening:
            if self._closed.is_set():
                raise ExecutorClosed
            while len(self._open) <= number:
                again = len(self._open)
                directory = self._place.directory / f"again-{again}" if again else self._place.directory
                self._open.append(self._work.open(replace(self._place, directory=directory)))
            return self._open[number]
