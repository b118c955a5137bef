"""Every answer is judged: what a server may say of the same item, and what contradicts it."""

import numpy as np
import pytest
from stub_targets import LABELS, StubSubject, baseline, make_case, multi, packed

from pytest_multiitem.gates.every_score import EVERY_SCORE, measure
from pytest_multiitem.gates.record import answers_judged, blank_record, record_of
from pytest_multiitem.results.records import Verdict
from pytest_multiitem.scoring.limits import PLACED, PLACED_FLOAT32, placed_limit, row_difference
from pytest_multiitem.targets.answers import Answers
from pytest_multiitem.transport.client import prepare

CASE = make_case(12)


def wrong(rows, index=0):
    """Another plausible row in a place."""
    changed = np.array(rows, dtype=float)
    changed[index] = np.roll(changed[index], 1)
    return changed


def server(scores):
    """A packed server whose answers ``scores(number, query, items, labels)`` gives; ``number`` counts from 1."""
    count = [0]

    def answer(query, items, labels):
        count[0] += 1
        return scores(count[0], query, items, labels)

    return multi(answer)


def judged(scores, *cases):
    target = server(scores)
    for case in cases:
        target.score(case)
    return target.judge_answers()


def test_a_healthy_server_agrees_and_every_row_is_compared():
    found = judged(lambda number, *request: packed(*request), CASE, make_case(1, seed=5))
    assert (found.problem, found.doubt, found.largest) == (None, None, 0.0)
    assert (found.answers, found.rows) == (2, 13)


def test_a_wrong_row_is_found_wherever_it_stands():
    for index in range(12):
        found = judged(
            lambda number, q, items, labels, at=index: (
                wrong(packed(q, items, labels), at) if len(items) == 12 else packed(q, items, labels)
            ),
            CASE,
        )
        assert f"item {index + 1} of 12" in found.problem and "a request of its own" in found.problem


@pytest.mark.parametrize("number", range(1, 4))
def test_one_wrong_answer_in_a_servers_life_is_found(number):
    """Also where it is the answer that was to check another one."""
    found = judged(lambda n, *request: wrong(packed(*request)) if n == number else packed(*request), CASE)
    assert found.problem.startswith("wrong_scores: item")


def test_every_third_answer_is_wrong():
    found = judged(lambda n, *request: wrong(packed(*request)) if n % 3 == 0 else packed(*request), CASE, CASE, CASE)
    assert found.problem is not None and found.unstable == 0.0


def test_a_server_whose_answers_all_move_is_asked_no_further_and_judged_all_the_same():
    count = [0]

    def moving(n, query, items, labels):
        count[0] += 1
        return np.roll(packed(query, items, labels), n % 2, axis=1)

    cases = [make_case(12, seed=seed) for seed in range(20)]
    found = judged(moving, *cases, *cases[:7], *cases)
    assert found.problem or found.doubt
    assert found.contradictions >= 24 and found.asked < 60, "20 requests of 12 items would be asked for in 40 more"


def test_noise_is_told_from_wrong_scores():
    random = np.random.default_rng(1)

    def noisy(n, *request):
        return packed(*request) + random.uniform(-0.05, 0.05, (len(request[1]), 2))

    found = judged(noisy, CASE)
    assert found.problem is None and found.unstable > 0.01
    assert "cannot be told from noise" in found.doubt


@pytest.mark.parametrize(("by", "problem"), [(0.9e-4, False), (1.1e-4, True)])
def test_rounding_by_the_size_of_a_request_is_no_contradiction(by, problem):
    shifted = judged(lambda n, q, items, labels: packed(q, items, labels) + by * (len(items) > 8), CASE)
    assert (shifted.problem is not None) is problem


def test_items_that_begin_alike_are_asked_apart():
    """Else the one that is taken for the other would be so twice."""
    start = tuple(range(20, 36))
    case = make_case(2).with_item(0, (*start, 50)).with_item(1, (*start, 60))

    def same_block(n, query, items, labels):
        first = {}
        return packed(query, [first.setdefault(tuple(item[:16]), item) for item in items], labels)

    assert judged(same_block, case).problem is not None


def test_answers_before_a_mark_are_left_for_later():
    target = server(lambda n, *request: wrong(packed(*request)) if n == 1 else packed(*request))
    target.score(CASE)
    mark = target.answers.mark()
    target.score(make_case(3, seed=9))
    assert target.judge_answers(since=mark).problem is None
    assert target.judge_answers().problem is not None
    assert target.answers.mark() == 0


def test_probabilities_are_compared_by_their_ratio():
    small = np.array([1e-9, 1e-9])
    assert row_difference(small, 1.0005 * small, apply_softmax=False) < PLACED_FLOAT32
    assert row_difference(small, 2 * small, apply_softmax=False) > PLACED
    assert row_difference(small, 2 * small, apply_softmax=True) == pytest.approx(1e-9)
    assert row_difference(np.zeros(2), np.zeros(2), apply_softmax=False) == 0.0


def test_what_a_server_does_not_say_is_not_taken_for_float32():
    assert (placed_limit("torch.float32"), placed_limit("bfloat16"), placed_limit(None)) == (1e-4, 0.02, 0.02)


def test_a_gate_that_passes_fails_on_a_wrong_answer_beside_it():
    target = server(lambda n, *request: wrong(packed(*request)) if n == 1 else packed(*request))
    target.score(CASE)
    record = blank_record(EVERY_SCORE, Verdict.PASS, "all is well")
    record.role, record.backend = "multi", "stub"
    record = answers_judged(EVERY_SCORE, record, [target], seed=0)
    assert record.verdict is Verdict.FAIL and "wrong_scores" in record.reason
    assert record.samples["rows_judged"] >= 12


def test_a_wrong_packed_answer_fails_a_gate_between_backends_too():
    """Its record is of both backends, and of neither's server alone."""
    target = server(lambda n, *request: wrong(packed(*request)) if n == 1 else packed(*request))
    target.score(CASE)
    record = blank_record(EVERY_SCORE, Verdict.PASS, "all is well")
    record.role, record.backend = "multi", "jax vs pytorch"
    assert answers_judged(EVERY_SCORE, record, [target], seed=0).verdict is Verdict.FAIL


def test_a_row_is_no_evidence_for_itself():
    target = server(lambda number, *request: packed(*request))
    target.score(CASE)
    target.score(make_case(2).with_item(0, CASE.items[0]))
    target.score(CASE)
    once = target.judge_answers().rows
    assert once == 24 + 2, "12 rows twice, each against the same item asked again; 2 further rows"


def test_a_wrong_answer_of_the_baseline_is_not_the_engines():
    serial = baseline(lambda query, items, labels: packed(query, items, labels) if len(items) > 1 else [[0.3, 0.7]])
    serial.score_ids((1, 2), [(3, 4)], LABELS)
    serial.score_ids((1, 2), [(3, 4), (5, 6)], LABELS)
    record = blank_record(EVERY_SCORE, Verdict.PASS, "all is well")
    record.role, record.backend = "multi", "stub"
    record = answers_judged(EVERY_SCORE, record, [serial], seed=0)
    assert record.verdict is Verdict.INCONCLUSIVE and "serial stub server" in record.reason


def test_answers_that_nobody_asked_about_cost_nothing():
    asked = []
    assert Answers().judge(asked.append, limit=0.0).rows == 0 and asked == []


def measured(scores, reference=None):
    target, serial = server(scores), baseline(*([reference] if reference else []))
    return record_of(EVERY_SCORE, measure(StubSubject([CASE], multi=target, hand=serial)))


def test_the_gate_passes_a_healthy_server_and_says_what_it_compared():
    record = measured(lambda n, *request: packed(*request))
    assert record.verdict is Verdict.PASS, record.reason
    assert record.samples["serial_rows"] >= 8 and record.samples["rows"] > 12 * 7
    assert record.details.serial_max_abs_diff == 0.0


def test_the_gate_fails_where_the_last_connection_is_wrong():
    record = measured(lambda n, *request: wrong(packed(*request)) if n == 9 else packed(*request))
    assert record.verdict is Verdict.FAIL and record.details.wrong


def test_the_gate_fails_where_all_answers_agree_and_are_not_the_serial_ones():
    record = measured(lambda n, query, items, labels: packed(query[1:], items, labels))
    assert record.verdict is Verdict.FAIL and "serial score" in record.reason


def test_a_request_says_what_is_in_it():
    request = prepare([1, 2], [[3], [4, 5]], [6, 7, 8], apply_softmax=False)
    assert (request.query, request.items, request.labels) == ((1, 2), ((3,), (4, 5)), (6, 7, 8))
    assert (request.num_items, request.num_labels, request.apply_softmax) == (2, 3, False)
