"""The isolation gates against servers in memory, healthy and not."""

import numpy as np
import pytest
from stub_targets import DELIMITER, POOL, StubSubject, baseline, hashed, leaking, make_case, multi, packed, serial

from pytest_multiitem.gates.isolation import CHANGED_LENGTH, SAME_LENGTH
from pytest_multiitem.gates.record import record_of
from pytest_multiitem.results.records import Verdict
from pytest_multiitem.scoring.cases import Case
from pytest_multiitem.transport.client import FailureKind, ScoreFailure

GATES = (SAME_LENGTH, CHANGED_LENGTH)
CASES = (make_case(7, name="seven"), make_case(4, seed=2, name="four"))

every_gate = pytest.mark.parametrize("gate", GATES, ids=lambda gate: gate.name)


def check(gate, target, cases=CASES, *, reference=None, record=None):
    samples = [] if record is None else record
    subject = StubSubject(cases, multi=target, serial=reference or baseline(), record=samples.append)
    return record_of(gate, gate.measure(subject))


@every_gate
def test_a_healthy_server_passes_with_its_evidence(gate):
    record = check(gate, multi())
    assert record.verdict is Verdict.PASS, record.reason
    assert record.value == 0.0 and record.limit == 0.0 and record.noise_floor == 0.0
    assert record.leak_visibility > 0.1 and record.score_spread > 0.1
    assert record.mask_requested == record.mask_attested == "dense"
    assert record.items_per_sequence > 3
    assert (record.engine, record.backend, record.model, record.dtype) == ("stub", "stub", "stub-model", "float32")
    assert record.semantics == "prefix_first_delim"
    assert record.samples["cases"] == 2 and record.samples["items"] == 11


LEAKS = {
    "plain causal attention": lambda i, j, n: j < i,
    "into the next item only": lambda i, j, n: j == i - 1,
    "only backwards": lambda i, j, n: j > i,
    "into the previous item only": lambda i, j, n: j == i + 1,
    "from the first item to the last": lambda i, j, n: (i, j) == (n - 1, 0),
    "from the last item to the first": lambda i, j, n: (i, j) == (0, n - 1),
    "from the middle to its left neighbour": lambda i, j, n: (i, j) == (n // 2 - 1, n // 2),
    "from the middle to its right neighbour": lambda i, j, n: (i, j) == (n // 2 + 1, n // 2),
}


@every_gate
@pytest.mark.parametrize("leak", LEAKS)
def test_every_leak_fails(gate, leak):
    record = check(gate, multi(leaking(LEAKS[leak])))
    assert record.verdict is Verdict.FAIL
    assert record.value > 0.01 and "exceeds the limit 0" in record.reason
    assert record.details.worst[0].changed_items >= 1


@every_gate
@pytest.mark.parametrize("source", [0, 3, 6])
@pytest.mark.parametrize("victim", range(7))
def test_every_other_item_is_compared_with_every_mutated_place(gate, source, victim):
    if source == victim:
        return
    target = multi(leaking(lambda i, j, n: (i, j) == (victim, source)))
    record = check(gate, target, [CASES[0]])
    assert record.verdict is Verdict.FAIL
    assert {worst.mutated_index for worst in record.details.worst if worst.changed_items} == {source}


@every_gate
def test_a_leak_in_the_last_bits_fails(gate):
    def scores(query, items, labels):
        found = packed(query, items, labels)
        found[0] += 1e-12 * (sum(items[-1]) % 997)
        return found

    record = check(gate, multi(scores))
    assert record.verdict is Verdict.FAIL and 0 < record.value < 1e-8


def test_the_value_is_the_largest_change_of_any_untouched_item():
    samples = []
    record = check(SAME_LENGTH, multi(leaking(LEAKS["plain causal attention"])), [CASES[0]], record=samples)
    (base,) = (np.array(s["scores"]) for s in samples if s["kind"] == "scores")
    mutated = [(s["mutated_index"], np.array(s["scores"])) for s in samples if s["kind"] == "isolation mutated"]
    changes = [np.delete(np.abs(scores - base), index, axis=0) for index, scores in mutated]
    assert record.value == max(change.max() for change in changes)
    assert record.details.worst[0].mean_abs_diff_unchanged < record.value


def test_a_leak_of_one_case_only_fails():
    quiet = tuple(make_case(5, seed=seed, name=str(seed)) for seed in (4, 5, 6))

    def scores(query, items, labels):
        return leaking(LEAKS["only backwards"] if query == CASES[0].query else lambda *_: False)(query, items, labels)

    record = check(SAME_LENGTH, multi(scores), [*quiet, CASES[0]])
    assert record.verdict is Verdict.FAIL and record.details.worst[0].case == "seven"


def test_the_mutated_places_are_first_middle_and_last():
    target = multi()
    record = check(SAME_LENGTH, target)
    assert record.samples["mutations"] == 6
    mutated = set()
    for _, items, _ in target.client.requests:
        if len(items) == 7:
            mutated |= {i for i, item in enumerate(items) if item != CASES[0].items[i]}
    assert mutated == {0, 3, 6}


def test_a_changed_length_grows_and_shrinks():
    record = check(CHANGED_LENGTH, multi())
    assert {entry.mutation for entry in record.details.worst} == {"longer", "shorter"}


def test_a_leak_of_lengths_alone_fails_only_the_changed_length():
    """What a misplaced position would do: an item's score depends on how many tokens stand before it."""

    def scores(query, items, labels):
        before = np.cumsum([0, *map(len, items)])
        return np.array([hashed([*query, DELIMITER, *item, 1000 + before[i]], labels) for i, item in enumerate(items)])

    assert check(SAME_LENGTH, multi(scores)).verdict is Verdict.PASS
    assert check(CHANGED_LENGTH, multi(scores)).verdict is Verdict.FAIL


@every_gate
@pytest.mark.parametrize("noise", [1e-9, 0.04])
def test_nondeterminism_decides_nothing(gate, noise):
    rng = np.random.default_rng(0)

    def scores(query, items, labels):
        # Plus or minus the same amount: no difference can exceed the floor that replays find.
        return packed(query, items, labels) + noise * rng.choice([-1, 1], (len(items), 1))

    record = check(gate, multi(scores))
    assert record.verdict is Verdict.INCONCLUSIVE
    assert record.noise_floor == pytest.approx(2 * noise)


@every_gate
def test_a_leak_far_above_the_noise_still_fails(gate):
    rng = np.random.default_rng(0)

    def scores(query, items, labels):
        found = leaking(LEAKS["plain causal attention"])(query, items, labels)
        return found + 1e-9 * rng.choice([-1, 1], (len(items), 1))

    assert check(gate, multi(scores)).verdict is Verdict.FAIL


@every_gate
@pytest.mark.parametrize("constant", [[0.5, 0.5], [0.3, 0.7]])
def test_an_engine_that_ignores_its_items_fails(gate, constant):
    record = check(gate, multi(lambda query, items, labels: np.tile(constant, (len(items), 1))))
    assert record.verdict is Verdict.FAIL and "does not read its items" in record.reason


@every_gate
def test_an_engine_that_reads_the_query_alone_fails(gate):
    target = multi(lambda query, items, labels: np.tile(hashed(query, labels), (len(items), 1)))
    record = check(gate, target)
    assert record.verdict is Verdict.FAIL and "does not read its items" in record.reason


@every_gate
def test_scores_by_place_alone_fail(gate):
    target = multi(lambda query, items, labels: np.array([hashed([*query, i], labels) for i in range(len(items))]))
    assert check(gate, target).verdict is Verdict.FAIL


@every_gate
def test_saturated_scores_decide_nothing(gate):
    record = check(gate, multi(lambda query, items, labels: np.tile([0.0, 1.0], (len(items), 1))))
    assert record.verdict is Verdict.INCONCLUSIVE and "hardly differ" in record.reason


@every_gate
def test_a_model_on_which_no_leak_would_show_decides_nothing(gate):
    """The scores depend on an item's last token alone, packed or serial."""

    def last_token(query, items, labels):
        return np.array([hashed(item[-1:], labels) for item in items])

    record = check(gate, multi(last_token), reference=baseline(last_token))
    assert record.verdict is Verdict.INCONCLUSIVE and "a leak would not show" in record.reason
    assert record.leak_visibility == 0.0


@every_gate
def test_one_case_that_discriminates_is_enough(gate):
    same = Case("same", POOL[:9], (POOL[:4],) * 4, (5, 6), POOL)
    assert check(gate, multi(), [same, CASES[0], CASES[1]]).verdict is Verdict.PASS


@every_gate
def test_permuted_items_fail(gate):
    assert check(gate, multi(lambda *request: packed(*request)[::-1])).verdict is Verdict.FAIL


@every_gate
@pytest.mark.parametrize("executed", ["segment", "serial", "prefill+extend"])
def test_another_mask_than_the_requested_one_fails(gate, executed):
    record = check(gate, multi(mask="dense", executed=executed))
    assert record.verdict is Verdict.FAIL
    assert record.reason == f"dense was requested, but the server executed {executed}"
    assert (record.mask_requested, record.mask_attested) == ("dense", executed)


def test_a_server_that_attests_nothing_is_recorded_as_such():
    record = check(SAME_LENGTH, multi(executed=None))
    assert record.mask_requested == "dense" and record.mask_attested == "unattested"
    assert record.items_per_sequence is None and record.model is None


@every_gate
@pytest.mark.parametrize("answered", [0, 1, 4])
def test_a_request_that_fails_midway_ends_the_measurement(gate, answered):
    left = iter(range(answered))

    def scores(query, items, labels):
        if next(left, None) is None:
            raise ScoreFailure(FailureKind.HTTP_ERROR, "HTTP 500: boom", 500)
        return packed(query, items, labels)

    with pytest.raises(ScoreFailure, match="boom"):
        check(gate, multi(scores))


@every_gate
def test_one_item_cases_measure_nothing(gate):
    target = multi()
    record = check(gate, target, [make_case(1)])
    assert record.verdict is Verdict.INCONCLUSIVE
    assert record.value is None and record.samples["cases"] == 0 and target.client.requests == []


@every_gate
def test_no_cases_measure_nothing(gate):
    record = check(gate, multi(), [])
    assert record.verdict is Verdict.INCONCLUSIVE and record.value is None


@every_gate
def test_two_items_are_measured_both_ways(gate):
    for leak in (lambda i, j, n: j > i, lambda i, j, n: j < i):
        assert check(gate, multi(leaking(leak)), [make_case(2)]).verdict is Verdict.FAIL


def test_empty_items_can_only_grow():
    case = make_case(lengths=[0, 3, 0, 5, 0])
    assert check(SAME_LENGTH, multi(), [case]).verdict is Verdict.INCONCLUSIVE
    record = check(CHANGED_LENGTH, multi(), [case])
    assert record.verdict is Verdict.PASS and record.samples["mutations"] == 3


def test_every_answer_is_recorded():
    samples = []
    record = check(SAME_LENGTH, multi(), record=samples)
    kinds = [sample["kind"] for sample in samples]
    assert kinds.count("scores") == 2 and kinds.count("isolation mutated") == record.samples["mutations"]
    assert kinds.count("replay") == 4 and "leak visibility" in kinds
    assert samples[0]["scores"] == packed(CASES[0].query, CASES[0].items, CASES[0].labels).tolist()


def test_visibility_is_measured_on_the_serial_server_in_the_declared_semantics():
    reference = baseline()
    check(SAME_LENGTH, multi(), [CASES[0]], reference=reference)
    query, items, _ = reference.client.requests[0]
    left, right = CASES[0].items[:2]
    assert query == (*CASES[0].query, DELIMITER)
    assert items == (right, (*left, DELIMITER, *right))


def test_serial_scores_never_enter_the_value():
    record = check(SAME_LENGTH, multi(), reference=baseline(lambda *request: serial(*request) * 0.9))
    assert record.value == 0.0 and record.verdict is Verdict.PASS
