"""Length isolation against servers in memory: rounding is left alone, leaks of positions and masks are not."""

import numpy as np
import pytest
from stub_targets import StubSubject, baseline, hashed, leaking, make_case, multi, packed, serial
from test_content_isolation import shape_noise

from pytest_multiitem.gates.isolation import CHANGED_LENGTH
from pytest_multiitem.gates.length_isolation import GROWTH, LENGTH_ISOLATION
from pytest_multiitem.gates.record import record_of
from pytest_multiitem.results.records import Verdict
from pytest_multiitem.transport.client import FailureKind, ScoreFailure

CASES = (make_case(7, name="seven"), make_case(4, seed=2, name="four"))


def served(scores, dtype="float32"):
    target = multi(scores)
    target.described = {"dtype": dtype} if dtype else {"model_path": "stub"}
    return target


def check(target, gate=LENGTH_ISOLATION, *, reference=None, cases=CASES, seed=3):
    subject = StubSubject(cases, multi=target, serial=reference or baseline(), seed=seed)
    return record_of(gate, gate.measure(subject))


def positions(share, size=0.0):
    """Scores follow how many tokens stand before an item, by ``share`` of a score for each hundred."""

    def scores(query, items, labels):
        found = packed(query, items, labels)
        before = np.cumsum([0, *map(len, items)])[: len(items)]
        return found + np.stack([share * before / 100, -share * before / 100], axis=1)

    return shape_noise(scores, size)


def test_a_healthy_server_passes_with_its_evidence():
    record = check(multi())
    assert record.verdict is Verdict.PASS and record.value == 0.0
    assert record.shape_floor is None and record.leak_bound is None
    assert record.samples == {"requests": 3 * len(GROWTH), "items": 3 * 6}
    assert set(record.details.changes) == {str(grown) for grown in GROWTH[1:]}


@pytest.mark.parametrize(("dtype", "size"), [("float32", 3e-7), pytest.param("bfloat16", 5e-3, marks=pytest.mark.slow)])
def test_rounding_by_shape_passes_and_the_gate_that_allows_nothing_says_rounding(dtype, size):
    for seed in range(10):
        target = served(shape_noise(packed, size * (1 + seed / 1000)), dtype)
        record = check(target, seed=seed)
        assert record.verdict is Verdict.PASS, record.reason
        assert 0 < record.value <= 3 * record.shape_floor and record.leak_bound > 0
        changed = check(target, CHANGED_LENGTH, seed=seed)
        assert changed.verdict is Verdict.INCONCLUSIVE and "all of it is rounding" in changed.reason
        assert f"floor {changed.shape_floor:.3g}, content leak ≤ {changed.leak_bound:.3g}" in changed.reason


@pytest.mark.parametrize(("dtype", "size"), [("float32", 0.0), ("float32", 3e-7), ("bfloat16", 5e-3)])
def test_positions_that_are_not_reset_fail(dtype, size):
    target = served(positions(0.05, size), dtype)
    record = check(target)
    assert record.verdict is Verdict.FAIL, record.reason
    changed = check(target, CHANGED_LENGTH)
    assert changed.verdict is Verdict.FAIL and "rounding" not in changed.reason


def test_a_leak_within_the_floor_fails_by_its_trend():
    """Rounding is as large on both sides, and the leak no larger: but it grows with the length."""
    target = served(positions(0.006, 6e-3), "bfloat16")
    record = check(target)
    assert record.value <= 3 * record.shape_floor
    assert record.verdict is Verdict.FAIL and "follow the length" in record.reason
    assert record.details.p_again is not None and record.details.p_again <= 0.01


def test_rounding_of_the_size_of_a_trend_on_one_request_is_asked_again():
    """Of the first requests alone scores follow the length; of the second nothing does."""

    def scores(query, items, labels):
        return (positions(0.0001) if query == CASES[0].query else shape_noise(packed, 1e-7))(query, items, labels)

    record = check(served(scores, "bfloat16"))
    assert record.details.p_direction <= 0.005 and record.verdict is Verdict.PASS


def test_the_serial_servers_batches_are_a_floor():
    """What moves behind the changed item alone is a leak, unless batches of the serial server move as much."""

    def behind(query, items, labels):
        found = packed(query, items, labels)
        longest = next((i for i, item in enumerate(items) if len(item) > 8), len(items) - 1)
        rng = np.random.default_rng([*map(len, items)])
        found[longest + 1 :] += 2e-5 * rng.uniform(-1, 1, (len(items) - longest - 1, 1))
        return found

    record = check(served(behind))
    assert record.verdict is Verdict.FAIL and record.details.side_floor == 0.0
    batches = baseline(lambda query, items, labels: serial(query, items, labels) + 2e-5 * (len(items) > 1))
    record = check(served(behind), reference=batches)
    assert record.verdict is Verdict.PASS and record.details.serial_batch_floor == pytest.approx(2e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", None])
def test_what_one_side_shows_alone_is_not_decided_where_the_precision_may_do_it(dtype):
    def behind(query, items, labels):
        found = packed(query, items, labels)
        rng = np.random.default_rng([*map(len, items)])
        found[4:] += 0.018 * rng.choice([-1, 1], (len(items) - 4, 1)) * (len(items[0]) == 1)
        return found if len(items) == 7 else packed(query, items, labels)

    record = check(served(behind, dtype))
    assert record.verdict is Verdict.INCONCLUSIVE
    assert ("may round by as much" if dtype else "does not say its precision") in record.reason


def test_more_than_float32_rounds_by_is_not_passed_as_rounding():
    record = check(served(shape_noise(packed, 5e-3)))
    assert record.verdict is Verdict.INCONCLUSIVE and "more than rounding should do" in record.reason
    changed = check(served(shape_noise(packed, 5e-3)), CHANGED_LENGTH)
    assert changed.verdict is Verdict.FAIL and changed.shape_floor is None


@pytest.mark.parametrize("leak", [lambda i, j, n: j < i, lambda i, j, n: j > i, lambda i, j, n: j == i - 1])
def test_leaks_of_content_fail_too_and_end_it_early(leak):
    target = multi(leaking(leak))
    record = check(target)
    assert record.verdict is Verdict.FAIL and record.value > 0.1
    assert record.samples["requests"] < 3 * len(GROWTH)


def test_a_leak_of_content_is_never_called_rounding():
    """As small as rounding is, beside rounding: the same shapes show it."""

    def scores(query, items, labels):
        found = packed(query, items, labels)
        found[1:, 0] += 1e-8 * np.array([sum(item) % 997 for item in items[:-1]]) / 997
        return found

    changed = check(served(shape_noise(scores, 3e-7)), CHANGED_LENGTH)
    assert changed.verdict is Verdict.FAIL and changed.shape_floor is None


def test_growth_ends_where_the_server_does():
    target = multi()
    target.described = {"max_multi_item_seq_len": 110, "dtype": "float32"}
    record = check(target)
    assert record.verdict is Verdict.PASS and max(map(int, record.details.changes)) == 32
    assert all(len(q) + 1 + sum(len(i) + 1 for i in items) <= 110 for q, items, _ in target.client.requests[-30:])


@pytest.mark.parametrize(("limit", "passes"), [(70, True), (10, False)])
def test_growth_ends_at_a_refusal_of_what_is_long(limit, passes):
    def scores(query, items, labels):
        if max(map(len, items)) > limit:
            raise ScoreFailure(FailureKind.HTTP_ERROR, "too long", 400)
        return packed(query, items, labels)

    if passes:
        assert max(map(int, check(multi(scores)).details.changes)) == 64
    else:
        with pytest.raises(ScoreFailure):
            check(multi(scores))


def test_noise_that_replays_have_is_no_leak():
    rng = np.random.default_rng(0)
    target = served(lambda q, items, labels: packed(q, items, labels) + 1e-5 * rng.choice([-1, 1], (len(items), 1)))
    record = check(target)
    assert record.verdict is Verdict.PASS and record.shape_floor == pytest.approx(2e-5)


def test_a_model_on_which_no_leak_would_show_decides_nothing():
    def last_token(query, items, labels):
        return np.array([hashed(item[-1:], labels) for item in items])

    record = check(multi(last_token), reference=baseline(last_token))
    assert record.verdict is Verdict.INCONCLUSIVE and "a leak would not show" in record.reason


def test_single_items_say_nothing():
    record = check(multi(), cases=[make_case(1)])
    assert record.verdict is Verdict.INCONCLUSIVE and record.value is None


def test_shapes_may_round_that_the_ladders_did_not_meet():
    """Only requests of seven items without a single token round: those of the other gate."""

    def scores(query, items, labels):
        found = packed(query, items, labels)
        met = len(items) == 7 and min(map(len, items)) > 1 and max(map(len, items)) < 60
        return found + 3e-4 * met * np.sin(sum(map(len, items))) * (len(items[0]) == len(CASES[0].items[0]))

    target = served(scores, "bfloat16")
    changed = check(target, CHANGED_LENGTH)
    assert changed.value > 0 and changed.verdict is Verdict.INCONCLUSIVE and "all of it is rounding" in changed.reason
    assert changed.shape_floor == 2**-8


def test_an_order_of_blocks_is_no_leak_where_it_is_smaller_than_rounding():
    """As a plain packed engine rounds: the same for all that is long."""

    def scores(query, items, labels):
        found = packed(query, items, labels)
        before = np.cumsum([0, *map(len, items)])[: len(items), None]
        return found + 3e-9 * np.minimum(before, 100) * np.array([1, -1])

    record = check(served(scores))
    assert record.details.p_direction <= 0.005 and record.verdict is Verdict.PASS
    assert f"p = {2 * min(record.details.p_direction, record.details.p_growth):.2g}" in record.reason
