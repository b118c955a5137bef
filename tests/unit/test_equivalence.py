"""The equivalence gate against servers in memory, healthy and not."""

import numpy as np
import pytest
from stub_targets import (
    DELIMITER,
    StubSubject,
    baseline,
    extender,
    hashed,
    leaking,
    make_case,
    multi,
    packed,
    packed_query_prefix,
    serial,
)

from pytest_multiitem.gates.equivalence import EQUIVALENCE, EQUIVALENCE_AT_FLOOR, measure, measure_at_floor
from pytest_multiitem.gates.record import record_of
from pytest_multiitem.results.details import WorstItem
from pytest_multiitem.results.records import Verdict
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.transport.client import FailureKind, ScoreFailure

CASES = (make_case(7, name="seven"), make_case(4, seed=2, name="four"))


def check(target, cases=CASES, *, reference=None):
    reference = reference or baseline()
    return record_of(EQUIVALENCE, measure(StubSubject(cases, multi=target, serial=reference)))


def test_a_healthy_server_passes():
    record = check(multi())
    assert record.verdict is Verdict.PASS, record.reason
    assert record.value == 0.0 and record.details.mean_abs_diff == 0.0
    assert record.samples == {"cases": 2, "items": 11}
    assert record.details.query_only_max_abs_diff > 0.02, "the visible delimiter must change scores"


@pytest.mark.parametrize("target", [multi(packed_query_prefix, semantics=Semantics.QUERY_PREFIX), extender()])
def test_each_semantics_is_compared_with_its_own_reference(target):
    record = check(target)
    assert record.verdict is Verdict.PASS, record.reason
    assert record.value == record.details.query_only_max_abs_diff == 0.0


def test_the_serial_server_is_asked_with_the_delimiter_and_without():
    """For the value, for how visible a leak would be, and for how far the semantics are apart; all tokens are ids."""
    reference = baseline()
    check(multi(), reference=reference)
    queries = {query for query, _, _ in reference.client.requests}
    assert queries > {query for case in CASES for query in (case.query, (*case.query, DELIMITER))}
    assert all(isinstance(token, int) for query in queries for token in query)


def test_another_semantics_than_the_declared_one_fails():
    assert check(multi(packed, semantics=Semantics.QUERY_PREFIX)).verdict is Verdict.FAIL
    assert check(multi(packed_query_prefix)).verdict is Verdict.FAIL


@pytest.mark.parametrize("shift", [0.019, 0.021])
def test_the_value_is_the_largest_difference_of_all(shift):
    def scores(query, items, labels):
        found = packed(query, items, labels)
        found[-1, 0] += shift * (query == CASES[1].query)
        return found

    record = check(multi(scores))
    assert record.value == pytest.approx(shift)
    assert record.verdict is (Verdict.FAIL if shift > 0.02 else Verdict.PASS)
    assert record.details.worst == WorstItem(max_abs_diff=record.value, case="four", item=3)


FAULTS = {
    "plain causal attention": leaking(lambda i, j, n: j < i),
    "a leak into the next item": leaking(lambda i, j, n: j == i - 1),
    "permuted items": lambda *request: packed(*request)[::-1],
    "swapped labels": lambda *request: packed(*request)[:, ::-1],
    "one token too early": lambda q, items, labels: packed(q, [item[:-1] for item in items], labels),
    "items ignored": lambda q, items, labels: np.tile(hashed(q, labels), (len(items), 1)),
    "a constant": lambda q, items, labels: np.full((len(items), 2), 0.5),
    "softmax over the items": lambda *request: packed(*request) / packed(*request).sum(axis=0),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_fails(fault):
    record = check(multi(FAULTS[fault]))
    assert record.verdict is Verdict.FAIL and record.value > 0.02


def test_a_constant_on_both_sides_is_no_pass():
    def constant(query, items, labels):
        return np.full((len(items), 2), 0.5)

    record = check(multi(constant), reference=baseline(constant))
    assert record.value == 0.0 and record.verdict is Verdict.INCONCLUSIVE


def test_noise_of_either_side_counts():
    rng = np.random.default_rng(0)

    def noisy(scores):
        return lambda *request: scores(*request) + 0.05 * rng.choice([-1, 1], (len(request[1]), 1))

    for target, reference in ((multi(noisy(packed)), baseline()), (multi(), baseline(noisy(serial)))):
        record = check(target, reference=reference)
        assert record.verdict is Verdict.INCONCLUSIVE
        assert record.noise_floor == pytest.approx(0.1)


def test_one_item_cases_cannot_show_a_violation():
    record = check(multi(), [make_case(1), make_case(1, seed=5)])
    assert record.verdict is Verdict.INCONCLUSIVE and record.value == 0.0
    assert record.leak_visibility is None and record.score_spread is None


def test_only_the_packed_requests_are_attested():
    """The replays and references must not count as executed by somebody else."""
    assert check(multi(executed="segment")).reason == "dense was requested, but the server executed segment"
    record = check(multi(executed=None))
    assert record.mask_attested == "unattested" and record.mask_requested == "dense"


@pytest.mark.parametrize("side", ["multi", "serial"])
def test_a_request_that_fails_ends_the_measurement(side):
    def broken(query, items, labels):
        raise ScoreFailure(FailureKind.TIMEOUT, "no answer")

    target, reference = (multi(broken), baseline()) if side == "multi" else (multi(), baseline(broken))
    with pytest.raises(ScoreFailure, match=r"timeout: .* http://stub: no answer"):
        check(target, reference=reference)


# -- at the floor ------------------------------------------------------------------------------


def check_at_floor(target, *, reference=None, dtype="float32"):
    reference = reference or baseline()
    for each in (target, reference):
        each.described = {"dtype": dtype} if dtype else {"model_path": "stub"}
    subject = StubSubject(CASES, multi=target, serial=reference)
    return record_of(EQUIVALENCE_AT_FLOOR, measure_at_floor(subject))


def off_by(shift):
    def scores(query, items, labels):
        found = packed(query, items, labels)
        found[-1, 0] += shift
        return found

    return scores


@pytest.mark.parametrize(
    ("dtype", "shift", "expected"),
    [
        ("float32", 1e-6, Verdict.PASS),
        ("float32", 0.99e-4, Verdict.PASS),
        ("float32", 1.01e-4, Verdict.FAIL),
        ("float32", 0.0148, Verdict.FAIL),
        ("bfloat16", 0.0148, Verdict.PASS),
        ("bfloat16", 0.0201, Verdict.FAIL),
        (None, 0.0148, Verdict.PASS),
        (None, 0.0201, Verdict.FAIL),
    ],
)
def test_the_precision_says_what_two_ways_to_a_score_may_differ_by(dtype, shift, expected):
    record = check_at_floor(multi(off_by(shift)), dtype=dtype)
    assert record.verdict is expected, record.reason
    assert record.details.limit == (1e-4 if dtype == "float32" else 0.02)
    contract = check(multi(off_by(shift)))
    assert contract.verdict is (Verdict.FAIL if shift > 0.02 else Verdict.PASS), "the contract's line stays"


def test_a_fault_below_the_contracts_line_is_seen_by_a_large_margin():
    """Such as own delimiters that are visible: 0.01 on the built-in model."""
    record = check_at_floor(multi(off_by(0.012)))
    assert record.verdict is Verdict.FAIL and record.value > 100 * record.details.limit
    assert check(multi(off_by(0.012))).verdict is Verdict.PASS


def test_a_measured_floor_raises_the_limit():
    """Serial batches that round as much as the packed side does, although the server says float32."""

    def batches(query, items, labels):
        return serial(query, items, labels) + 5e-4 * (len(items) == 6)

    record = check_at_floor(multi(off_by(2e-3)), reference=baseline(batches))
    assert record.verdict is Verdict.PASS, record.reason
    assert record.details.serial_batch_floor == pytest.approx(5e-4)
    assert record.details.limit == pytest.approx(5e-3) and "10 times the floor" in record.reason


def test_a_floor_that_is_too_high_decides_nothing():
    def batches(query, items, labels):
        return serial(query, items, labels) + 5e-3 * (len(items) == 6)

    record = check_at_floor(multi(off_by(2e-3)), reference=baseline(batches))
    assert record.verdict is Verdict.INCONCLUSIVE and "too high to judge by" in record.reason


def test_a_floor_is_measured_only_where_it_decides():
    target = multi(off_by(1e-6))
    record = check_at_floor(target)
    assert record.details.serial_batch_floor is record.details.shape_floor is None
    assert max(len(item) for _, items, _ in target.client.requests for item in items) < 10, "no length was tried"


def test_a_constant_on_both_sides_is_no_pass_at_the_floor_either():
    def constant(query, items, labels):
        return np.full((len(items), 2), 0.5)

    assert check_at_floor(multi(constant), reference=baseline(constant)).verdict is Verdict.INCONCLUSIVE
