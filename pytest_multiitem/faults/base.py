"""What a fault is: its place in the list, what it does wrong, where it was seen, and how strong it can be."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any, ClassVar, Protocol

from typing_extensions import override

from pytest_multiitem.errors import UsageError
from pytest_multiitem.scoring.config import MaskImpl, ScorerConfig
from pytest_multiitem.scoring.layout import PackedLayout
from pytest_multiitem.scoring.steps import Ids, Reading, ScoreResult, Scores, ScoringSteps
from pytest_multiitem.scoring.vocabulary import Part


class AsgiApp(Protocol):
    """An ASGI application."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


class Fault:
    """One way to be wrong. The docstring of a subclass says what such a server does.

    ``number``: the row of the list of faults (1 to 25; 0: beyond the list). ``seen``: where it happened. ``scope``:
    which servers of a build have it. ``strengths``: the measured ones, the first is the default; empty where a server
    has the fault or has it not. ``accepts``: which others it may have, as a test of the number and in words. ``unit``:
    what a strength counts. ``circumstances``: settings of a run under which it
    shows (delimiter, server chunk size, request timeout), by name. ``timed``: it changes times, not scores.
    ``inconclusive_counts``: a gate that says that it cannot decide has seen the fault. ``own_process``: it ends the
    process that has it.
    """

    name: ClassVar[str]
    number: ClassVar[int] = 0
    seen: ClassVar[str] = "follows from the design"
    scope: ClassVar[frozenset[Part]] = frozenset({"multi"})
    strengths: ClassVar[tuple[float, ...]] = ()
    accepts: ClassVar[tuple[Callable[[float], bool], str]] = (lambda s: 0 < s <= 1, "a number above 0 and at most 1")
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
        accepted, words = cls.accepts
        try:
            strength = float(text)
        except ValueError:
            strength = float("nan")
        if not accepted(strength):
            known = ", ".join(f"{each:g}" for each in cls.strengths)
            raise UsageError(f"fault {cls.name}: {text!r} is no strength; expected {words}, such as {known}")
        return cls(strength)


class ScorerFault(Fault, ScoringSteps):
    """A mutant of the embedded engine's scorer: each step is that of ``inner``, unless a subclass changes it.

    ``inner``: the scorer, or the mutant before it.
    """

    inner: ScoringSteps

    def begin(self) -> None:
        """Set the state that one scorer's fault begins with, where it has any."""

    def before(self, scorer: ScoringSteps) -> ScoringSteps:
        """The fault in front of a scorer, or of a mutant of it."""
        mutant = copy(self)
        mutant.inner = scorer
        mutant.begin()
        return mutant

    @property
    @override
    def config(self) -> ScorerConfig:
        return self.inner.config

    @override
    def score(
        self, query: Ids, items: Sequence[Ids], labels: Ids, apply_softmax: bool, item_first: bool = False
    ) -> ScoreResult:
        return self.inner.score(query, items, labels, apply_softmax, item_first)

    @override
    def score_alone(self, tokens: Ids, read: Reading) -> Scores:
        return self.inner.score_alone(tokens, read)

    @override
    def check_content(self, query: Ids, items: Sequence[Ids]) -> None:
        self.inner.check_content(query, items)

    @override
    def pack(self, query: Ids, items: Sequence[Ids], read: Reading) -> ScoreResult:
        return self.inner.pack(query, items, read)

    @override
    def lay_out(self, query: Ids, items: Sequence[Ids], start: int) -> PackedLayout:
        return self.inner.lay_out(query, items, start)

    @override
    def implementation(self, layout: PackedLayout) -> MaskImpl:
        return self.inner.implementation(layout)

    @override
    def compute(self, layout: PackedLayout, implementation: MaskImpl, read: Reading) -> Scores:
        return self.inner.compute(layout, implementation, read)

    @override
    def lay_out_batch(self, query: Ids, items: Sequence[Ids], hit: bool) -> PackedLayout:
        return self.inner.lay_out_batch(query, items, hit)

    @override
    def flush_cache(self) -> None:
        self.inner.flush_cache()

    @override
    def executed(self) -> dict[str, Any]:
        return self.inner.executed()


class WireFault(Fault):
    """A mutant of the wire: it can stand before any scoring server."""

    def wrap(self, app: AsgiApp) -> AsgiApp:
        """The application with the fault in front of it; state, if any, is that of this one wrapping."""
        raise NotImplementedError


def labels(faults: Sequence[Fault]) -> str:
    """Several faults as a user types them."""
    return ", ".join(fault.label for fault in faults)
