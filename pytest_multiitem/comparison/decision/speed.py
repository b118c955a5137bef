"""Two rows → Speed: a ratio of medians with its interval, and what the interval says."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pytest_multiitem.bench.statistics import p50, ratio_interval
from pytest_multiitem.comparison.records import Row

#: Fewer runs support no interval of 95 % to both sides: five equal pairs all fall on one side in 6 % of all cases.
MIN_RUNS = 6


@dataclass(frozen=True)
class Speed:
    """A's median run over B's: above 1, B is faster.

    ``verdict``: "a_faster", "b_faster", "no_difference_shown", or "not_compared", then with the reason ``why``.
    ``paired``: the runs were measured in interleaved blocks. ``runs``: how many of A and B.
    """

    ratio: float | None
    interval: tuple[float, float] | None
    verdict: str
    paired: bool | None
    runs: tuple[int, int]
    why: str | None = None


def versus(a: Row, b: Row) -> Speed:
    """The ratio of the medians of two rows' successful runs, with its 95 % interval (`bench.statistics`).

    Rows of one session are compared block by block, in the blocks that both have. Below six runs of either there is
    no interval, and so no verdict. Without records of runs, the ratio is that of the rows' own medians.
    """
    ours, theirs = _runs(a), _runs(b)
    if not ours or not theirs:
        ratio = ratio_of(a.p50_total_e2e_ms, b.p50_total_e2e_ms)
        return Speed(ratio, None, "not_compared", None, (len(ours), len(theirs)), "there are no records of single runs")
    paired = a.session is not None and a.session == b.session
    blocks = [{block: time for block, time in runs if block is not None} for runs in (ours, theirs)]
    common = sorted(blocks[0].keys() & blocks[1].keys()) if paired else []
    if common:
        times = tuple([of[block] for block in common] for of in blocks)
    else:
        paired = False
        times = tuple([time for _, time in runs] for runs in (ours, theirs))
    counts = (len(times[0]), len(times[1]))
    ratio = p50(times[0]) / p50(times[1])
    if min(counts) < MIN_RUNS:
        why = f"{min(counts)} successful runs to compare; at least {MIN_RUNS} are needed"
        return Speed(ratio, None, "not_compared", paired, counts, why)
    interval = ratio_interval(*times, paired=paired)
    if interval is None or not all(map(math.isfinite, interval)):
        return Speed(ratio, None, "not_compared", paired, counts, "the runs support no interval")
    low, high = min(interval[0], ratio), max(interval[1], ratio)  # resampled medians need not enclose the measured one
    verdict = "b_faster" if low > 1 else "a_faster" if high < 1 else "no_difference_shown"
    return Speed(ratio, interval, verdict, paired, counts)


def _runs(row: Row) -> list[tuple[int | None, float]]:
    """Block and milliseconds of every successful run."""
    return [
        (run.block, run.total_e2e_ms)
        for run in row.run_records
        if run.ok and run.total_e2e_ms is not None and 0 < run.total_e2e_ms < math.inf
    ]


def delta_percent(a: float | None, b: float | None) -> float | None:
    """``a`` relative to ``b``, in percent; None where one is no finite number above 0."""
    ratio = ratio_of(a, b)
    return None if ratio is None else 100 * (ratio - 1)


def ratio_of(a: float | None, b: float | None) -> float | None:
    """``a`` over ``b``; None where one is no finite number above 0."""
    if a is None or b is None or not (math.isfinite(a) and math.isfinite(b) and a > 0 and b > 0):
        return None
    return a / b
