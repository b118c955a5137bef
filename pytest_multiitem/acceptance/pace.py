"""How far an acceptance is: a bar with the time left on a terminal, a line a step elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from pytest_multiitem.acceptance.plan import Plan
from pytest_multiitem.progress import ProgressBar

#: Seconds until servers answer, for the time that is left.
_START_S = 5.0
#: Gates after which the time that the others take is estimated from them.
_TELLING = 3


class Pace:
    """Steps of an acceptance, told to people with the time that is left."""

    def __init__(self, plan: Plan, bar: ProgressBar) -> None:
        self._plan, self._bar = plan, bar
        self._begun = time.monotonic()
        self._gates_begun: float | None = None
        self._planned = self._ended = 0
        self._left = _START_S + plan.gates_s + plan.timing_s
        bar.set_total(self._left)

    def say(self, what: str) -> None:
        """A line with the time that has passed and what is left of it."""
        passed = time.monotonic() - self._begun
        self._bar.print(f"[{passed:4.0f} s, about {self._left:.0f} s left] {what}")
        self._bar.set_total(passed + self._left)
        self._bar.set_completed(passed)

    def servers(self, what: str) -> None:
        """The servers are being started, or asked."""
        self._bar.describe(what)
        self.say(what)

    def heard(self, event: Mapping[str, Any]) -> None:
        """An event of the suites (`session.accepting`)."""
        if "planned" in event:
            self._planned, self._gates_begun = len(event["planned"]), time.monotonic()
            self._left = self._plan.gates_s + self._plan.timing_s
            self.say(f"{self._planned} gates on the scores and the speed")
        elif event.get("begun") is not None:
            self._bar.describe(str(event["begun"]))
        elif event.get("ended") is not None:
            self._ended += 1
            self._estimate()
            self.say(f"{event['verdict']} {event['ended']}")

    def _estimate(self) -> None:
        assert self._gates_begun is not None
        share = min(1.0, self._ended / max(1, self._planned))
        taken = time.monotonic() - self._gates_begun
        whole = taken / share if self._ended >= _TELLING else max(self._plan.gates_s, taken)
        self._left = max(0.0, whole * (1 - share)) + self._plan.timing_s

    def timing(self) -> None:
        """The client chunk sizes are begun."""
        self._left = self._plan.timing_s
        self._bar.describe("client chunk sizes")
        self.say("client chunk sizes, packed and one by one, in turn")

    def timed(self, done: int, of: int, seconds: float) -> None:
        """A request is timed at every size."""
        self._left = max(0.0, min(self._left - seconds, (of - done) * seconds))
        self.say(f"timed request {done} of {of}, {seconds:.1f} s")
