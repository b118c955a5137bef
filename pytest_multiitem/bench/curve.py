"""The performance curve: multi-item against serial over the number of items, interleaved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from pytest_multiitem.adapters.attestation import Attestation
from pytest_multiitem.adapters.base import Profile
from pytest_multiitem.bench.statistics import (
    P95_SAMPLES,
    instability,
    p50,
    p95,
    ratio_interval,
    recompilation,
    slow_first_run,
    suspect_first_run,
)
from pytest_multiitem.results.details import SideTimes, SpeedPoint
from pytest_multiitem.scoring.cases import Case
from pytest_multiitem.targets.target import Target
from pytest_multiitem.transport.client import PreparedRequest, ScoreFailure, prepare
from pytest_multiitem.transport.refusals import refused_for_size

#: The most of a server's words on why it refuses a request.
_REFUSAL_CHARACTERS = 300


@dataclass(frozen=True)
class CurvePoint:
    """Times in seconds at one N; entry i of both lists was measured in the same block.

    ``set_aside_sec``: the two sides' times in a slow first block, which is none of these; ``set_aside_because`` says of
    it what it was. ``compiled``: what shows that a slow first run compiled something. ``refused``: why there are no
    times: a server does not take a request of this size.
    """

    num_items: int
    serial_sec: tuple[float, ...]
    multi_sec: tuple[float, ...]
    set_aside_sec: tuple[float, float] | None = None
    set_aside_because: str = "slow on every side"
    compiled: str | None = None
    refused: str | None = None

    @property
    def sides(self) -> dict[str, tuple[float, ...]]:
        """The times by side."""
        return {"serial": self.serial_sec, "multi": self.multi_sec}

    def slow_first(self, side: str) -> str | None:
        """Why the first run of a side, "serial" or "multi", stands out from all others; None where it does not."""
        return slow_first_run(self.sides[side])

    def suspect_first(self, side: str) -> str | None:
        """Why the first run of a side, a block that was set aside included, may have compiled something."""
        aside = () if self.set_aside_sec is None else (self.set_aside_sec[list(self.sides).index(side)],)
        return suspect_first_run((*aside, *self.sides[side]))

    def without_first(self, again: CurvePoint, because: str) -> CurvePoint:
        """The same with its first block set aside, and the blocks of ``again`` in its place."""
        return replace(
            self,
            serial_sec=(*self.serial_sec[1:], *again.serial_sec),
            multi_sec=(*self.multi_sec[1:], *again.multi_sec),
            set_aside_sec=(self.serial_sec[0], self.multi_sec[0]),
            set_aside_because=because,
        )

    @property
    def speedup(self) -> float:
        """serial p50 / multi p50."""
        return p50(self.serial_sec) / p50(self.multi_sec)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the speed-up."""
        return ratio_interval(self.serial_sec, self.multi_sec)

    def record(self) -> SpeedPoint:
        """For the results."""
        return SpeedPoint(
            serial=summary(self.serial_sec, self.num_items),
            multi=summary(self.multi_sec, self.num_items),
            speedup_vs_serial_p50=self.speedup,
            speedup_interval_95=self.interval,
            set_aside_sec=self.set_aside_sec,
            doubts=self.doubts,
        )

    @property
    def doubts(self) -> list[str]:
        """Why the times are to be doubted: a first run was slow, or they scatter."""
        doubts = []
        if self.set_aside_sec is not None:
            block = "{:.3g} s serial and {:.3g} s multi".format(*self.set_aside_sec)
            doubts.append(f"the first block, {block}, was {self.set_aside_because}: set aside")
        if self.compiled is not None:
            doubts.append(self.compiled)
        for side, seconds in self.sides.items():
            doubts += [f"{side}: {reason}" for reason in (recompilation(seconds), instability(seconds)) if reason]
        return doubts


#: Per multi-item server: its curve, and what it attests to have executed for it.
Curves = dict[Profile, tuple[list[CurvePoint], Attestation]]
_Times = dict[Profile, list[float]]
#: Tokens of the longest of a side's requests, and items of it.
_Size = tuple[int, int]
_Sides = Sequence[tuple[Target, list[PreparedRequest], _Size]]


def measure_curves(
    serial: Target,
    multis: Sequence[Target],
    cases_of: Callable[[int], Sequence[Case]],
    *,
    counts: Sequence[int],
    warmup_runs: int,
    timed_runs: Callable[[int], int],
    further_runs: Callable[[CurvePoint], int] = lambda point: 0,
) -> Curves:
    """Curves of several multi-item servers against one serial server.

    Each timed block runs the serial side and every multi side once, in an order that turns round
    from block to block, so that drift of the machine hits all alike. Requests are encoded before
    the clock starts and answers are read after it stops. ``cases_of`` and ``timed_runs`` give the
    requests that N items are sent in, and the number of blocks, for each N in ``counts``; ``further_runs`` is asked
    once for every finished point, and the largest answer is measured in addition. A first block that was slow on every
    side was the machine's doing, or came before all servers were warm: it is set aside, once, and another one timed in
    its place.
    An N that a server refuses for its size has a point that says so, and the others are measured. Raises ScoreFailure
    for any other request that is not answered.
    """
    points: dict[Profile, list[CurvePoint]] = {multi.profile: [] for multi in multis}
    limits = _Limits()
    with ExitStack() as stack:
        attestations = {multi.profile: stack.enter_context(multi.attest()) for multi in multis}
        for count in counts:
            cases = cases_of(count)
            singles = [prepare(case.query, [item], case.labels) for case in cases for item in case.items]
            whole = [prepare(case.query, case.items, case.labels) for case in cases]
            one = (max(len(case.query) + max(map(len, case.items), default=0) for case in cases), 1)
            most = max(len(case.items) for case in cases)
            all_items = (max(len(case.query) + sum(map(len, case.items)) for case in cases), most)
            sides = [(serial, singles, one), *((multi, whole, all_items) for multi in multis)]
            times: _Times = {target.profile: [] for target, _, _ in sides}
            limits.refused = {}
            for _ in range(warmup_runs):
                limits.run(serial, one_of_each_shape(*cases), one)
                for multi in multis:
                    limits.run(multi, whole, all_items)
            _time_blocks(sides, timed_runs(count), times, limits)
            aside = {}
            timed = [seconds for profile, seconds in times.items() if profile not in limits.refused]
            if timed and all(recompilation(seconds) is not None for seconds in timed):
                aside = {profile: seconds.pop(0) for profile, seconds in times.items() if seconds}
                _time_blocks(sides, 1, times, limits)
            finished = _points(count, serial.profile, times, aside, limits.refused)
            answered = [point for point in finished.values() if point.refused is None]
            further = max((further_runs(point) for point in answered), default=0)
            _time_blocks(sides, further, times, limits)
            for profile, point in _points(count, serial.profile, times, aside, limits.refused).items():
                points[profile].append(point)
    return {profile: (curve, attestations[profile]) for profile, curve in points.items()}


@dataclass
class _Limits:
    """How large the requests are that each server answers. ``refused``: of the present N, why a server takes none."""

    refused: dict[Profile, str] = field(default_factory=dict)
    _answered: dict[Profile, _Size] = field(default_factory=dict)
    _smallest_refused: dict[Profile, tuple[_Size, ScoreFailure]] = field(default_factory=dict)

    def run(self, target: Target, requests: Sequence[PreparedRequest], size: _Size) -> float | None:
        """Seconds that a side's requests took; None where its server refuses them for their size.

        Raises ScoreFailure where one fails in another way; so does a refusal by a server that answers as large ones.
        """
        profile = target.profile
        if profile in self.refused:
            return None
        longest, most = self._answered.get(profile, (0, 0))
        try:
            seconds = run_requests(target, requests)
        except ScoreFailure as failure:
            if not refused_for_size(failure) or (size[0] <= longest and size[1] <= most):
                raise
            self._smallest_refused.setdefault(profile, (size, failure))
            words = failure.message.removeprefix(f"{target.place}: ").split()
            self.refused[profile] = f"{target.place}: {' '.join(words)}"[:_REFUSAL_CHARACTERS]
            return None
        self._answered[profile] = longest, most = max(longest, size[0]), max(most, size[1])
        if profile in self._smallest_refused:
            smallest, refusal = self._smallest_refused[profile]
            if smallest[0] <= longest and smallest[1] <= most:
                raise refusal
        return seconds


def _time_blocks(sides: _Sides, blocks: int, times: _Times, limits: _Limits) -> None:
    """Run every side once a block, in an order that turns round, and append the seconds to ``times``."""
    for block in range(blocks):
        for target, requests, size in sides if block % 2 else reversed(sides):
            seconds = limits.run(target, requests, size)
            if seconds is not None:
                times[target.profile].append(seconds)


def _points(
    count: int, serial: Profile, times: _Times, aside: Mapping[Profile, float], refused: Mapping[Profile, str]
) -> dict[Profile, CurvePoint]:
    """The point of every multi-item server at N = ``count``; ``aside``: the seconds of a block set aside, if any."""
    points = {}
    for profile, seconds in times.items():
        if profile == serial:
            continue
        refusal = refused.get(serial) or refused.get(profile)
        if refusal is not None:
            points[profile] = CurvePoint(count, (), (), refused=refusal)
        else:
            block = (aside[serial], aside[profile]) if aside else None
            points[profile] = CurvePoint(count, tuple(times[serial]), tuple(seconds), block)
    return points


def one_of_each_shape(*cases: Case) -> list[PreparedRequest]:
    """One-item requests of every length of query and item: enough to warm up all N of them."""
    shapes = {(len(case.query), len(item)): (case, item) for case in cases for item in case.items}
    return [prepare(case.query, [item], case.labels) for case, item in shapes.values()]


def run_requests(target: Target, requests: Sequence[PreparedRequest]) -> float:
    """Seconds that all requests took, one after the other; answers are read after the clock has stopped."""
    with target.watch():
        answers = [target.client.timed_send(request) for request in requests]
        for request, (_, response) in zip(requests, answers, strict=True):
            target.client.read(response, request)
    return sum(seconds for seconds, _ in answers)


def summary(seconds: Sequence[float], items: int) -> SideTimes:
    """Times of runs of N = ``items``, for results."""
    return SideTimes(
        latencies_sec=list(seconds),
        p50_sec=p50(seconds),
        p95_sec=p95(seconds),
        p95_interpolated=len(seconds) < P95_SAMPLES,
        items_per_sec_p50=items / p50(seconds),
        items_per_sec_p95=items / p95(seconds),
    )
