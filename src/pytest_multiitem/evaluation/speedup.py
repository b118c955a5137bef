"""The speed-up of two sides that were timed apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pytest_multiitem.evaluation.records import SpeedPoint, Timing

_RESAMPLES = 10_000
_SEED = 20_260_101


def speed_point(multi: Timing, serial: Timing) -> SpeedPoint:
    """One N on both sides; every value comes from the latencies."""
    from pytest_multiitem.bench.statistics import p50

    return SpeedPoint(
        speedup_vs_serial_p50=p50(serial.latencies_sec) / p50(multi.latencies_sec),
        multi_p50_sec=multi.p50_sec,
        multi_p95_sec=multi.p95_sec,
        serial_p50_sec=serial.p50_sec,
        serial_p95_sec=serial.p95_sec,
        multi_items_per_sec_p50=multi.items_per_sec_p50,
        serial_items_per_sec_p50=serial.items_per_sec_p50,
        multi_latencies_sec=multi.latencies_sec,
        serial_latencies_sec=serial.latencies_sec,
        speedup_interval_95=unpaired_interval(serial.latencies_sec, multi.latencies_sec),
    )


def unpaired_interval(numerator: Sequence[float], denominator: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of median(numerator) / median(denominator) over independent samples.

    A seeded percentile bootstrap of each sample on its own (Efron, 1979): unlike `bench.statistics.ratio_interval`,
    whose runs share their blocks. None below three samples of either.
    """
    if min(len(numerator), len(denominator)) < 3:
        return None
    from scipy.stats import bootstrap

    result = bootstrap(
        (np.asarray(numerator), np.asarray(denominator)),
        lambda a, b, axis: np.median(a, axis=axis) / np.median(b, axis=axis),
        paired=False,
        vectorized=True,
        n_resamples=_RESAMPLES,
        confidence_level=0.95,
        method="percentile",
        rng=np.random.default_rng(_SEED),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)
