"""Statistics of timings."""

import math

import numpy as np
import pytest

from pytest_multiitem.bench import statistics
from pytest_multiitem.bench.statistics import p50, p95, ratio_interval


def test_percentiles():
    assert p50([3.0, 1.0, 2.0]) == 2.0 and p50([1.0, 2.0]) == 1.5
    assert p95(range(101)) == 95.0 and p95([7.0]) == p50([7.0]) == 7.0


def test_the_interval_encloses_a_clear_ratio():
    rng = np.random.default_rng(1)
    serial, multi = 4.0 + rng.normal(0, 0.1, 9), 1.0 + rng.normal(0, 0.02, 9)
    low, high = ratio_interval(serial, multi)
    assert low < 4.0 < high and low > 3.7 and high < 4.3
    assert low <= p50(serial) / p50(multi) <= high


def test_it_is_deterministic():
    rng = np.random.default_rng(2)
    serial, multi = rng.lognormal(1, 0.3, 7), rng.lognormal(0, 0.3, 7)
    assert ratio_interval(serial, multi) == ratio_interval(list(serial), list(multi))


def test_pairs_stay_together():
    """A slow moment of the machine hits both sides of a block; the ratio of each block is exactly 3."""
    multi = np.array([1.0, 5.0, 1.5, 9.0, 2.0, 1.1, 4.0])
    assert ratio_interval(3.0 * multi, multi) == pytest.approx((3.0, 3.0))


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_pairs_give_no_interval(count):
    assert ratio_interval([2.0] * count, [1.0] * count) is None


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("count", [3, 5, 50])
def test_equal_times_give_a_point(count):
    assert ratio_interval([6.0] * count, [2.0] * count) == (3.0, 3.0)


def test_unpaired_samples_are_refused():
    with pytest.raises(ValueError):
        ratio_interval([1.0] * 5, [1.0] * 4)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_side_without_duration_is_not_finite():
    low, high = ratio_interval([1.0] * 5, [0.0] * 5)
    assert not math.isfinite(low) and not math.isfinite(high)


def test_about_95_percent_of_the_intervals_cover_the_true_ratio(monkeypatch):
    """A percentile bootstrap of medians is rough on few samples; on 25 pairs it must be near its level."""
    monkeypatch.setattr(statistics, "_RESAMPLES", 400)
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(200):
        low, high = ratio_interval(3.0 * rng.lognormal(0, 0.2, 25), rng.lognormal(0, 0.2, 25))
        covered += low <= 3.0 <= high
    assert 0.90 <= covered / 200 <= 0.995
