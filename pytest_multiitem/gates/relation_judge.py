"""Whether a scenario holds on a server, told apart from noise; and what was seen on the way."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from pytest_multiitem.gates.evidence import max_abs
from pytest_multiitem.gates.gate import magnitude
from pytest_multiitem.gates.judge import NOISE_FACTOR
from pytest_multiitem.gates.traffic import Recorder, sample
from pytest_multiitem.properties.play import Player
from pytest_multiitem.results.details import RelationSeen
from pytest_multiitem.scoring.relations import Rows, Scenario, ScoreBody, replay
from pytest_multiitem.transport.client import FailureKind, ScoreFailure
from pytest_multiitem.transport.refusals import refused_for_size

#: What a counterexample may cost until it is small: requests, and seconds. What it is by then is reported.
SHRINK_REQUESTS = 3000
SHRINK_SECONDS = 60.0
#: Replays of the request that says how noisy the server is, after one that does not count.
_PROBES = 3
#: A server that is gone, or hangs: no further request, and nothing to shrink.
_GONE = (FailureKind.TIMEOUT, FailureKind.CONNECTION)
#: Scores lie between 0 and 1: noise above this explains whatever differs.
_HALF_THE_RANGE = 0.5


@dataclass(frozen=True, eq=False)
class Violation:
    """A scenario that does not hold: its answers, or why there is none (``failure``).

    ``noise``: how far replays of its base move scores. ``limit``: what the difference was held against.
    """

    scenario: Scenario
    limit: float
    difference: float | None = None
    base: Rows | None = None
    variant: Rows | None = None
    noise: float = 0.0
    failure: str | None = None


class Judge:
    """Plays scenarios and remembers. ``dtype``: the server's, None where it does not say.

    ``violation``: the last one. ``ended``: what ended the search early; the caller raises it. ``floor``: the largest
    difference between replays. ``unstable``: the largest difference that did not come again. ``dismissed``:
    differences above the limit that noise explains. ``over_limit``: requests that the server says are too long.
    ``unanswered``: why the probe was not. ``bases``: softmax answers to base requests whose items are not all the same,
    up to the first violation.
    """

    def __init__(self, player: Player, dtype: str | None, record: Recorder) -> None:
        self.violation: Violation | None = None
        self.ended: BaseException | None = None
        self.floor = 0.0
        self.unstable = 0.0
        self.dismissed = 0
        self.over_limit = 0
        self.unanswered: ScoreFailure | None = None
        self.seen: dict[str, RelationSeen] = {}
        self.bases: list[Rows] = []
        self._player = player
        self._dtype = dtype
        self._record = record
        self._known: dict[Scenario, Violation] = {}
        self._longest = self._most = 0
        self._sent: ScoreBody | None = None
        self._stop: tuple[float, int] | None = None

    @property
    def examples(self) -> int:
        """Scenarios tried until one was violated."""
        return sum(seen.examples for seen in self.seen.values())

    def probe(self, request: ScoreBody) -> None:
        """Learn the noise floor from replays of one request, or of its first items where it is too long.

        Where it is not answered, the search is left to find a smaller request that is not. Raises ScoreFailure where
        the server is gone.
        """
        try:
            self._rows(request)  # a first request may fill caches
            first, *others = [self._rows(request) for _ in range(_PROBES)]
        except ScoreFailure as failure:
            if failure.kind in _GONE:
                raise
            if self._is_over_limit(failure) and len(request.items) > 1:
                self.probe(request.with_items(request.items[: len(request.items) // 2]))
            else:
                self.unanswered = failure
            return
        self.floor = max((max_abs(other - first) for other in others), key=magnitude)

    def holds(self, scenario: Scenario) -> bool:
        """Whether it holds; True as well once nothing more may be sent."""
        if scenario in self._known:
            self.violation = self._known[scenario]
            return False
        if self.ended is not None or self._spent():
            return True
        try:
            violation = self._judge(scenario)
        except BaseException as error:  # noqa: BLE001 - the search would take it for a violation; the caller raises it
            self.ended = error
            return True
        if violation is None:
            return True
        if self._stop is None:
            self._stop = (time.monotonic() + SHRINK_SECONDS, self._player.played + SHRINK_REQUESTS)
        self.violation = self._known[scenario] = violation
        return False

    def again(self, violation: Violation) -> bool:
        """Whether a violation shows once more; where others are sent at the same time, in several tries.

        Raises ScoreFailure where the server is gone.
        """
        scenario = violation.scenario
        try:
            self._rows(scenario.base)
            base = self._rows(scenario.base)
            variant, _ = self._player.differing(scenario, base, violation.limit)
        except ScoreFailure as failure:
            if failure.kind in _GONE:
                raise
            return violation.failure is not None
        return violation.failure is None and max_abs(scenario.differences(base, variant)) > violation.limit

    def _spent(self) -> bool:
        return self._stop is not None and (time.monotonic() > self._stop[0] or self._player.played > self._stop[1])

    def _judge(self, scenario: Scenario) -> Violation | None:
        """Play it; a difference above the limit is confirmed before it counts."""
        searching = self._stop is None
        if searching:
            blank = RelationSeen(examples=0, worst=0.0, exact=scenario.exact)
            seen = self.seen.setdefault(scenario.relation, blank)
            seen.examples += 1
        limit = scenario.limit(self._dtype)
        try:
            base, variant = self._rows(scenario.base), self._variant(scenario)
            difference = max_abs(scenario.differences(base, variant))
            if searching:
                seen.worst = max(seen.worst or 0.0, difference, key=magnitude)
                if scenario.base.apply_softmax and len(set(scenario.base.items)) > 1:
                    self.bases.append(base)
                figures = {"difference": difference, "limit": limit, "base": base, "variant": variant}
                sample(self._record, "relation", relation=scenario.relation, request=str(scenario.base), **figures)
            if difference <= limit:
                return None
            return self._confirmed(scenario, limit, base, variant)
        except ScoreFailure as failure:
            if failure.kind in _GONE:
                raise
            if self._is_over_limit(failure):
                self.over_limit += searching
                return None
            sent = self._sent or scenario.base
            return Violation(scenario, limit, failure=f"a valid request ({sent}) was not answered: {failure}")

    def _confirmed(self, scenario: Scenario, limit: float, base: Rows, variant: Rows) -> Violation | None:
        """The violation, unless noise explains the difference, or it does not come again.

        The base is sent three times, so that the last two follow an equal request; then the variant once more. What a
        replay differs in cannot come again, because by then the request is not new.
        """
        once, last, settled = (self._rows(scenario.base) for _ in range(3))
        noise = max_abs(settled - last)
        self.floor = max(self.floor, noise, key=magnitude)
        noise_limit = NOISE_FACTOR * self.floor * scenario.magnified(variant)
        noise_limit = math.inf if noise_limit > _HALF_THE_RANGE else noise_limit
        threshold = max(limit, noise_limit)
        if scenario.relation == replay.__name__:
            answers = (base, variant)
        else:
            answers = (settled, self._variant(scenario))
            stable = max(max_abs(base - once), max_abs(base - settled)) <= threshold
            if scenario.beside and stable and not max_abs(scenario.differences(*answers)) > threshold:
                answers = (base, variant)  # what happens at the same time need not happen twice
        difference = max_abs(scenario.differences(*answers))
        if difference > threshold:
            return Violation(scenario, limit, difference, *answers, noise=noise)
        first = max_abs(scenario.differences(base, variant))
        if first <= noise_limit:
            self.dismissed += 1
        else:
            self.unstable = max(self.unstable, first)
        return None

    def _rows(self, request: ScoreBody) -> Rows:
        self._sent = request
        rows = self._player.rows(request)
        self._longest = max(self._longest, request.tokens)
        self._most = max(self._most, len(request.items))
        return rows

    def _variant(self, scenario: Scenario) -> Rows:
        self._sent = max((*scenario.before, *scenario.variant, *scenario.beside), key=lambda request: request.tokens)
        return self._player.variant(scenario)

    def _is_over_limit(self, failure: ScoreFailure) -> bool:
        """Whether the server refused a request for its length, and has answered none that is as long."""
        sent = self._sent
        if sent is None or not refused_for_size(failure):
            return False
        return sent.tokens > self._longest or len(sent.items) > self._most
