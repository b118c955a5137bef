"""Rounding and leaks told apart by statistics alone: permutation tests on tables of scores by length."""

import math

import numpy as np
import pytest

from pytest_multiitem.gates.rounding import Ladder, precision_of, trend

LENGTHS = (1, 2, 3, 5, 9, 17, 33, 65, 129, 257)


def ladder(scores, lengths=LENGTHS):
    scores = np.asarray(scores, dtype=float)
    return Ladder(lengths[: len(scores)], scores, np.zeros(scores.shape[1], dtype=bool))


def noise(seed, count=3, columns=6):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((len(LENGTHS), columns)) for _ in range(count)]


def test_noise_is_no_trend_more_often_than_chance_has_it():
    found = [trend([ladder(table) for table in noise(seed)], seed=seed) for seed in range(120)]
    assert sum(each.p <= 0.05 for each in found) <= 12
    assert sum(each.p <= 0.01 for each in found) <= 4
    assert np.mean([each.p_direction for each in found]) == pytest.approx(0.5, abs=0.1)
    assert np.mean([each.p_growth for each in found]) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("columns", [[0], [0, 1, 2, 3, 4, 5]], ids=["one item", "all items"])
def test_scores_that_go_one_way_are_a_trend_below_the_size_of_the_noise(columns):
    tables = noise(1)
    for table in tables:
        table[:, columns] += np.linspace(0, 4, len(table))[:, None] * np.array([1, -1, 1, 1, -1, -1])[columns]
    found = trend([ladder(table) for table in tables], seed=1)
    assert found.p_direction <= 0.005 and found.p <= 0.01
    assert 2.5 < found.size < 8 and found.bound > found.size


def test_changes_that_grow_this_way_and_that_are_a_trend():
    rng = np.random.default_rng(2)
    tables = [rng.standard_normal((10, 6)) * np.geomspace(0.01, 4, 10)[:, None] for _ in range(3)]
    assert trend([ladder(table) for table in tables], seed=2).p_growth <= 0.005


def test_the_bound_covers_a_known_leak():
    """A leak of 1 from the shortest to the longest, under noise of the same size: 95 % of the bounds are above it."""
    covered = 0
    for seed in range(100):
        tables = noise(seed, columns=3)
        for table in tables:
            table += np.linspace(0, 1, len(table))[:, None]
        covered += trend([ladder(table) for table in tables], seed=seed).bound >= 1
    assert covered >= 95


def test_all_orders_are_tried_where_they_are_few():
    """Of 5 shapes in one ladder there are 120 orders; a perfect order and its reverse go one way."""
    found = trend([ladder(np.arange(5.0)[:, None])], seed=0)
    assert found.p_direction == pytest.approx(2 / math.factorial(5))
    assert found.p_growth == pytest.approx(2 / math.factorial(5))
    assert found.size == pytest.approx(4)


def test_shapes_that_are_computed_alike_are_one():
    """A step between two kinds of tiles is no trend, however many lengths are on its sides."""
    table = np.array([[0.0, 1.0]] * 6 + [[1e-7, 1 - 1e-7]] * 4)
    found = trend([ladder(table)] * 3, seed=0)
    assert found.p == 1.0 and found.size == found.bound == pytest.approx(1e-7)


def test_the_same_seed_gives_the_same_figures():
    ladders = [ladder(table) for table in noise(5)]
    assert trend(ladders, seed=7) == trend(ladders, seed=7)
    assert trend(ladders, seed=7).p_growth != trend(ladders, seed=8).p_growth


def test_one_item_alone_is_no_ladder():
    assert trend([], seed=0).p == 1.0


@pytest.mark.parametrize(
    ("dtype", "device", "floor", "known", "exact"),
    [
        ("float32", "cpu", 1e-6, True, True),
        ("torch.float32", "cuda", 1e-6, True, True),
        ("float32", "TPU v5e", 2**-8, True, False),
        ("bfloat16", None, 2**-8, True, False),
        ("float16", "cuda", 5e-4, True, False),
        (None, "cpu", 1e-6, False, False),
        ("fp8_e4m3", "cuda", 1e-6, False, False),
    ],
)
def test_precisions(dtype, device, floor, known, exact):
    found = precision_of(dtype, device)
    assert (found.floor, found.known, found.exact) == (floor, known, exact)
    assert found.most == (1e-4 if exact else 0.02)
