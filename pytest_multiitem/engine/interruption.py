"""Stopping a computation that nobody waits for any more, between two of its steps."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class Interrupted(Exception):
    """The computation was told to stop."""


class Interruption:
    """Told to one computation from any thread; the computation asks for it between its steps."""

    def __init__(self) -> None:
        self._told = threading.Event()

    def tell(self) -> None:
        """Stop at the next step."""
        self._told.set()

    def check(self) -> None:
        """Raise Interrupted where it was told."""
        if self._told.is_set():
            raise Interrupted


_NEVER = Interruption()
_current: ContextVar[Interruption] = ContextVar("interruption", default=_NEVER)


def current() -> Interruption:
    """The interruption of what this thread computes; one that never comes where there is none.

    A thread that computes a part for another one is to be handed the other's.
    """
    return _current.get()


@contextmanager
def by(interruption: Interruption) -> Iterator[None]:
    """Compute something that ``interruption`` stops."""
    token = _current.set(interruption)
    try:
        yield
    finally:
        _current.reset(token)
