"""How far scores agree: each number against an independent way to compute it."""

import math
from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_multiitem.comparison.decision.agreement import agreement


def firsts(*scores):
    """Scores [N, 2] of a first label."""
    return [[p, 1 - p] for p in scores]


def tau_b(a, b):
    """Kendall's tau-b, pair by pair."""
    pairs = list(combinations(range(len(a)), 2))
    signs = [(np.sign(a[i] - a[j]), np.sign(b[i] - b[j])) for i, j in pairs]
    untied = [sum(s[side] != 0 for s in signs) for side in (0, 1)]
    return sum(x * y for x, y in signs) / math.sqrt(untied[0] * untied[1])


def mean_ndcg(order, gains, at=10):
    """NDCG, averaged over every way to break the ties of an order."""

    def dcg(items):
        return sum(gains[item] / math.log2(rank + 2) for rank, item in enumerate(items[:at]))

    valid = [
        p for p in permutations(range(len(order))) if all(order[p[i]] >= order[p[i + 1]] for i in range(len(p) - 1))
    ]
    return np.mean([dcg(p) for p in valid]) / dcg(sorted(range(len(gains)), key=lambda i: -gains[i]))


def test_differences_in_numbers():
    found = agreement([[0.2, 0.8], [0.5, 0.5]], [[0.3, 0.7], [0.5, 0.5]], noise_floor=0.001)
    assert found.max_abs_diff == pytest.approx(0.1) and found.mean_abs_diff == pytest.approx(0.05)
    assert found.noise_floor == 0.001 and found.problem is None
    assert found.score_spread == pytest.approx(0.2)  # of theirs


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ([[0.2]], [[0.5]], math.log(0.2 / 0.8)),
        ([[0.2, 0.8]], [[0.5, 0.5]], math.log(0.2 / 0.8)),
        ([[0.2, 0.3, 0.5]], [[0.5, 0.1, 0.4]], math.log(0.2 / 0.8)),
        ([[1 - 1e-12, 1e-12]], [[1 - 1e-13, 1e-13]], math.log(10)),  # 1 - p alone would lose this
    ],
)
def test_log_odds_of_the_first_label_against_the_others(ours, theirs, expected):
    found = agreement(ours, theirs)
    assert found.max_log_odds_diff == pytest.approx(abs(expected), rel=1e-6)
    assert found.mean_log_odds_diff == pytest.approx(abs(expected), rel=1e-6)


def test_log_odds_have_a_maximum_and_a_mean():
    found = agreement(firsts(0.5, 0.5), firsts(0.5, 0.75))
    assert found.max_log_odds_diff == pytest.approx(math.log(3))
    assert found.mean_log_odds_diff == pytest.approx(math.log(3) / 2)


def test_scores_of_exactly_0_or_1_are_left_out_of_log_odds_and_counted():
    found = agreement(firsts(1.0, 0.5, 0.0, 0.6), firsts(1.0, 0.5, 0.1, 0.6))
    assert found.max_log_odds_diff == 0 and found.max_abs_diff == pytest.approx(0.1)
    assert found.problem == "2 of 4 items have no finite log-odds, and are left out of them"
    only = agreement([[1.0, 0.0]], [[1.0, 0.0]])
    assert only.max_log_odds_diff is None and only.mean_log_odds_diff is None and only.max_abs_diff == 0


@pytest.mark.parametrize("seed", range(8))
def test_kendall_tau_with_ties(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(1, 6, 30) / 10, rng.integers(1, 6, 30) / 10
    found = agreement(firsts(*a), firsts(*b))
    assert found.kendall_tau == pytest.approx(tau_b(a, b))


def test_reversed_order():
    found = agreement(firsts(0.1, 0.2, 0.3), firsts(0.3, 0.2, 0.1))
    assert found.kendall_tau == pytest.approx(-1)
    assert found.top_k_overlap == {"1": 0.0}


def test_no_tau_without_an_order():
    assert agreement(firsts(0.5, 0.5, 0.5), firsts(0.1, 0.2, 0.3)).kendall_tau is None
    assert agreement(firsts(0.5), firsts(0.4)).kendall_tau is None


@pytest.mark.parametrize(
    ("ours", "theirs", "overlap"),
    [
        ((0.9, 0.8, 0.1), (0.9, 0.8, 0.1), 1.0),
        ((0.9, 0.8, 0.1), (0.8, 0.9, 0.1), 0.0),
        ((0.9, 0.9, 0.1), (0.9, 0.8, 0.1), 0.5),  # two stand first on one side
        ((0.9, 0.9, 0.1), (0.9, 0.9, 0.1), 1.0),
        ((0.9, 0.9, 0.1), (0.1, 0.2, 0.9), 0.0),
        ((0.5, 0.5, 0.5, 0.5), (0.9, 0.8, 0.7, 0.6), 0.25),  # who cannot tell items apart gets k / N
    ],
)
def test_top_1_with_ties(ours, theirs, overlap):
    assert agreement(firsts(*ours), firsts(*theirs)).top_k_overlap["1"] == overlap
    assert agreement(firsts(*theirs), firsts(*ours)).top_k_overlap["1"] == overlap


def test_top_10_and_100():
    ours = np.linspace(0.9, 0.1, 200)
    theirs = ours.copy()
    theirs[[9, 10]] = theirs[[10, 9]]  # one of ten changes
    theirs[[50, 60]] = theirs[[60, 50]]  # both within the hundred
    found = agreement(firsts(*ours), firsts(*theirs))
    assert found.top_k_overlap == {"1": 1.0, "10": 0.9, "100": 1.0}


@pytest.mark.parametrize(("items", "sizes"), [(1, ["1"]), (9, ["1"]), (10, ["1", "10"]), (100, ["1", "10", "100"])])
def test_top_k_of_no_more_than_there_are(items, sizes):
    scores = firsts(*np.linspace(0.1, 0.9, items))
    assert list(agreement(scores, scores).top_k_overlap) == sizes


@pytest.mark.parametrize("seed", range(6))
def test_ndcg_with_ties_is_the_mean_over_all_ways_to_break_them(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(1, 4, 6) / 10, rng.integers(1, 4, 6) / 10
    found = agreement(firsts(*a), firsts(*b))
    assert found.ndcg_at_10 == pytest.approx(mean_ndcg(a, b))
    assert found.ndcg_at_10_reverse == pytest.approx(mean_ndcg(b, a))


def test_ndcg_looks_at_ten_places():
    gains = np.linspace(0.9, 0.1, 30)
    swapped = gains.copy()
    swapped[[20, 25]] = swapped[[25, 20]]
    assert agreement(firsts(*swapped), firsts(*gains)).ndcg_at_10 == pytest.approx(1)
    swapped[[0, 5]] = swapped[[5, 0]]
    assert agreement(firsts(*swapped), firsts(*gains)).ndcg_at_10 < 1 - 1e-6


def test_no_ndcg_without_gains():
    found = agreement(firsts(0.1, 0.2), firsts(0.0, 0.0))
    assert found.ndcg_at_10 is None and found.ndcg_at_10_reverse is not None
    assert agreement([[0.1], [0.2]], [[-0.1], [0.2]]).ndcg_at_10 is None


def test_the_worst_items_come_with_both_scores():
    ours = np.array(firsts(*np.linspace(0.1, 0.5, 30)))
    theirs = ours.copy()
    moved = {3: 0.2, 17: 0.4, 29: 0.1}
    for item, by in moved.items():
        theirs[item] += [by, -by]
    found = agreement(ours, theirs).worst_items
    assert [item["index"] for item in found] == [17, 3, 29]
    assert found[0]["max_abs_diff"] == pytest.approx(0.4)
    assert found[0]["a"] == ours[17].tolist() and found[0]["b"] == theirs[17].tolist()
    named = agreement(ours, theirs, indices=range(100, 130)).worst_items
    assert [item["index"] for item in named] == [117, 103, 129]


def test_no_more_than_ten_worst_items():
    ours = np.array(firsts(*np.linspace(0.1, 0.5, 30)))
    found = agreement(ours, ours + np.arange(30)[:, None] / 1000).worst_items
    assert [item["index"] for item in found] == list(range(29, 19, -1))


@pytest.mark.parametrize(
    ("ours", "theirs", "words"),
    [
        (firsts(0.1, 0.2), firsts(0.1), "scores of shape [2, 2] on one side and [1, 2] on the other"),
        ([[0.1]], firsts(0.1), "scores of shape [1, 1] on one side and [1, 2] on the other"),
        ([], firsts(0.1), "scores of shape [0]; expected [items, labels]"),
        ([[]], [[]], "scores of shape [1, 0]; expected [items, labels]"),
        ([0.1, 0.2], [0.1, 0.2], "scores of shape [2]; expected [items, labels]"),
        ([[0.1, 0.9], [0.2]], firsts(0.1, 0.2), "the rows of scores have different lengths"),
        ([[0.1, None]], firsts(0.1), "no finite numbers on one side"),
        (firsts(0.1), [["a", "b"]], "hold something else than numbers"),
        (firsts(0.1, math.nan), firsts(0.1, 0.2), "the scores of 1 of 2 items are no finite numbers on one side"),
        (firsts(0.1), [[math.inf, 0.0]], "the scores of 1 of 1 items are no finite numbers on the other"),
    ],
)
def test_what_cannot_be_compared_has_no_numbers(ours, theirs, words):
    found = agreement(ours, theirs, noise_floor=0.1)
    assert words in found.problem
    assert found.max_abs_diff is None and found.mean_abs_diff is None and found.kendall_tau is None
    assert found.worst_items == [] and found.top_k_overlap == {}
    assert found.noise_floor == 0.1


def test_scores_of_other_labels_than_the_workloads():
    found = agreement(firsts(0.1), firsts(0.1), labels=[1, 2, 3])
    assert found.problem == "2 scores an item; the workload has 3 labels" and found.max_abs_diff is None
    assert agreement(firsts(0.1), firsts(0.1), labels=[1, 2]).max_abs_diff == 0


scores = st.integers(2, 30).flatmap(
    lambda n: st.tuples(*(st.lists(st.integers(1, 99).map(lambda p: p / 100), min_size=n, max_size=n),) * 2)
)


@settings(deadline=None, max_examples=60)
@given(scores, st.randoms(use_true_random=False))
def test_sides_and_items_may_be_swapped(pair, random):
    a, b = (np.array(firsts(*side)) for side in pair)
    one, other = agreement(a, b), agreement(b, a)
    order = list(range(len(a)))
    random.shuffle(order)
    moved = agreement(a[order], b[order])
    for found in (other, moved):
        assert found.max_abs_diff == one.max_abs_diff
        assert found.mean_abs_diff == pytest.approx(one.mean_abs_diff)
        assert found.max_log_odds_diff == pytest.approx(one.max_log_odds_diff)
        assert found.kendall_tau == (None if one.kendall_tau is None else pytest.approx(one.kendall_tau))
        assert found.top_k_overlap == one.top_k_overlap
    assert (other.ndcg_at_10, other.ndcg_at_10_reverse) == (one.ndcg_at_10_reverse, one.ndcg_at_10)
    assert moved.ndcg_at_10 == pytest.approx(one.ndcg_at_10)


@settings(deadline=None, max_examples=30)
@given(scores)
def test_a_side_agrees_with_itself(pair):
    side = firsts(*pair[0])
    found = agreement(side, side)
    assert (found.max_abs_diff, found.mean_abs_diff, found.max_log_odds_diff) == (0, 0, 0)
    assert found.kendall_tau is None if len(set(pair[0])) == 1 else found.kendall_tau == pytest.approx(1)
    assert set(found.top_k_overlap.values()) == {1.0}
    assert found.ndcg_at_10 == pytest.approx(1) and found.worst_items == []
