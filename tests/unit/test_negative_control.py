"""The negative control: it holds where the gates see a leak, and says so where they would not."""

from dataclasses import replace

import numpy as np
import pytest
from stub_targets import DELIMITER, VOCABULARY, StubSubject, baseline, hashed, make_case, serial

from pytest_multiitem.adapters.base import Profile
from pytest_multiitem.gates import equivalence, isolation
from pytest_multiitem.gates.negative_control import NEGATIVE_CONTROL, Unisolated, measure
from pytest_multiitem.gates.record import Measurement, record_of
from pytest_multiitem.results.records import Evidence, Verdict
from pytest_multiitem.scoring.semantics import Semantics, unisolated

FIRST, QUERY = Semantics.PREFIX_FIRST_DELIM, Semantics.QUERY_PREFIX
CASE = make_case(lengths=[3, 0, 4, 5, 2, 6, 7, 3, 4, 5, 6])
GATES = ("same_length_isolation_zero", "changed_length_isolation_zero", "delimiter_aligned_equiv_le_0p02")


def check(target=None, cases=(CASE,), *, semantics=FIRST, samples=None):
    record = [].append if samples is None else samples.append
    target = baseline() if target is None else target
    return record_of(NEGATIVE_CONTROL, measure(StubSubject(cases, serial=target, semantics=semantics, record=record)))


@pytest.mark.parametrize("semantics", [FIRST, QUERY])
def test_it_holds_where_all_gates_fail(semantics):
    record = check(semantics=semantics)
    assert record.verdict is Verdict.PASS, record.reason
    assert {name: found.verdict for name, found in record.details.gates.items()} == dict.fromkeys(GATES, "FAIL")
    assert record.value == min(found.value for found in record.details.gates.values()) > 0.02
    assert record.samples == {"items": 8, "gates": 3}
    assert (record.engine, record.backend, record.noise_floor) == ("stub", "stub", 0.0)
    assert record.leak_visibility > 0.1 and record.semantic_visibility > 0.02


def test_what_it_plays_is_plain_causal_attention():
    a, b, c = (1, 2), (3,), (4, 5)
    assert unisolated([a, b, c], DELIMITER) == [a, (*a, DELIMITER, *b), (*a, DELIMITER, *b, DELIMITER, *c)]
    samples = []
    check(samples=samples)
    played = next(np.array(s["scores"]) for s in samples if s["kind"] == "scores" and "causal" in s["server"])
    seen, expected = [*CASE.query], []
    for item in [item for item in CASE.items if item][:8]:
        seen += [DELIMITER, *item]
        expected.append(hashed(seen, CASE.labels))
    assert np.array_equal(played, np.array(expected))


def test_nothing_but_the_serial_server_is_asked():
    target = baseline()
    check(target)
    assert target.client._counts["serial"] == len(target.client.requests) > 20


@pytest.mark.parametrize("blind", ["isolation", "equivalence"])
def test_a_gate_that_sees_no_leak_fails_the_control(blind, monkeypatch):
    """What is wrong then is the suite, or its requests: its PASS on a real server would mean nothing."""
    module = {"isolation": isolation, "equivalence": equivalence}[blind]
    seeing = module.measure

    def nothing(*arguments, **more):
        found = seeing(*arguments, **more)
        found.value, found.problem = 0.0, None
        found.evidence = Evidence(noise_floor=0.0, leak_visibility=0.5, score_spread=0.5)
        return found

    monkeypatch.setattr(module, "measure", nothing)
    record = check()
    assert record.verdict is Verdict.FAIL
    assert record.reason.startswith("the gates would not see a leak on these requests: ")
    assert ("isolation_zero says PASS" in record.reason) == (blind == "isolation")
    assert ("equiv_le_0p02 says PASS" in record.reason) == (blind == "equivalence")


def test_a_model_on_which_no_leak_shows_decides_nothing():
    def last_token(query, items, labels):
        return np.array([hashed(item[-1:], labels) for item in items])

    record = check(baseline(last_token))
    assert record.verdict is Verdict.INCONCLUSIVE and "a leak would not show" in record.reason


def test_a_noisy_server_decides_nothing():
    rng = np.random.default_rng(0)
    noisy = baseline(lambda *request: serial(*request) + 2.0 * rng.choice([-1, 1], (len(request[1]), 1)))
    record = check(noisy)
    assert record.verdict is Verdict.INCONCLUSIVE and "the gates would not see a leak" in record.reason


@pytest.mark.parametrize("lengths", [[3, 4], [0, 3, 0, 4], [5]])
def test_two_items_are_too_few(lengths):
    record = check(cases=[make_case(lengths=lengths)])
    assert record.verdict is Verdict.INCONCLUSIVE and "3 items" in record.reason and record.value is None


def test_the_first_request_with_enough_items_is_used():
    small, large = make_case(2, name="small"), replace(CASE, name="large")
    assert check(cases=[small, large]).details.case == "large"


def test_three_items_are_enough_and_what_was_used_is_told():
    record = check(cases=[make_case(lengths=[3, 0, 4, 5], name="three")], semantics=QUERY)
    assert record.verdict is Verdict.PASS and record.samples["items"] == 3
    assert (record.details.case, record.details.semantics) == ("three", QUERY.value)
    assert record.reason == "without isolation all 3 gates FAIL, as they must"


def test_a_gate_that_decides_nothing_leaves_the_control_undecided(monkeypatch):
    """No PASS, so the suite is not wrong; but no FAIL either, so it shows nothing."""
    seeing = equivalence.measure

    def undecided(*arguments, **more):
        found = seeing(*arguments, **more)
        found.value = None
        return found

    monkeypatch.setattr(equivalence, "measure", undecided)
    record = check()
    said = "the gates would not see a leak on these requests: delimiter_aligned_equiv_le_0p02 says INCONCLUSIVE: "
    assert (record.verdict, record.reason) == (Verdict.INCONCLUSIVE, f"{said}nothing was measured")
    assert record.value == min(record.details.gates[gate].value for gate in GATES[:2])


@pytest.mark.parametrize("semantics", [FIRST, QUERY])
def test_the_gates_measure_what_they_measure_on_a_real_server(semantics, monkeypatch):
    """The same requests, delimiter and seed, and a server of the declared semantics that says it is causal."""
    asked = []

    def spied(module):
        seeing = module.measure

        def measure(subject, *kinds):
            asked.append((module.__name__, subject))
            return seeing(subject, *kinds)

        return measure

    for module in (isolation, equivalence):
        monkeypatch.setattr(module, "measure", spied(module))
    target, record = baseline(), [].append
    target = replace(target, profile=replace(target.profile, model="a model"))
    measured = StubSubject([CASE], serial=target, semantics=semantics, record=record)
    measure(measured)
    names, subjects = zip(*asked, strict=True)
    assert [name.rpartition(".")[2] for name in names] == ["isolation", "isolation", "equivalence"]
    for subject in subjects:
        assert (subject.settings, subject.record) == (measured.settings, record)
        assert subject.serial is target and [len(case.items) for case in subject.cases(subject.multi)] == [8]
        each = subject.multi
        assert isinstance(each, Unisolated)
        assert each.profile == Profile("multi", "stub", "causal", 0, semantics, "a model")
        assert (each.engine, each.client, each.serial, each.delimiter) == ("stub", target.client, target, DELIMITER)
        with each.attest() as attestation:
            assert (attestation.mask, attestation.problem) == ("causal", None)


def test_it_plays_a_server_without_softmax_and_over_another_connection_too():
    target = baseline()
    leaking = Unisolated(
        Profile("multi", "stub", "causal", 0, FIRST), "stub", target.client, serial=target, delimiter=9
    )
    items = [(1, 2), (3,)]
    plain = leaking.score_ids(CASE.query, items, CASE.labels, apply_softmax=False)
    seen = [*CASE.query, 9, 1, 2, 9, 3]
    assert np.array_equal(plain[1], hashed(seen, VOCABULARY)[:2])
    assert np.array_equal(leaking.score_ids(CASE.query, items, CASE.labels)[1], hashed(seen, CASE.labels))
    leaking.memo["kept"] = 1
    with leaking.another() as other:
        assert type(other) is Unisolated and other.memo == {} and other.serial is not target
        assert np.array_equal(other.score_ids(CASE.query, items, CASE.labels)[1], hashed(seen, CASE.labels))


def test_gates_that_measure_nothing_leave_the_control_without_a_value(monkeypatch):
    def nothing(subject, *kinds):
        return Measurement(subject.multi, None)

    for module in (isolation, equivalence):
        monkeypatch.setattr(module, "measure", nothing)
    record = check()
    assert (record.verdict, record.value) == (Verdict.INCONCLUSIVE, None)
    said = "; ".join(f"{gate} says INCONCLUSIVE: nothing was measured" for gate in GATES)
    assert record.reason == f"the gates would not see a leak on these requests: {said}"


def test_replays_that_are_far_apart_are_no_leak_that_was_seen():
    """The gates FAIL, for the server does not repeat itself: that says nothing of whether they see a leak."""
    rng = np.random.default_rng(0)
    record = check(baseline(lambda *request: serial(*request) + 0.4 * rng.choice([-1, 1], (len(request[1]), 1))))
    assert record.verdict is not Verdict.PASS
