"""Whether a scenario holds on a server, told apart from noise; and what was seen on the way."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_multiitem.gates.evidence import max_abs
from pytest_multiitem.gates.gate import magnitude
from pytest_multiitem.gates.judge import NOISE_FACTOR
from pytest_multiitem.gates.traffic import Recorder, sample
from pytest_multiitem.properties.play import NoReference, Player
from pytest_multiitem.results.details import RelationSeen
from pytest_multiitem.scoring.limits import PLACED, PLACED_FLOAT32, is_float32, placed_limit
from pytest_multiitem.scoring.relations import (
    Rows,
    Scenario,
    ScoreBody,
    replay,
)
from pytest_multiitem.targets.blame import is_nobodys
from pytest_multiitem.transport.client import FailureKind, ScoreFailure
from pytest_multiitem.transport.refusals import refused_for_size

#: What counterexamples may cost until they are small: requests, and seconds. The first may take half, each further one
#: a share; what it is by then is reported.
SHRINK_REQUESTS = 3000
SHRINK_SECONDS = 60.0
_FIRST, _FURTHER = 1 / 2, 1 / 32
#: Replays of the request that says how noisy the server is, after one that does not count.
_PROBES = 3
#: A server that is gone, or hangs: no further request, and nothing to shrink.
_GONE = (FailureKind.TIMEOUT, FailureKind.CONNECTION)
#: Scores lie between 0 and 1: noise above this explains whatever differs.
_HALF_THE_RANGE = 0.5


def _is_gone(failure: ScoreFailure) -> bool:
    """Whether no further request will be answered: the server is gone, or lets nobody in any more."""
    return failure.kind in _GONE or is_nobodys(failure)


@dataclass(frozen=True, eq=False)
class Violation:
    """A scenario that does not hold: its answers, or why there is none (``failure``).

    ``noise``: how far replays of its base move scores. ``limit``: what the difference was held against. ``example``:
    how many scenarios, of any relation, were tried until its relation was first violated.
    """

    scenario: Scenario
    limit: float
    example: int
    difference: float | None = None
    base: Rows | None = None
    variant: Rows | None = None
    noise: float = 0.0
    failure: str | None = None


@dataclass
class _Shrinking:
    """When making one counterexample small ends: a time, and a number of requests played."""

    until: float
    requests: int


class Judge:
    """Plays scenarios and remembers. ``dtype``: the server's, None where it does not say.

    ``found``: the smallest violation of each relation that has one, by its name, in the order in which they were found.
    ``ended``: what ended the search early; the caller raises it. ``floor``: the largest difference between replays.
    ``unstable``: the largest difference that did not come again. ``dismissed``: differences above the limit that noise
    explains. ``rounding``: the largest difference that is no more than what other shapes may make, by the relation that
    allows none. ``over_limit``: requests that the server says are too long. ``unanswered``: why the probe was not.
    ``no_reference``: why the serial server is no longer asked. ``bases``: softmax answers to base requests whose items
    are not all the same, up to the first violation. ``longest``, ``most``: tokens and items of the largest requests
    that were answered.
    """

    def __init__(self, player: Player, dtype: str | None, record: Recorder) -> None:
        self.found: dict[str, Violation] = {}
        self.ended: BaseException | None = None
        self.floor = 0.0
        self.unstable = 0.0
        self.dismissed = 0
        self.rounding: dict[str, float] = {}
        self.over_limit = 0
        self.unanswered: ScoreFailure | None = None
        self.no_reference: str | None = None
        self.seen: dict[str, RelationSeen] = {}
        self.bases: list[Rows] = []
        self.longest = self.most = 0
        self._player = player
        self._dtype = dtype
        self._record = record
        self._serial_limit = PLACED
        self._known: dict[Scenario, Violation] = {}
        self._sent: ScoreBody | None = None
        self._shrinking: dict[str, _Shrinking] = {}

    @property
    def examples(self) -> int:
        """Scenarios tried, of each relation until it was violated."""
        return sum(seen.examples for seen in self.seen.values())

    @property
    def violation(self) -> Violation | None:
        """That of the relation that was violated first."""
        return next(iter(self.found.values()), None)

    def probe(self, request: ScoreBody) -> None:
        """Learn the noise floor from replays of one request, or of its first items where it is too long.

        Where it is not answered, the search is left to find a smaller request that is not. Raises ScoreFailure where
        the server is gone.
        """
        try:
            self._rows(request)  # a first request may fill caches
            first, *others = [self._rows(request) for _ in range(_PROBES)]
        except ScoreFailure as failure:
            if _is_gone(failure):
                raise
            if self._is_over_limit(failure) and len(request.items) > 1:
                self.probe(request.with_items(request.items[: len(request.items) // 2]))
            else:
                self.unanswered = failure
            return
        self.floor = max((max_abs(other - first) for other in others), key=magnitude)

    def calibrate(self, scenario: Scenario, dtypes: Sequence[str | None]) -> None:
        """Learn how closely the serial server can be followed, from one scenario that asks it.

        The limit of equivalence is the contract's. Where both servers say float32 and agree here a tenth as far as
        other shapes may make scores differ, it is that: two kernels of a healthy engine differ by some 1e-6.
        """
        try:
            difference = max_abs(scenario.differences(self._rows(scenario.base), self._variant(scenario)))
        except NoReference as problem:
            self.no_reference = str(problem)
        except ScoreFailure as failure:
            if _is_gone(failure):
                raise
        else:
            if all(map(is_float32, dtypes)) and difference <= PLACED_FLOAT32 / 10:
                self._serial_limit = PLACED_FLOAT32

    def holds(self, scenario: Scenario) -> bool:
        """Whether it holds; True as well once nothing more may be sent for its relation."""
        name = scenario.relation
        if scenario in self._known:
            self.found[name] = self._known[scenario]
            return False
        if self.ended is not None or self._spent(name) or (scenario.serial and self.no_reference is not None):
            return True
        try:
            violation = self._judge(scenario)
        except NoReference as problem:
            self.no_reference = str(problem)
            return True
        except BaseException as error:  # noqa: BLE001 - the search would take it for a violation; the caller raises it
            self.ended = error
            return True
        if violation is None:
            return True
        if name not in self.found:
            share = _FURTHER if self.found else _FIRST
            until, requests = time.monotonic() + share * SHRINK_SECONDS, int(share * SHRINK_REQUESTS)
            self._shrinking[name] = _Shrinking(until, self._player.played + requests)
        self.found[name] = self._known[scenario] = violation
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
            if _is_gone(failure):
                raise
            return violation.failure is not None
        return violation.failure is None and max_abs(scenario.differences(base, variant)) > violation.limit

    def _spent(self, name: str) -> bool:
        may = self._shrinking.get(name)
        return may is not None and (time.monotonic() > may.until or self._player.played > may.requests)

    def _judge(self, scenario: Scenario) -> Violation | None:
        """Play it; a difference above the limit is confirmed before it counts."""
        searching = scenario.relation not in self.found
        if searching:
            blank = RelationSeen(examples=0, worst=0.0, exact=scenario.exact)
            seen = self.seen.setdefault(scenario.relation, blank)
            seen.examples += 1
        limit = self._serial_limit if scenario.serial else scenario.limit(self._dtype)
        try:
            base, variant = self._rows(scenario.base), self._variant(scenario)
            difference = max_abs(scenario.differences(base, variant))
            if searching:
                seen.worst = max(seen.worst or 0.0, difference, key=magnitude)
                if not self.found and scenario.base.apply_softmax and len(set(scenario.base.items)) > 1:
                    self.bases.append(base)
                figures = {"difference": difference, "limit": limit, "base": base, "variant": variant}
                sample(self._record, "relation", relation=scenario.relation, request=str(scenario.base), **figures)
            if difference <= limit:
                return None
            known = self.rounding.get(scenario.relation)
            if known is not None and self._is_rounding(scenario, difference):
                self.rounding[scenario.relation] = max(known, difference)
                return None
            return self._confirmed(scenario, limit, base, variant)
        except ScoreFailure as failure:
            if _is_gone(failure):
                raise
            if self._is_over_limit(failure):
                self.over_limit += searching
                return None
            sent = self._sent or scenario.base
            problem = f"a valid request ({sent}) was not answered: {failure}"
            return Violation(scenario, limit, self._example(scenario), failure=problem)

    def _example(self, scenario: Scenario) -> int:
        known = self.found.get(scenario.relation)
        return self.examples if known is None else known.example

    def _is_rounding(self, scenario: Scenario, difference: float) -> bool:
        """Whether other shapes alone may make a difference that the relation does not allow."""
        return scenario.exact and not scenario.same_shape and difference <= placed_limit(self._dtype)

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
            answers = (settled, self._variant(scenario, again=True))
            stable = max(max_abs(base - once), max_abs(base - settled)) <= threshold
            if scenario.beside and stable and not max_abs(scenario.differences(*answers)) > threshold:
                answers = (base, variant)  # what happens at the same time need not happen twice
        difference = max_abs(scenario.differences(*answers))
        if difference > threshold:
            if self._is_rounding(scenario, difference):
                self.rounding[scenario.relation] = difference
                return None
            return Violation(scenario, limit, self._example(scenario), difference, *answers, noise=noise)
        first = max_abs(scenario.differences(base, variant))
        if first <= noise_limit:
            self.dismissed += 1
        else:
            self.unstable = max(self.unstable, first)
        return None

    def _rows(self, request: ScoreBody) -> Rows:
        self._sent = request
        rows = self._player.rows(request)
        self.longest = max(self.longest, request.tokens)
        self.most = max(self.most, len(request.items))
        return rows

    def _variant(self, scenario: Scenario, *, again: bool = False) -> Rows:
        self._sent = max((*scenario.before, *scenario.variant, *scenario.beside), key=lambda request: request.tokens)
        return self._player.variant(scenario, again=again)

    def _is_over_limit(self, failure: ScoreFailure) -> bool:
        """Whether the server refused a request for its length, and has answered none that is as long."""
        sent = self._sent
        if sent is None or not refused_for_size(failure):
            return False
        return sent.tokens > self.longest or len(sent.items) > self.most
