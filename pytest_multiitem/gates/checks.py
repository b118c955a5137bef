"""A gate that is several checks: what each saw, which could not be made, and what they come to together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from pytest_multiitem.gates.judge import NOISE_FACTOR
from pytest_multiitem.gates.traffic import Recorder
from pytest_multiitem.results import details
from pytest_multiitem.targets.target import Target
from pytest_multiitem.transport.client import FailureKind, ScoreFailure

#: What the PASS of such a gate rests on.
RESTS_ON: Final = "one check that could be made, and none that is broken"


class Broken(Exception):
    """A check was made and does not hold; the message says what was seen."""


class NotMade(Exception):
    """A check could not be made; the message says why."""


class Undecided(NotMade):
    """A check was made, and what was seen may be noise; the message says how much there is of both."""


@dataclass
class Outcomes:
    """By check, what was seen of those that hold and of those that do not, and why one was not made. ``undecided``:
    the first whose difference may be noise."""

    held: dict[str, str] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    not_made: dict[str, str] = field(default_factory=dict)
    undecided: str | None = None

    @property
    def problem(self) -> str | None:
        """What was seen of the first that does not hold, and which others do not."""
        others = [*self.broken][1:]
        more = f" (also broken: {', '.join(others)})" if others else ""
        return next((f"{name}: {seen}{more}" for name, seen in self.broken.items()), None)

    @property
    def doubt(self) -> str | None:
        """What keeps them from a PASS."""
        return self.undecided if self.held else f"no check could be made: {'; '.join(self.not_made.values())}"

    @property
    def holds(self) -> str | None:
        """How many hold; None where none does."""
        made = len(self.held) + len(self.broken) + len(self.not_made)
        left_out = f"; not made: {', '.join(self.not_made)}" if self.not_made else ""
        return f"{len(self.held)} of {made} checks hold{left_out}" if self.held else None

    @property
    def samples(self) -> dict[str, int]:
        """How many were made, and how many were not."""
        return {"checks": len(self.held) + len(self.broken), "not_made": len(self.not_made)}

    @property
    def details(self) -> details.RequestContract:
        """All of it."""
        return details.RequestContract(broken=self.broken, held=self.held, not_made=self.not_made)


def made(checks: Mapping[str, Callable[[], str]], target: Target, record: Recorder, *, case: str) -> Outcomes:
    """Make checks in their order. A server under test that dies or hangs ends them: that is the gate's to judge."""
    outcomes = Outcomes()
    for name, check in checks.items():
        try:
            seen, which, word = check(), outcomes.held, "holds"
        except NotMade as reason:
            seen, which, word = str(reason), outcomes.not_made, "not made"
            if isinstance(reason, Undecided):
                outcomes.undecided = outcomes.undecided or f"{name}: {reason}"
        except Broken as reason:
            seen, which, word = str(reason), outcomes.broken, "broken"
        except ScoreFailure as failure:
            if failure.kind in (FailureKind.CONNECTION, FailureKind.TIMEOUT) or not target.is_own(failure):
                raise
            seen, which, word = str(failure), outcomes.broken, "broken"
        which[name] = seen
        record({"kind": "contract", "case": case, "check": name, "outcome": word, "seen": seen})
    return outcomes


def within(difference: float, limit: float, what: str, *, noise: float) -> str:
    """What was seen of a difference that is small enough. Raises Broken where it is not, and Undecided where replays of
    the same request are as far apart."""
    seen = f"{what}: {difference:.3g} apart, at most {limit:g}"
    if noise > limit and difference <= NOISE_FACTOR * noise:
        raise Undecided(f"{seen}; replays of the same request are {noise:.3g} apart")
    if not difference <= limit:
        raise Broken(seen)
    return seen
