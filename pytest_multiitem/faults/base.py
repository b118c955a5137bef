"""What a fault is: its place in the list, what it does wrong, where it was seen, and how strong it can be."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Protocol

from pytest_multiitem.errors import UsageError

#: The servers of a faulty build, as the gates use them: the packed one under test, the packed one of the other mask
#: that it is compared with, prefill+extend, and the serial baseline.
Part = Literal["multi", "other_mask", "extend", "serial"]


class AsgiApp(Protocol):
    """An ASGI application."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


class Fault:
    """One way to be wrong. The docstring of a subclass says what such a server does.

    ``number``: the row of the list of faults (1 to 25; 0: beyond the list). ``seen``: where it happened. ``scope``:
    which servers of a build have it. ``strengths``: the measured ones, the first is the default; empty where a server
    has the fault or has it not. ``unit``: what a strength counts. ``circumstances``: settings of a run under which it
    shows (delimiter, server chunk size, request timeout), by name. ``timed``: it changes times, not scores.
    ``inconclusive_counts``: a gate that says that it cannot decide has seen the fault. ``own_process``: it ends the
    process that has it.
    """

    name: ClassVar[str]
    number: ClassVar[int] = 0
    seen: ClassVar[str] = "-"
    scope: ClassVar[frozenset[Part]] = frozenset({"multi"})
    strengths: ClassVar[tuple[float, ...]] = ()
    unit: ClassVar[str] = ""
    circumstances: ClassVar[dict[str, Any]] = {}
    timed: ClassVar[bool] = False
    inconclusive_counts: ClassVar[bool] = False
    own_process: ClassVar[bool] = False

    def __init__(self, strength: float | None = None) -> None:
        self.strength = self.strengths[0] if strength is None and self.strengths else strength

    @property
    def label(self) -> str:
        """The fault as a user types it: ``NAME`` or ``NAME=STRENGTH``."""
        return self.name if self.strength is None else f"{self.name}={self.strength:g}"

    @classmethod
    def about(cls) -> str:
        """What such a server does wrong, in one line."""
        return (inspect.getdoc(cls) or "").partition("\n\n")[0].replace("\n", " ")

    @classmethod
    def parse(cls, text: str | None) -> Fault:
        """The fault at the strength that a user typed (None: the default). Raises UsageError for another value."""
        if text is None:
            return cls()
        if not cls.strengths:
            raise UsageError(f"fault {cls.name} has no strength, but {text!r} was given; write {cls.name} alone")
        try:
            strength = float(text)
        except ValueError:
            strength = -1.0
        if not cls.takes(strength):
            raise UsageError(f"fault {cls.name}: {text!r} is no strength; expected {cls.expected()}")
        return cls(strength)

    @classmethod
    def takes(cls, strength: float) -> bool:
        """Whether a number can be a strength: above 0 and at most 1, unless a fault says otherwise."""
        return 0 < strength <= 1

    @classmethod
    def expected(cls) -> str:
        """What `takes` takes, in words."""
        known = ", ".join(f"{strength:g}" for strength in cls.strengths)
        return f"a number above 0 and at most 1, such as {known}"


class ScorerFault(Fault):
    """A mutant of the embedded engine's scorer."""

    def scorer(self, base: Any) -> Any:
        """A subclass of ``base``, which is `engine.scorer.Scorer` or a mutant of it."""
        raise NotImplementedError


class WireFault(Fault):
    """A mutant of the wire: it can stand before any scoring server."""

    def wrap(self, app: AsgiApp) -> AsgiApp:
        """The application with the fault in front of it; state, if any, is that of this one wrapping."""
        raise NotImplementedError


def labels(faults: Sequence[Fault]) -> str:
    """Several faults as a user types them."""
    return ", ".join(fault.label for fault in faults)
