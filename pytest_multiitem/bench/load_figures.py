"""Records of requests → the figures of a level, and of a whole measurement; written, and checked, by these alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from pytest_multiitem.bench.load_records import Level, LoadRecord
from pytest_multiitem.bench.statistics import percentiles

#: A server keeps up while it answers at this share of the rate at which requests come.
_KEEPS_UP: Final = 0.95
#: Latency rises where the median of a level's last third is this many times that of its first third.
_RISES: Final = 1.5
#: More senders that gain less than this in items/s while latency grows only stand in a queue.
_GAIN: Final = 0.05
#: Fewer arrivals show no trend.
_TREND_SAMPLES: Final = 9
#: A generator that computes for this share of the time, or is as late as this (the larger of milliseconds and of a
#: share of the mean latency) at the median, is slower than the server that it should measure.
_BUSY: Final = 0.8
_LATE_MS, _LATE_SHARE = 10.0, 0.5
#: HTTP statuses by which a server sheds load.
_SHED: Final = (429, 503)


class Summary(msgspec.Struct):
    """What all levels come to, as it stands in their report."""

    max_goodput_items_per_sec: float
    saturation_concurrency: int | None
    saturation_rate: float | None


def level(
    records: list[LoadRecord],
    *,
    mode: Literal["closed", "open"],
    concurrency: int | None,
    offered_rate: float | None,
    duration_sec: float,
    elapsed_sec: float,
    objective_ms: float,
    generator_busy: float | None,
    ended_early: str | None,
) -> Level:
    """The figures of requests that were sent in ``elapsed_sec`` seconds, but for whether the server is saturated
    (`saturate`). ``objective_ms``: goodput counts what was answered within it."""
    good = [record for record in records if record.state == "successful"]
    latencies = [record.latency_ms for record in good if record.latency_ms is not None]
    within = [record for record in good if record.latency_ms is not None and record.latency_ms <= objective_ms]
    late = [1000 * (record.started_sec - record.due_sec) for record in records if record.started_sec is not None]
    return Level(
        mode=mode,
        concurrency=concurrency,
        offered_rate=offered_rate,
        duration_sec=duration_sec,
        elapsed_sec=elapsed_sec,
        requests=len(records),
        successful=len(good),
        errored=sum(record.state == "errored" for record in records),
        incomplete=sum(record.state == "incomplete" for record in records),
        errors_by_kind=dict(Counter(record.failure_kind for record in records if record.failure_kind is not None)),
        latency_ms=percentiles(latencies),
        mean_latency_ms=float(np.mean(latencies)) if latencies else None,
        items_per_sec=sum(record.items for record in good) / elapsed_sec,
        goodput_items_per_sec=sum(record.items for record in within) / elapsed_sec,
        share_within_objective=len(within) / len(records) if records else None,
        lateness_ms_p50=float(np.median(late)) if late else None,
        lateness_ms_max=max(late, default=None),
        generator_busy=generator_busy,
        ended_early=ended_early,
        records=records,
    )


def saturate(levels: Sequence[Level]) -> None:
    """Say of every level whether it saturates the server, and why; the concurrencies stand in ascending order, before
    the rates."""
    for at, each in enumerate(levels):
        if each.mode == "closed":
            smaller = [lower for lower in levels[:at] if lower.mode == "closed"]
            best = max(smaller, key=lambda lower: lower.items_per_sec, default=None)
            each.saturated, each.saturation = closed_saturation(each, best)
        else:
            each.saturated, each.saturation = open_saturation(each)


def summary(levels: Sequence[Level]) -> Summary:
    """What levels come to: the best goodput, and the lowest load that saturates the server."""
    saturated = [each for each in levels if each.saturated]
    return Summary(
        max_goodput_items_per_sec=max((each.goodput_items_per_sec for each in levels), default=0.0),
        saturation_concurrency=next((each.concurrency for each in saturated if each.mode == "closed"), None),
        saturation_rate=next((each.offered_rate for each in saturated if each.mode == "open"), None),
    )


def _own_limit(level: Level) -> str | None:
    """Why a level shows the generator's limits and not the server's; None where it does not."""
    if level.generator_busy is not None and level.generator_busy > _BUSY:
        return f"the generator itself computed {level.generator_busy:.0%} of the time: its limit, not the server's"
    allowed = max(_LATE_MS, _LATE_SHARE * (level.mean_latency_ms or 0.0))
    late = level.lateness_ms_p50
    if late is not None and late > allowed:
        return f"the generator itself was {late:.0f} ms late at the median: its limit, not the server's"
    return None


def closed_saturation(level: Level, best: Level | None) -> tuple[bool | None, str]:
    """Whether more senders than at the ``best`` of the smaller concurrencies only stand in a queue, and why."""
    if best is None:
        return None, "there is no smaller concurrency to compare with"
    if level.mean_latency_ms is None or best.mean_latency_ms is None:
        return None, "no request succeeded here or at a smaller concurrency"
    if limit := _own_limit(level):
        return None, limit
    gain = level.items_per_sec / best.items_per_sec - 1
    slower = level.mean_latency_ms / best.mean_latency_ms
    reason = f"{gain:+.0%} items/s over concurrency {best.concurrency}, at {slower:.2f} times its mean latency"
    return gain < _GAIN and slower > 1, reason


def open_saturation(level: Level) -> tuple[bool | None, str]:
    """Whether requests came faster than the server answers them, and why.

    It did not keep up where it answered at less than 95 % of the rate at which they came. The two rates are those of
    the same requests, one over the time from the first to the last arrival, the other over the time from the first
    to the last end: so the last answers, which are under way when the level ends, do not count against it. Nor did it
    where latency rose, and more requests were left at the end than at any time in the first third.
    """
    records = level.records
    if level.ended_early is not None or not level.successful:
        return None, level.ended_early or "no request succeeded"
    if limit := _own_limit(level):
        return None, limit
    if len(records) < _TREND_SAMPLES:
        return None, f"{len(records)} requests are too few; {_TREND_SAMPLES} are needed"
    due = np.array([record.due_sec for record in records])
    ends = np.array([_end(record, level.elapsed_sec) for record in records])
    # Dealt with, be it by an error; not where the server shed the load.
    answered = sum(r.state == "successful" or r.http_status not in (None, *_SHED) for r in records)
    share = answered / len(records) * min(1.0, float(np.ptp(due) / np.ptp(ends)))
    if share < _KEEPS_UP:
        return True, f"it answered at {share:.0%} of the rate at which requests came"
    third = len(records) // 3
    first, last = _median_latency(records[:third]), _median_latency(records[-third:])
    early = max(_under_way(due, ends, moment) for moment in due[:third])
    left = _under_way(due, ends, level.duration_sec)
    if first is not None and last is not None and last > _RISES * first and left > early:
        return True, f"the median latency rose {last / first:.1f}-fold, and {left} requests were left at the end"
    return False, f"it answered at {share:.0%} of the rate at which requests came"


def _end(record: LoadRecord, elapsed: float) -> float:
    """When a request was over: one that was refused at once, one that was given up with the level."""
    if record.finished_sec is not None:
        return record.finished_sec
    return record.due_sec if record.started_sec is None else elapsed


def _median_latency(records: Sequence[LoadRecord]) -> float | None:
    latencies = [record.latency_ms for record in records if record.latency_ms is not None]
    return float(np.median(latencies)) if latencies else None


def _under_way(due: NDArray[np.float64], ends: NDArray[np.float64], moment: float) -> int:
    """How many requests were due by a moment and had not ended."""
    return int(np.sum((due <= moment) & (ends > moment)))
