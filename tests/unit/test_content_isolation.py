"""Content isolation against servers in memory: the same shapes, another content, and not a bit of tolerance."""

import json
from dataclasses import replace

import numpy as np
import pytest
from stub_targets import StubSubject, baseline, hashed, leaking, make_case, multi, packed

from pytest_multiitem.gates.content_isolation import CONTENT_ISOLATION, borders
from pytest_multiitem.gates.record import record_of
from pytest_multiitem.gates.registry import gates
from pytest_multiitem.results.records import Verdict

CASES = (make_case(7, name="seven"), make_case(4, seed=2, name="four"))


def check(target, cases=CASES, *, reference=None):
    subject = StubSubject(cases, multi=target, serial=reference or baseline())
    return record_of(CONTENT_ISOLATION, CONTENT_ISOLATION.measure(subject))


def shape_noise(scores, size):
    """Other rounding for every shape: for the lengths of all items and the place of each."""

    def noisy(query, items, labels):
        found = np.array(scores(query, items, labels))
        rng = np.random.default_rng([len(query), *map(len, items)])
        return found + size * rng.uniform(-1, 1, (len(found), 1))

    return noisy


def test_a_healthy_server_passes_with_its_evidence():
    record = check(multi())
    assert record.verdict is Verdict.PASS and record.value == 0.0
    assert record.noise_floor == 0.0 and record.leak_visibility > 0.1 and record.shape_floor is None
    assert record.details.allowed == 0.0 and record.details.mutated_item_change_max > 0.1
    assert record.samples["mutations"] == 6 + 7, "first, middle and last of each, and all of the borders"


@pytest.mark.parametrize("size", [1e-7, 1e-2])
def test_rounding_by_shape_passes(size):
    assert check(multi(shape_noise(packed, size))).verdict is Verdict.PASS


@pytest.mark.parametrize("size", [0.0, 1e-7, 1e-2])
@pytest.mark.parametrize("leak", [1e-3, 1e-6, 1e-12])
def test_a_leak_of_content_fails_however_small_it_is_beside_rounding(size, leak):
    def scores(query, items, labels):
        found = packed(query, items, labels)
        found[1:, 0] += leak * np.array([sum(item) % 997 / 997 for item in items[:-1]])
        return found

    record = check(multi(shape_noise(scores, size)))
    assert record.verdict is Verdict.FAIL and 0 < record.value <= 2 * leak
    assert "only the content of item" in record.reason and "allow nothing" in record.reason


def test_a_border_that_leaks_behind_a_single_token_only_is_seen():
    """What `leak_boundary` does: no item of the requests themselves is so short."""

    def scores(query, items, labels):
        rows = []
        for i, item in enumerate(items):
            seen = items[i - 1] if i and len(items[i - 1]) == 1 and len(item) > 17 else ()
            rows.append(hashed([*query, 999, *seen, *item], labels))
        return np.array(rows)

    record = check(multi(scores))
    assert record.verdict is Verdict.FAIL and record.details.worst[0].case == "seven, borders"
    same = gates()["same_length_isolation_zero"]
    subject = StubSubject(CASES, multi=multi(scores), serial=baseline())
    assert record_of(same, same.measure(subject)).verdict is Verdict.PASS, "only this gate sees it"


def noisy(size):
    rng = np.random.default_rng(0)
    return lambda query, items, labels: packed(query, items, labels) + size * rng.choice([-1, 1], (len(items), 1))


def test_a_server_that_does_not_repeat_itself_is_judged_by_its_noise():
    record = check(multi(noisy(1e-4)))
    assert record.verdict is Verdict.PASS and record.details.allowed == pytest.approx(6e-4)
    record = check(multi(noisy(0.01)))
    assert record.verdict is Verdict.INCONCLUSIVE and "it would hide a leak" in record.reason


def test_a_leak_above_the_noise_fails():
    rng = np.random.default_rng(0)
    leak = leaking(lambda i, j, n: j == i - 1)
    target = multi(lambda *request: leak(*request) + 1e-4 * rng.choice([-1, 1], (len(request[1]), 1)))
    assert check(target).verdict is Verdict.FAIL


def test_a_model_on_which_no_leak_would_show_decides_nothing():
    def last_token(query, items, labels):
        return np.array([hashed(item[-1:], labels) for item in items])

    record = check(multi(last_token), reference=baseline(last_token))
    assert record.verdict is Verdict.INCONCLUSIVE and "a leak would not show" in record.reason


def test_an_engine_that_reads_no_items_fails():
    record = check(multi(lambda query, items, labels: np.tile(hashed(query, labels), (len(items), 1))))
    assert record.verdict is Verdict.FAIL and "does not read its items" in record.reason


@pytest.mark.parametrize("leak", [1e-6, 0.05])
def test_a_mixture_of_experts_is_left_undecided_up_to_the_contracts_line(tmp_path, leak):
    """Its batches change shape with the content."""
    (tmp_path / "config.json").write_text(json.dumps({"num_experts": 8}))

    def scores(query, items, labels):
        found = packed(query, items, labels)
        found[0, 0] += leak * (sum(items[-1]) % 997) / 997
        return found

    target = multi(scores)
    target.client.model = str(tmp_path)
    record = check(target)
    assert record.verdict is (Verdict.FAIL if leak > 0.02 else Verdict.INCONCLUSIVE)
    assert leak > 0.02 or "mixture of experts" in record.reason


def test_single_items_say_nothing():
    record = check(multi(), [make_case(1)])
    assert record.verdict is Verdict.INCONCLUSIVE and record.reason == "nothing was measured"


def test_what_two_gates_need_is_asked_for_once():
    target, serial = multi(), baseline()
    subject = StubSubject(CASES, multi=target, serial=serial)
    gates()["same_length_isolation_zero"].measure(subject)
    before = len(target.client.requests)
    CONTENT_ISOLATION.measure(subject)
    new = target.client.requests[before:]
    assert all(len(items[0]) == 1 for _, items, _ in new if len(items) == 7), "the borders alone are new"


def test_the_borders_are_left_out_where_a_server_does_not_take_them():
    case = make_case(3)
    assert borders(case, None) == borders(case, 200)
    assert borders(case, 60) is None
    assert {len(item) for item in borders(case, None).items} >= {1, 2, 3, 18, 24}
    assert borders(replace(case, name="x"), None).query == case.query
