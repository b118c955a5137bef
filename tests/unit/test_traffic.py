"""Requests among others: what is sent around one, and what a server does that cannot keep them apart."""

import time
from threading import Lock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stub_targets import (
    DELIMITER,
    LABELS,
    POOL,
    StubClient,
    StubSubject,
    baseline,
    hashed,
    leaking,
    make_case,
    multi,
    packed,
)

from pytest_multiitem.adapters.base import Profile
from pytest_multiitem.gates import isolation
from pytest_multiitem.gates.evidence import leak_visibility
from pytest_multiitem.gates.record import record_of
from pytest_multiitem.gates.request_isolation import REQUEST_ISOLATION, measure
from pytest_multiitem.gates.traffic import surrounded
from pytest_multiitem.results.records import Verdict
from pytest_multiitem.scoring.cases import Case, unrelated
from pytest_multiitem.targets.target import Target
from pytest_multiitem.transport.client import FailureKind, ScoreFailure

CASES = (make_case(7, name="seven"), make_case(4, seed=2, name="four"))
TOKENS = st.lists(st.sampled_from(POOL), max_size=60).map(tuple)


def measured(target, cases, record=[].append, *, serial=None):
    return measure(StubSubject(cases, multi=target, record=record, hand=serial))


def check(target, cases=CASES, **more):
    return record_of(REQUEST_ISOLATION, measured(target, cases, **more))


class BusyClient(StubClient):
    """A server to which requests come side by side: ``seen(request, others)`` scores one with those beside it."""

    def __init__(self, seen):
        super().__init__(packed, "dense")
        self._seen, self._in_flight, self._lock = seen, [], Lock()

    def score(self, query, items, labels, *, apply_softmax=True):
        request = (tuple(query), tuple(items))
        with self._lock:
            self._in_flight.append(request)
        time.sleep(0.01)
        with self._lock:
            others = [other for other in self._in_flight if other != request]
        scores = super().score(query, items, labels) + self._seen(request, others)
        time.sleep(0.01)
        with self._lock:
            self._in_flight.remove(request)
        return scores


def busy(seen):
    return Target(
        Profile("multi", "stub", "dense", 0, multi().profile.semantics), "stub", BusyClient(seen), delimiter=DELIMITER
    )


@given(
    query=st.lists(st.sampled_from(POOL), min_size=1, max_size=200).map(tuple),
    items=st.lists(TOKENS, min_size=1, max_size=9).map(tuple),
    number=st.integers(0, 20),
)
def test_a_request_of_the_traffic_is_small_valid_and_another_one(query, items, number):
    case = Case("any", query, items, LABELS, POOL)
    other = unrelated(case, number)
    assert 1 <= len(other.query) <= 48 and len(other.items) == 4
    assert all(1 <= len(item) <= 11 for item in other.items)
    known = {*query, *POOL, *(token for item in items for token in item)}
    assert DELIMITER not in known and known.issuperset([*other.query, *(t for item in other.items for t in item)])
    assert other.labels == LABELS and unrelated(case, number + 1) != other
    filled = [item for item in items if item]
    if len(set(filled)) == len(filled) > 1:
        assert other.items[0] != filled[0], "an item stands where it stood"


def test_requests_of_the_traffic_have_boundaries_of_their_own():
    equal = make_case(lengths=[20] * 8)
    lengths = [len(item) for item in unrelated(equal).items]
    assert len(set(lengths)) == len(lengths) and 20 not in lengths


def test_one_comes_before_and_two_are_beside():
    """The request waits in the server until both others have come while it was there, and it came while they were."""
    case, lines = make_case(5), []

    class Meeting(StubClient):
        connections, arrivals, beside_it = 0, [], set()

        def another(self):
            self.connections += 1
            return self

        def score(self, query, items, labels, **more):
            self.arrivals.append(query)
            deadline = time.monotonic() + 5
            while query == case.query and len(self.beside_it) < 2:
                self.beside_it = set(self.arrivals[self.arrivals.index(case.query) :]) - {query}
                assert time.monotonic() < deadline
                time.sleep(0.001)
            return StubClient.score(self, query, items, labels, **more)

    target = multi()
    target.client = Meeting(packed, "dense")
    scores = surrounded(target, case, lines.append, number=2)
    assert np.array_equal(scores, packed(case.query, case.items, case.labels))
    before, *arrivals = target.client.arrivals
    assert target.client.connections == 2 and arrivals.count(case.query) == 1
    first, second = target.client.beside_it
    assert len({before, first, second, case.query}) == 4
    assert {first, second} <= set(arrivals[: arrivals.index(case.query)])
    assert [(line["kind"], line["number"]) for line in lines] == [("surrounded", 2)]


@pytest.mark.parametrize("failing", ["before", "beside"])
def test_a_request_beside_that_fails_is_a_failure(failing):
    case = make_case(5)

    def scores(query, items, labels):
        number = 0 if failing == "before" else 2
        if query == unrelated(case, number).query:
            raise ScoreFailure(FailureKind.HTTP_ERROR, "HTTP 500: boom", 500)
        return packed(query, items, labels)

    with pytest.raises(ScoreFailure, match="boom"):
        surrounded(multi(scores), case, [].append)


def test_a_healthy_server_passes_with_its_evidence():
    record = check(multi())
    assert record.verdict is Verdict.PASS and record.value == 0.0 and record.limit == 0.02, record.reason
    assert record.noise_floor == 0.0 and record.traffic_floor is None and record.score_spread > 0.1
    assert record.leak_visibility is None and record.mask_attested == "dense" and record.items_per_sequence > 4
    assert record.samples == {"cases": 2, "rounds": 4, "items": 11}
    assert check(multi(), serial=baseline()).leak_visibility > 0.1


def with_state():
    """State of one request that is there in the next: its last item."""
    kept = [()]

    def scores(query, items, labels):
        before, kept[0] = kept[0], tuple(items[-1])
        return np.array([hashed([*query, DELIMITER, *before, *item], labels) for item in items])

    return multi(scores)


def shared_boundaries(request, others):
    """Items are cut where those of another request in the batch end."""
    query, items = request
    if not others:
        return 0.0
    lengths = [len(item) for item in others[0][1]]
    cut = [item[: lengths[i % len(lengths)]] for i, item in enumerate(items)]
    return packed(query, cut, LABELS) - packed(query, items, LABELS)


def batch_noise(amount):
    return lambda request, others: amount * len(others)


FAULTS = {
    "state of the request before": with_state,
    "boundaries shared in a batch": lambda: busy(shared_boundaries),
    "scores that depend on the size of the batch": lambda: busy(batch_noise(0.035)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_requests_that_are_not_kept_apart_fail(fault):
    """Quiet replays show nothing; without the traffic, the gates on items would pass such a server."""
    record = check(FAULTS[fault]())
    assert record.verdict is Verdict.FAIL and record.value > 0.02, record.reason
    assert record.noise_floor == 0.0 and record.details.worst[0].max_abs_diff == record.value


@pytest.mark.parametrize("fault", FAULTS)
def test_the_gates_on_items_cannot_tell_in_such_a_server(fault):
    target, reference = FAULTS[fault](), baseline()
    subject = StubSubject(CASES, multi=target, serial=reference)
    record = record_of(isolation.SAME_LENGTH, isolation.SAME_LENGTH.measure(subject))
    assert record.verdict is not Verdict.PASS and record.traffic_floor > 0.02


def test_how_a_server_answers_at_first_is_no_matter_of_requests():
    """A first answer that no later one repeats is noise of the replays, not of what else was sent."""
    known = set()

    def scores(query, items, labels):
        first = tuple(query) not in known
        known.add(tuple(query))
        return packed(query, items, labels) + 0.05 * first

    record = check(multi(scores))
    assert record.verdict is Verdict.PASS and record.value == 0.0


def test_a_small_dependence_is_within_the_limit():
    record = check(busy(batch_noise(0.005)))
    assert record.verdict is Verdict.PASS and 0.004 < record.value <= 0.02


def test_noise_that_is_there_without_traffic_decides_nothing():
    rng = np.random.default_rng(0)
    noisy = multi(lambda *request: packed(*request) + 0.04 * rng.choice([-1, 1], (len(request[1]), 1)))
    record = check(noisy)
    assert record.verdict is Verdict.INCONCLUSIVE and record.noise_floor == pytest.approx(0.08)


def test_scores_that_hardly_differ_decide_nothing():
    flat = multi(lambda query, items, labels: np.full((len(items), 2), 0.5))
    assert check(flat).verdict is Verdict.INCONCLUSIVE


def test_no_requests_measure_nothing():
    assert check(multi(), ()).verdict is Verdict.INCONCLUSIVE


def test_a_leak_between_items_is_not_this_gates_business():
    assert check(multi(leaking(lambda i, j, n: j < i))).verdict is Verdict.PASS


def test_another_mask_than_the_requested_one_fails():
    assert check(multi(executed="segment")).reason == "dense was requested, but the server executed segment"


@pytest.mark.parametrize("moved", ["seven", "four"])
def test_the_worst_of_all_requests_and_rounds_counts(moved):
    """Only one of the requests moves when others are beside it: whichever that is, the gate sees it."""
    wanted = next(case for case in CASES if case.name == moved)

    def seen(request, others):
        return 0.1 * float(bool(others) and request == (wanted.query, wanted.items))

    record = check(busy(seen))
    assert record.verdict is Verdict.FAIL and record.value == pytest.approx(0.1)
    worst = record.details.worst[0]
    assert worst.case == moved and worst.what == "among others" and worst.round >= 1
    assert worst.max_abs_diff == record.value
    assert record.samples == {"cases": 2, "rounds": 4, "items": 11}, "the smallest request has three rounds"


def test_the_smallest_request_is_that_of_the_fewest_tokens():
    many_short = make_case(5, lengths=[1] * 5, name="many short")
    few_long = make_case(2, lengths=[40, 40], name="few long")
    rounds = []
    measured(
        multi(), [few_long, many_short],
        record=lambda line: rounds.append((line["case"], line["number"])) if line["kind"] == "surrounded" else None,
    )  # fmt: skip
    assert [name for name, number in rounds if number] == ["few long"] + ["many short"] * 3
    assert [number for name, number in rounds if name == "many short" and number] == [1, 2, 3]


def test_the_smallest_request_is_among_others_three_times_and_every_other_once():
    lines = []
    target = multi()
    small, large = make_case(lengths=[5, 5], name="small"), make_case(lengths=[5, 6], seed=2, name="large")
    found = measured(target, [large, small, large], lines.append)
    rounds = [(line["case"], line["number"]) for line in lines if line["kind"] == "surrounded" and line["number"]]
    assert rounds == [("large", 1), ("small", 1), ("small", 2), ("small", 3), ("large", 1)]
    assert found.samples == {"cases": 3, "rounds": 5, "items": 6}
    assert found.attestation.items_per_sequence == 2.0, "only quiet replays of the requests count"


def test_a_request_is_compared_with_its_second_quiet_replay():
    """Four answers of every round, and what is told of them: among others, after them, quiet, and once more."""
    case = make_case(lengths=[5, 5])
    moves = [0.0] * 4 + [0.1, 0.25, 0.05, 0.07] + [0.0, 0.0, 0.0, 0.0] + [-0.3, 0.0, 0.0, 0.01]

    def moving(query, items, labels):
        return packed(query, items, labels) + (moves.pop(0) if query == case.query else 0.0)

    found = measured(multi(moving), [case])
    assert not moves and found.value == pytest.approx(0.3) and found.evidence.noise_floor == pytest.approx(0.02)
    worst = [(each.case, each.round, each.what) for each in found.details.worst]
    assert worst == [("case", 3, "among others"), ("case", 1, "after others"), ("case", 1, "among others")]
    assert [each.max_abs_diff for each in found.details.worst] == pytest.approx([0.3, 0.2, 0.05])


def test_no_requests_attest_nothing():
    found = measured(multi(), ())
    assert found.value is None and found.evidence.noise_floor is None and found.attestation.mask == "unattested"
    assert found.samples == {"cases": 0, "rounds": 0, "items": 0}


def test_what_runs_in_the_rounds_only_is_attested_as_well():
    """A server that is asked for dense and falls back once all requests were replayed fails."""
    target = multi()

    def record(line):
        if line["kind"] == "surrounded" and line["number"] == 0:
            target.client.executed = "segment"

    found = record_of(REQUEST_ISOLATION, measured(target, CASES[:1], record))
    assert found.verdict is Verdict.FAIL and found.mask_attested == "dense+segment"


def test_a_leak_is_as_visible_as_the_serial_server_says():
    reference = baseline()
    visible, _ = leak_visibility(reference, CASES, multi().profile.semantics, DELIMITER, [].append)
    assert (
        check(multi(), serial=reference).leak_visibility == check(multi(), serial=baseline()).leak_visibility == visible
    )
