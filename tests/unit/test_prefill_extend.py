"""The prefill+extend replay gate against servers in memory."""

import numpy as np
import pytest
from stub_targets import StubSubject, extender, make_case, packed_query_prefix

from pytest_multiitem.gates.prefill_extend import NUM_ITEMS, PREFILL_EXTEND_REPLAY, measure
from pytest_multiitem.gates.record import record_of
from pytest_multiitem.results.records import Verdict

CASE = make_case(NUM_ITEMS)


def check(target, case=CASE):
    return record_of(PREFILL_EXTEND_REPLAY, measure(StubSubject([case], extend=target)))


def second_run(change):
    """A server whose second answer is changed: it reads the cache that the first one filled."""
    runs = iter(range(99))

    def scores(*request):
        found = packed_query_prefix(*request)
        return change(found) if next(runs) else found

    return scores


def balanced(by):
    def change(found):
        found[5] += by, -by
        return found

    return change


def test_a_healthy_server_passes():
    target = extender()
    record = check(target)
    assert record.verdict is Verdict.PASS, record.reason
    assert record.value == 0.0 and record.samples == {"runs": 2, "items": 24}
    assert record.mask_attested == "prefill+extend"
    assert len(target.client.requests) == 2 and target.client.requests[0] == target.client.requests[1]


@pytest.mark.parametrize(("by", "expected"), [(0.9e-4, Verdict.PASS), (1.1e-4, Verdict.FAIL), (0.3, Verdict.FAIL)])
def test_a_second_run_that_differs(by, expected):
    record = check(extender(second_run(balanced(by))))
    assert record.verdict is expected and record.value == pytest.approx(by)


@pytest.mark.parametrize(("off", "expected"), [(4e-6, Verdict.PASS), (7e-6, Verdict.FAIL), (-7e-6, Verdict.FAIL)])
@pytest.mark.parametrize("run", ["first", "second", "both"])
def test_rows_sum_to_one_to_five_places(off, expected, run):
    def change(found):
        found[-1, 0] += off
        return found

    scores = {
        "both": lambda *request: change(packed_query_prefix(*request)),
        "second": second_run(change),
        "first": second_run(lambda found: found),
    }[run]
    if run == "first":
        inner, calls = scores, iter(range(9))
        scores = lambda *request: inner(*request) if next(calls) else change(inner(*request))  # noqa: E731
    record = check(extender(scores))
    assert record.verdict is expected
    assert ("sums to 1" in record.reason) is (expected is Verdict.FAIL)


def test_permuted_items_of_a_cached_run_fail():
    assert check(extender(second_run(lambda found: found[::-1]))).verdict is Verdict.FAIL


def test_a_constant_answer_is_no_pass():
    record = check(extender(lambda query, items, labels: np.full((len(items), 2), 0.5)))
    assert record.value == 0.0 and record.verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("executed", ["dense", "segment", "serial"])
def test_another_path_than_prefill_extend_fails(executed):
    record = check(extender(executed=executed))
    assert record.verdict is Verdict.FAIL
    assert record.reason == f"prefill+extend was requested, but the server executed {executed}"


def test_a_server_that_attests_nothing_is_recorded_as_such():
    assert check(extender(executed=None)).mask_attested == "unattested"
