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


def test_how_many_samples_a_percentile_needs():
    """The contract's own figures (MLPerf LoadGen): below them, the percentile may lie above every sample."""
    assert statistics.required_samples(95) == statistics.P95_SAMPLES == 90
    assert statistics.required_samples(99) == statistics.required_samples(1) == 459
    for percent in (50, 75, 90, 95, 99):
        needed = statistics.required_samples(percent)
        assert 1 - (percent / 100) ** needed >= 0.99 > 1 - (percent / 100) ** (needed - 1)


def test_percentiles_that_the_samples_do_not_support_are_null_with_the_reason():
    found = statistics.percentiles(range(1, 61))
    assert found["p50"] == 30.5 and found["p90"] == pytest.approx(54.1) and found["samples"] == 60
    assert found["p95"] is found["p99"] is None
    assert found["reasons"] == {"p95": "60 samples; 90 are needed", "p99": "60 samples; 459 are needed"}
    assert statistics.percentiles([])["p50"] is None


@pytest.mark.parametrize("count", [5, 7])
def test_few_pairs_give_the_widest_interval_there_is(count):
    """Of five pairs all ratios lie in [min, max] with 94 %, of seven with 98 %: nothing narrower is at 95 %."""
    ratios = np.linspace(0.9, 1.3, count)
    assert ratio_interval(ratios, np.ones(count)) == pytest.approx((0.9, 1.3))


@pytest.mark.parametrize("count", [5, 7, 15])
def test_no_difference_is_rarely_taken_for_one(count):
    """Pairs of equal sides, with drift that both share: the interval excludes 1 in about one of 20 at most."""
    rng = np.random.default_rng(count)
    trials, wrong = 120, 0
    for _ in range(trials):
        drift = np.exp(np.cumsum(rng.normal(0, 0.05, count)))
        a, b = drift * rng.lognormal(0, 0.05, count), drift * rng.lognormal(0, 0.05, count)
        low, high = ratio_interval(a, b)
        wrong += not low <= 1 <= high
    # Binomial(120, 0.065): five pairs can do no better; 17 or more come once in 1,000.
    assert wrong <= 16


@pytest.mark.parametrize(
    ("runs", "calls", "said"),
    [
        ([2.0, 2.0, 2.1, 1.9], [], None),
        ([4.0, 2.0, 2.1, 1.9], [], "the first timed run took 2.00 times the median of the others"),
        ([4.0, 2.0, 5.0, 1.9], [], None),  # not the first one alone
        ([2.8, 2.0, 2.0], [], None),
        ([2.3, 2.0, 2.0], [[1.0, 0.4], [1.0, 0.1], [1.0, 0.1]], "request 1 of the first timed run took 4.0 times"),
        ([2.3, 2.0, 2.0], [[1.0, 0.4], [1.0, 0.1], [1.0, 0.3]], None),
        ([2.3, 2.0, 2.0], [[1.0, 0.4], [1.0], [1.0, 0.1]], None),  # runs of different shapes
        ([1.0], [[1.0]], None),
        ([], [], None),
    ],
)
def test_recompilation_in_the_timed_window(runs, calls, said):
    found = statistics.recompilation(runs, calls)
    assert found is None if said is None else said in found


def test_runs_that_scatter_are_unstable():
    assert statistics.instability([1.0, 1.01, 0.99]) is None
    assert statistics.instability([1.0, 1.5, 0.8]) == "the standard deviation is 33% of the mean"
    assert statistics.instability([1.0]) is None
