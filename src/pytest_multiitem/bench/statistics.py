"""Statistics of timings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

#: A p95 stated with 99 % confidence needs this many samples (MLPerf LoadGen); fewer are interpolated.
P95_SAMPLES = 90
_RESAMPLES = 10_000
_SEED = 20_260_101


def p50(seconds: Sequence[float]) -> float:
    """The median."""
    return float(np.median(seconds))


def p95(seconds: Sequence[float]) -> float:
    """The 95th percentile, linearly interpolated; no real p95 below :data:`P95_SAMPLES` samples."""
    return float(np.percentile(seconds, 95))


def ratio_interval(
    numerator: Sequence[float], denominator: Sequence[float], *, paired: bool = True
) -> tuple[float, float] | None:
    """The 95 % interval of median(numerator) / median(denominator).

    A seeded percentile bootstrap (Efron, 1979): over pairs that were measured in the same block, or, where the
    two sides were timed apart, of each sample on its own. None below three samples of either.
    """
    if min(len(numerator), len(denominator)) < 3:
        return None
    from scipy.stats import bootstrap

    result = bootstrap(
        (np.asarray(numerator), np.asarray(denominator)),
        lambda a, b, axis: np.median(a, axis=axis) / np.median(b, axis=axis),
        paired=paired,
        vectorized=True,
        n_resamples=_RESAMPLES,
        confidence_level=0.95,
        method="percentile",
        rng=np.random.default_rng(_SEED),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)
