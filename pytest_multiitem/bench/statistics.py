"""Statistics of timings. Samples may be in any unit of time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: A percentile is stated where its samples show it with this confidence (MLPerf LoadGen).
_CONFIDENCE = 0.99
_RESAMPLES = 10_000
_SEED = 20_260_101
#: A first run this many times as long as the median of the others was doing something else as well.
RECOMPILATION_RATIO = 1.5
#: A first run this many times as long as the slowest of the others did more than they did.
_SLOW_FIRST_RATIO = 2.0
#: A first run this many times as long as the median of the others, and slower than all, may have compiled something.
_SUSPECT_RATIO = 3.0
#: An isolated call of a run this many times as long as the median call of its shape stands out.
_OUTLIER_RATIO = 3.0
#: Runs whose standard deviation exceeds this share of their mean are unstable (pyperf warns at the same).
_UNSTABLE = 0.10

#: From runs of both sides [.., n] to a statistic of each resample, along the last axis.
Statistic = Callable[..., NDArray[np.float64]]


def required_samples(percent: float) -> int:
    """How many samples show a percentile with 99 % confidence: with fewer, it may lie above all of them.

    90 for p95 and 459 for p99, as MLPerf LoadGen requires; the mirror image for low percentiles.
    """
    tail = max(percent, 100 - percent) / 100
    return math.ceil(math.log(1 - _CONFIDENCE) / math.log(tail))


#: Fewer runs than this give no p95, only an interpolation between the two largest.
P95_SAMPLES = required_samples(95)


def p50(times: Sequence[float]) -> float:
    """The median."""
    return float(np.median(times))


def p95(times: Sequence[float]) -> float:
    """The 95th percentile, linearly interpolated; no real p95 below :data:`P95_SAMPLES` samples."""
    return float(np.percentile(times, 95))


def percentiles(times: Sequence[float], wanted: Iterable[float] = (50, 90, 95, 99)) -> dict[str, Any]:
    """``{"p50": …, "p99": null, "reasons": {"p99": …}, "samples": n}``: null where the samples do not support one."""
    values: dict[str, float | None] = {}
    reasons = {}
    for percent in wanted:
        name, needed = f"p{percent:g}", required_samples(percent)
        values[name] = float(np.percentile(times, percent)) if len(times) >= needed else None
        if values[name] is None:
            reasons[name] = f"{len(times)} samples; {needed} are needed"
    return {"samples": len(times), **values, "reasons": reasons}


def ratio_interval(
    numerator: Sequence[float],
    denominator: Sequence[float],
    *,
    paired: bool = True,
    statistic: Statistic = np.median,
) -> tuple[float, float] | None:
    """The 95 % interval of statistic(numerator) / statistic(denominator), by default of medians.

    A seeded bootstrap over pairs that were measured in the same block, or, where the two sides were timed apart,
    of each sample on its own. The percentile interval is expanded for small samples: it alone is too narrow by
    √((n-1)/n) and ignores that the spread is estimated (Hesterberg, What Teachers Should Know About the
    Bootstrap, 2015, section 4.2). None below three samples of either.
    """
    smaller = min(len(numerator), len(denominator))
    if smaller < 3:
        return None
    from scipy.stats import norm, t

    tail = norm.cdf(math.sqrt(smaller / (smaller - 1)) * t.ppf(0.025, smaller - 1))
    return _bootstrapped(
        numerator,
        denominator,
        lambda a, b, axis: statistic(a, axis=axis) / statistic(b, axis=axis),
        paired=paired,
        confidence=1 - 2 * tail,
    )


def difference_interval(left: Sequence[float], right: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of the difference of medians: a seeded bootstrap over pairs of the same block. None below three
    samples."""
    if len(left) < 3:
        return None
    return _bootstrapped(
        left, right, lambda a, b, axis: np.median(a, axis=axis) - np.median(b, axis=axis), paired=True, confidence=0.95
    )


def _bootstrapped(
    left: Sequence[float], right: Sequence[float], statistic: Statistic, *, paired: bool, confidence: float
) -> tuple[float, float]:
    from scipy.stats import bootstrap

    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):  # of a file's times, which may be anything
        interval = bootstrap(
            (np.asarray(left, dtype=float), np.asarray(right, dtype=float)),
            statistic,
            paired=paired,
            vectorized=True,
            n_resamples=_RESAMPLES,
            confidence_level=confidence,
            method="percentile",
            rng=np.random.default_rng(_SEED),
        ).confidence_interval
    return float(interval.low), float(interval.high)


def first_run_penalty(times: Sequence[float]) -> float | None:
    """The first timed run over the median of the others; None below two runs."""
    return None if len(times) < 2 else float(times[0] / np.median(times[1:]))


def recompilation(runs: Sequence[float], calls: Sequence[Sequence[float]] = ()) -> str | None:
    """Why the first timed run looks like one in which something was compiled; None where it does not.

    ``calls`` [runs][requests]: all of the same shapes in the same order. Either the first run as a whole is slower
    than every other and than 1.5 times their median, or a call of it stands out from the same call of all other
    runs.
    """
    penalty = first_run_penalty(runs)
    if penalty is not None and penalty >= RECOMPILATION_RATIO and runs[0] > max(runs[1:]):
        return f"the first timed run took {penalty:.2f} times the median of the others"
    if len(calls) >= 3 and len({len(run) for run in calls}) == 1:
        table = np.asarray(calls, dtype=float)
        slower = table[0] > _OUTLIER_RATIO * np.median(table[1:], axis=0)
        alone = table[0] > 2 * table[1:].max(axis=0)
        if (slower & alone).any():
            at = int(np.argmax(slower & alone))
            ratio = table[0, at] / np.median(table[1:, at])
            return f"request {at} of the first timed run took {ratio:.1f} times its median in the others"
    return None


def slow_first_run(runs: Sequence[float]) -> str | None:
    """Why the first timed run is slower than any busy moment of the others explains; None where it is not.

    Stricter than :func:`recompilation`: a first run that is merely the slowest may be the machine's doing. So may this
    one: that something was compiled takes further evidence.
    """
    reason = recompilation(runs)
    if reason is None or not runs[0] > _SLOW_FIRST_RATIO * max(runs[1:]):
        return None
    return f"{reason}, and more than {_SLOW_FIRST_RATIO:g} times the slowest of them"


def suspect_first_run(runs: Sequence[float]) -> str | None:
    """Why the first timed run may have compiled something, however busy the moments of the others were; None where
    nothing says so. What is suspect once is the machine's doing; what is for another shape as well is not."""
    penalty = first_run_penalty(runs)
    return None if penalty is None or penalty < _SUSPECT_RATIO else recompilation(runs)


def instability(times: Sequence[float]) -> str | None:
    """Why runs scatter too much for a small difference to be seen; None where they do not."""
    if len(times) < 2:
        return None
    spread = float(np.std(times, ddof=1) / np.mean(times))
    return f"the standard deviation is {spread:.0%} of the mean" if spread > _UNSTABLE else None
