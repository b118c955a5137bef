"""When to end early: asked by a signal, by a failure elsewhere, or by a limit on time or money."""

from __future__ import annotations

import threading
from collections.abc import Callable

from pytest_multiitem.errors import MultiItemError


class Stopped(MultiItemError):
    """The work was asked to end before it was done."""


class Stop:
    """Shared by all threads of a run. ``limit``: says why the run has to end, or None."""

    def __init__(self, limit: Callable[[], str | None] = lambda: None) -> None:
        self._asked = threading.Event()
        self._limit = limit
        self.reason: str | None = None

    def ask(self, reason: str) -> None:
        """End: the first reason counts."""
        if self.reason is None:
            self.reason = reason
        self._asked.set()

    def check(self) -> None:
        """Raises Stopped once the run has to end."""
        if not self._asked.is_set() and (over := self._limit()) is not None:
            self.ask(over)
        if self._asked.is_set():
            raise Stopped(self.reason or "stopped")

    def wait(self, seconds: float) -> None:
        """So long, unless the run has to end before: raises Stopped then."""
        self._asked.wait(seconds)
        self.check()
