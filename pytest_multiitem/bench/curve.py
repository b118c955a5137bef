"""The performance curve: multi-item against serial over the number of items, interleaved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from pytest_multiitem.adapters.attestation import Attestation
from pytest_multiitem.adapters.base import Profile
from pytest_multiitem.bench.statistics import P95_SAMPLES, instability, p50, p95, ratio_interval, recompilation
from pytest_multiitem.results.details import SideTimes, SpeedPoint
from pytest_multiitem.scoring.cases import Case
from pytest_multiitem.targets.target import Target
from pytest_multiitem.transport.client import PreparedRequest, prepare


@dataclass(frozen=True)
class CurvePoint:
    """Times in seconds at one N; entry i of both lists was measured in the same block.

    ``set_aside_sec``: the two sides' times in a first block that was slow on every side, which is none of these.
    """

    num_items: int
    serial_sec: tuple[float, ...]
    multi_sec: tuple[float, ...]
    set_aside_sec: tuple[float, float] | None = None

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
        """Why the times are to be doubted: something was compiled in a timed run, or they scatter."""
        doubts = []
        if self.set_aside_sec is not None:
            block = "{:.3g} s serial and {:.3g} s multi".format(*self.set_aside_sec)
            doubts.append(f"the first block, {block}, was slow on every side: set aside")
        for side, seconds in (("serial", self.serial_sec), ("multi", self.multi_sec)):
            doubts += [f"{side}: {reason}" for reason in (recompilation(seconds), instability(seconds)) if reason]
        return doubts


#: Per multi-item server: its curve, and what it attests to have executed for it.
Curves = dict[Profile, tuple[list[CurvePoint], Attestation]]
_Times = dict[Profile, list[float]]
_Sides = Sequence[tuple[Target, list[PreparedRequest]]]


def measure_curves(
    serial: Target,
    multis: Sequence[Target],
    case_of: Callable[[int], Case],
    *,
    counts: Sequence[int],
    warmup_runs: int,
    timed_runs: Callable[[int], int],
    further_runs: Callable[[CurvePoint], int] = lambda point: 0,
) -> Curves:
    """Curves of several multi-item servers against one serial server.

    Each timed block runs the serial side and every multi side once, in an order that turns round
    from block to block, so that drift of the machine hits all alike. Requests are encoded before
    the clock starts and answers are read after it stops. ``case_of`` and ``timed_runs`` give the
    request and the number of blocks for each N in ``counts``; ``further_runs`` is asked once for every
    finished point, and the largest answer is measured in addition. A first block that was slow on every side was the
    machine's doing, or came before all servers were warm: it is set aside, once, and another one timed in its place.
    """
    points: dict[Profile, list[CurvePoint]] = {multi.profile: [] for multi in multis}
    with ExitStack() as stack:
        attestations = {multi.profile: stack.enter_context(multi.attest()) for multi in multis}
        for count in counts:
            case = case_of(count)
            singles = [prepare(case.query, [item], case.labels) for item in case.items]
            whole = [prepare(case.query, case.items, case.labels)]
            sides = [(serial, singles), *((multi, whole) for multi in multis)]
            times: dict[Profile, list[float]] = {target.profile: [] for target, _ in sides}
            for _ in range(warmup_runs):
                run_requests(serial, one_of_each_shape(case))
                for multi in multis:
                    run_requests(multi, whole)
            _time_blocks(sides, timed_runs(count), times)
            aside = {}
            if all(recompilation(seconds) is not None for seconds in times.values()):
                aside = {profile: seconds.pop(0) for profile, seconds in times.items()}
                _time_blocks(sides, 1, times)
            finished = _points(count, serial.profile, times, aside)
            further = max((further_runs(point) for point in finished.values()), default=0)
            _time_blocks(sides, further, times)
            for profile, point in _points(count, serial.profile, times, aside).items():
                points[profile].append(point)
    return {profile: (curve, attestations[profile]) for profile, curve in points.items()}


def _time_blocks(sides: _Sides, blocks: int, times: _Times) -> None:
    """Run every side once a block, in an order that turns round, and append the seconds to ``times``."""
    for block in range(blocks):
        for target, requests in sides if block % 2 else reversed(sides):
            times[target.profile].append(run_requests(target, requests))


def _points(count: int, serial: Profile, times: _Times, aside: Mapping[Profile, float]) -> dict[Profile, CurvePoint]:
    """The point of every multi-item server at N = ``count``; ``aside``: the seconds of a block set aside, if any."""
    return {
        profile: CurvePoint(
            count, tuple(times[serial]), tuple(seconds), (aside[serial], aside[profile]) if aside else None
        )
        for profile, seconds in times.items()
        if profile != serial
    }


def one_of_each_shape(case: Case) -> list[PreparedRequest]:
    """One-item requests of every item length: enough to warm up all N of them."""
    items = {len(item): item for item in case.items}
    return [prepare(case.query, [item], case.labels) for item in items.values()]


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
