"""What a fault is: its place in the list, what it does wrong, where it was seen, and how strong it can be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from inspect import get_annotations, getdoc
from typing import Any, ClassVar, Protocol

from typing_extensions import override

from pytest_multiitem.errors import UsageError
from pytest_multiitem.scoring.steps import Ids, ScoreResult, Scores, ScoringSteps
from pytest_multiitem.scoring.vocabulary import Part

#: What a strength may be that counts something.
WHOLE: tuple[Callable[[float], bool], str] = (
    lambda s: s >= 1 and float(s).is_integer(),
    "a whole number of at least 1",
)


class AsgiApp(Protocol):
    """An ASGI application."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


class Fault:
    """One way to be wrong. The docstring of a subclass says what such a server does.

    ``number``: the row of the list of faults (1 to 40; 0: beyond the list). ``seen``: where it happened. ``scope``:
    which servers of a build have it. ``strengths``: the measured ones, the first is the default; empty where a server
    has the fault or has it not. ``accepts``: which others it may have, as a test of the number and in words. ``unit``:
    what a strength counts. ``circumstances``: settings of a run under which it
    shows (delimiter, server chunk size, request timeout), by name. ``timed``: it changes times, not scores.
    ``inconclusive_counts``: a gate that says that it cannot decide has seen the fault. ``own_process``: it ends the
    process that has it. ``planned``: a kill matrix of all faults has it; else it is planted by name only.
    ``thresholds``: a strength is where the fault begins; it must be killed at every one, but for those of ``beyond``,
    which no gate claims to reach. ``over_time``: it begins after so many requests, whatever they are. ``healthy``: it
    is none, but a variation that gates must leave alone. A subclass states them as attributes, or as keywords of its
    class line.
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
    planned: ClassVar[bool] = True
    thresholds: ClassVar[bool] = False
    beyond: ClassVar[tuple[float, ...]] = ()
    over_time: ClassVar[bool] = False
    healthy: ClassVar[bool] = False

    def __init_subclass__(cls, **stated: Any) -> None:
        super().__init_subclass__()
        for name, value in stated.items():
            if not any(name in get_annotations(kind) for kind in cls.__mro__):
                raise TypeError(f"{cls.__name__}: a fault has no {name!r}")
            setattr(cls, name, value)

    def __init__(self, strength: float | None = None) -> None:
        self.strength = self.strengths[0] if strength is None and self.strengths else strength

    @property
    def label(self) -> str:
        """The fault as a user types it: ``NAME`` or ``NAME=STRENGTH``."""
        return self.name if self.strength is None else f"{self.name}={self.strength:g}"

    @property
    def count(self) -> int:
        """A strength that counts something; 0 without one."""
        return int(self.strength or 0)

    @classmethod
    def about(cls) -> str:
        """What such a server does wrong, in one line."""
        return (getdoc(cls) or "").partition("\n\n")[0].replace("\n", " ")

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


def mixed(right: Scores, wrong: Scores, strength: float | None) -> Scores:
    """Scores that are wrong by a share; by all of it where the strength is 1 or there is none."""
    share = 1.0 if strength is None else strength
    return (1 - share) * right + share * wrong


@dataclass(frozen=True, eq=False)
class ScoreRequest:
    """What `ScoringSteps.score` is asked."""

    query: Ids
    items: Sequence[Ids]
    labels: Ids
    apply_softmax: bool
    item_first: bool
    extraction: int | None


class ScorerFault(Fault, ScoringSteps):
    """A mutant of the embedded engine's scorer, or of the mutant before it: a subclass changes some of its steps."""

    def begin(self) -> None:
        """Set the state that one scorer's fault begins with, where it has any."""

    def before(self, scorer: ScoringSteps) -> ScoringSteps:
        """The fault in front of a scorer, or of a mutant of it."""
        mutant = copy(self)
        mutant.inner = scorer
        mutant.begin()
        return mutant

    def watch(self, app: AsgiApp) -> AsgiApp:
        """The application of the server that has the fault: what else is asked of it may matter to the fault."""
        return app

    def respond(self, request: ScoreRequest) -> ScoreResult:
        """The step `score`: a subclass changes what is asked, or what comes of it."""
        return self.ask(request)

    def ask(self, request: ScoreRequest) -> ScoreResult:
        """What the scorer behind this fault makes of a request."""
        given = (request.query, request.items, request.labels, request.apply_softmax)
        return self.inner.score(*given, request.item_first, request.extraction)

    @override
    def score(
        self,
        query: Ids,
        items: Sequence[Ids],
        labels: Ids,
        apply_softmax: bool,
        item_first: bool = False,
        extraction: int | None = None,
    ) -> ScoreResult:
        return self.respond(ScoreRequest(query, items, labels, apply_softmax, item_first, extraction))


class WireFault(Fault):
    """A mutant of the wire: it can stand before any scoring server."""

    def wrap(self, app: AsgiApp) -> AsgiApp:
        """The application with the fault in front of it; state, if any, is that of this one wrapping."""
        raise NotImplementedError
