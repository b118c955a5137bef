"""Agreement between two servers in memory."""

import math

import numpy as np
import pytest
from stub_targets import DELIMITER, StubSubject, baseline, hashed, leaking, make_case, multi, packed, serial

from pytest_multiitem.gates import parity
from pytest_multiitem.gates.record import record_of
from pytest_multiitem.results.records import Verdict

CASES = (make_case(7, name="seven"), make_case(4, seed=2, name="four"))


def check(left, right, *, gate=parity.CROSS_BACKEND_MAX_ABS, cases=CASES, samples=None, chunk=None):
    samples = [] if samples is None else samples
    compared = parity.compare(StubSubject(cases, record=samples.append), left, right, chunk)
    return record_of(gate, parity.by_mean(compared) if gate is parity.CROSS_BACKEND_MEAN_ABS else compared)


def asked(target):
    """The queries of all requests but those of traffic, which are shorter or turned round."""
    return {query for query, _, _ in target.client.requests if query[:3] in {case.query[:3] for case in CASES}}


def shifted(scores, by):
    """``scores``, with the last item's first score moved."""

    def moved(query, items, labels):
        found = scores(query, items, labels)
        found[-1, 0] += by
        return found

    return moved


def test_equal_servers_agree():
    record = check(baseline(), baseline())
    assert record.verdict is Verdict.PASS, record.reason
    assert record.value == 0.0 and record.samples == {"cases": 2, "items": 11}
    assert record.backend == "stub" and record.mask_attested == "serial"


def test_a_packed_side_is_compared_with_its_own_context():
    right = baseline()
    assert check(multi(), right).verdict is Verdict.PASS
    assert asked(right) == {(*case.query, DELIMITER) for case in CASES}


def test_a_serial_side_is_compared_with_the_plain_query():
    right = baseline()
    check(baseline(), right)
    assert asked(right) == {case.query for case in CASES}


@pytest.mark.parametrize(
    ("gate", "limit"),
    [(parity.CROSS_BACKEND_MAX_ABS, 0.02), (parity.SEGMENT_VS_DENSE, 1e-4)],
    ids=["max_abs", "segment_vs_dense"],
)
def test_a_larger_difference_fails(gate, limit):
    inside, outside = (
        check(multi(shifted(packed, by)), multi(mask="segment"), gate=gate) for by in (limit * 0.99, limit * 1.01)
    )
    assert inside.verdict is Verdict.PASS and outside.verdict is Verdict.FAIL
    assert outside.value == pytest.approx(limit * 1.01)


def test_the_mean_is_of_all_scores():
    record = check(multi(shifted(packed, 0.11)), multi(), gate=parity.CROSS_BACKEND_MEAN_ABS)
    assert record.value == pytest.approx(2 * 0.11 / 22) and record.verdict is Verdict.PASS
    assert record.details.max_abs_diff == pytest.approx(0.11)
    record = check(multi(lambda *r: packed(*r) + 0.011), multi(), gate=parity.CROSS_BACKEND_MEAN_ABS)
    assert record.value == pytest.approx(0.011) and record.verdict is Verdict.FAIL


@pytest.mark.parametrize(
    "fault",
    [
        leaking(lambda i, j, n: j < i),
        lambda *request: packed(*request)[::-1],
        lambda q, items, labels: np.tile(hashed(q, labels), (len(items), 1)),
    ],
    ids=["leak", "permuted", "items ignored"],
)
@pytest.mark.parametrize("broken", ["left", "right"])
def test_a_fault_on_one_side_fails(fault, broken):
    left, right = (multi(fault), multi()) if broken == "left" else (multi(), multi(fault))
    assert check(left, right).verdict is Verdict.FAIL


def test_two_constants_agree_about_nothing():
    def constant(query, items, labels):
        return np.full((len(items), 2), 0.5)

    record = check(baseline(constant), baseline(constant))
    assert record.value == 0.0 and record.verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("side", ["left", "right"])
def test_noise_of_either_side_counts(side):
    rng = np.random.default_rng(0)

    def noisy(*request):
        return serial(*request) + 0.05 * rng.choice([-1, 1], (len(request[1]), 1))

    sides = (baseline(noisy), baseline()) if side == "left" else (baseline(), baseline(noisy))
    record = check(*sides)
    assert record.verdict is Verdict.INCONCLUSIVE and record.noise_floor == pytest.approx(0.1)


@pytest.mark.parametrize("chunk", [1, 3, 7, 32])
def test_client_chunks_cover_every_item_in_order(chunk):
    left = multi()
    record = check(left, multi(), chunk=chunk, cases=CASES[:1])
    assert record.verdict is Verdict.PASS and record.client_chunk_size == chunk
    requests = list(dict.fromkeys(items for query, items, _ in left.client.requests if query == CASES[0].query))
    assert len(requests) == math.ceil(7 / chunk), "one of them is replayed, for the floor"
    assert tuple(item for items in requests for item in items) == CASES[0].items
    assert max(map(len, requests)) == min(chunk, 7)


def test_every_chunk_is_attested():
    """A server that computes the second request of a case otherwise is seen."""

    def scores(query, items, labels):
        if items[0] == CASES[0].items[3] and query == CASES[0].query:
            left.client.executed = "segment"
        return packed(query, items, labels)

    left = multi(scores)
    assert check(left, multi(), cases=CASES[:1]).verdict is Verdict.PASS
    left = multi(scores)
    record = check(left, multi(), chunk=3, cases=CASES[:1])
    assert record.verdict is Verdict.FAIL
    assert record.reason == "dense was requested, but the server executed dense+segment"


def test_the_visibility_of_a_leak_is_measured_in_the_context_of_the_packed_side():
    left, reference = multi(), baseline()
    parity.compare(StubSubject(CASES, hand=reference), left, multi(mask="segment"))
    assert {query for query, _, _ in reference.client.requests} == {(*case.query, DELIMITER) for case in CASES}


@pytest.mark.parametrize("dense_runs", ["segment", "serial"])
def test_dense_compared_with_dense_fails(dense_runs):
    record = check(multi(mask="segment", executed="dense"), multi(), gate=parity.SEGMENT_VS_DENSE)
    assert record.verdict is Verdict.FAIL
    assert record.reason == "segment was requested, but the server executed dense"
    record = check(multi(mask="segment"), multi(executed=dense_runs), gate=parity.SEGMENT_VS_DENSE)
    assert record.verdict is Verdict.FAIL
    assert record.mask_attested == ("segment" if dense_runs == "segment" else "segment vs serial")


def test_both_mismatches_are_named():
    record = check(multi(mask="segment", executed="dense"), multi(executed="segment"), gate=parity.SEGMENT_VS_DENSE)
    assert "segment was requested" in record.reason and "dense was requested" in record.reason
    assert record.mask_attested == "dense vs segment"


def test_a_serial_server_at_hand_says_how_visible_a_leak_would_be():
    compared = [
        parity.compare(StubSubject(CASES, hand=serial), multi(), multi(mask="segment")) for serial in (None, baseline())
    ]
    without, beside = (record_of(parity.SEGMENT_VS_DENSE, each) for each in compared)
    assert without.verdict is beside.verdict is Verdict.PASS
    assert without.leak_visibility is None and beside.leak_visibility > 0.1
    assert without.traffic_floor == 0.0


def test_no_cases_measure_nothing():
    measurement = parity.compare(StubSubject([]), baseline(), baseline())
    assert measurement.value is None and measurement.details.mean_abs_diff is None


def test_both_sides_are_recorded():
    samples = []
    check(multi(), baseline(), samples=samples)
    assert [s["case"] for s in samples if s["kind"] == "comparison"] == ["seven", "four"]
    assert {s["server"] for s in samples if s["kind"] == "scores"} == {"multi-item stub dense", "serial stub"}
    compared = next(s for s in samples if s["kind"] == "comparison")
    assert compared["left_scores"] == compared["right_scores"]
