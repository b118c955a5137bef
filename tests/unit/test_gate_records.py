"""What gates leave beside their verdicts: reasons, details, evidence and raw samples, word for word."""

import math
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from stub_targets import DELIMITER, StubSubject, baseline, extender, make_case, multi, packed, packed_query_prefix

from pytest_multiitem.adapters.attestation import Attestation
from pytest_multiitem.bench.curve import CurvePoint
from pytest_multiitem.gates import equivalence, isolation, parity, power, prefill_extend, semantics, speedup
from pytest_multiitem.gates.evidence import leak_visibility, semantic_visibility
from pytest_multiitem.gates.judge import judge_difference, judge_ratio
from pytest_multiitem.gates.record import Measurement, record_of
from pytest_multiitem.gates.registry import gate_names, gates, required
from pytest_multiitem.results import details
from pytest_multiitem.results.records import Evidence, Verdict
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.settings.resolve import resolve
from pytest_multiitem.transport.client import FailureKind, ScoreFailure, prepare, read_scores

CASES = (make_case(7, name="seven"), make_case(4, seed=2, name="four"))
STRONG = Evidence(noise_floor=0.0, leak_visibility=0.5, score_spread=0.5)
SAMPLES_PAGE = Path(__file__).parents[2] / "docs" / "reference" / "results.md"


def ignore(line):
    pass


def isolated(target, reference, cases=CASES, *, gate=isolation.SAME_LENGTH, seed=3, record=ignore):
    return gate.measure(StubSubject(cases, multi=target, serial=reference, seed=seed, record=record))


def equal(target, reference, cases=CASES, *, record=ignore):
    return equivalence.measure(StubSubject(cases, multi=target, serial=reference, record=record))


def compared(left, right, cases=CASES, *, record=ignore, client_chunk_size=None):
    return parity.compare(StubSubject(cases, record=record), left, right, client_chunk_size)


def probed(target, reference, cases=CASES, *, record=ignore):
    return semantics.measure(StubSubject(cases, multi=target, serial=reference, record=record))


def replayed(target, reference, cases=CASES, *, record=ignore):
    return prefill_extend.measure(StubSubject(cases, extend=target, record=record))


def once_noisy(scores, query, by):
    """``scores``, of which those of one query differ by ``by`` from answer to answer."""
    signs = iter([1, -1] * 99)

    def noisy(q, items, labels):
        found = scores(q, items, labels)
        return found + next(signs) * by / 2 if tuple(q) == tuple(query) else found

    return noisy


MEASURED_ON_A_PACKED_SERVER = (
    "same_length_isolation_zero", "changed_length_isolation_zero", "delimiter_aligned_equiv_le_0p02",
    "semantics_as_declared", "request_contract_holds",
)  # fmt: skip


# -- raw samples -------------------------------------------------------------------------------

DOCUMENTED = {
    kind: set(re.findall(r"`(\w+)`", re.sub(r"\([^)]*\)", "", fields)))
    for kind, fields in re.findall(r"^\| `([^`]+)` \|[^|]*\|([^|]*)\|$", SAMPLES_PAGE.read_text("utf-8"), re.MULTILINE)
}


@pytest.mark.parametrize(
    ("measure", "make", "kinds"),
    [
        (isolated, multi, {"scores", "replay", "isolation mutated", "leak visibility"}),
        (equal, multi, {"scores", "replay", "equivalence", "leak visibility"}),
        (compared, multi, {"scores", "replay", "comparison"}),
        (probed, multi, {"scores", "replay", "semantics"}),
        (replayed, extender, {"prefill+extend"}),
    ],
)
def test_every_sample_has_the_fields_that_the_reference_lists(measure, make, kinds):
    lines = []
    measure(make(), baseline(), record=lines.append)
    assert kinds <= {line["kind"] for line in lines}
    for line in lines:
        assert line.keys() - {"kind"} == DOCUMENTED[line["kind"]], line["kind"]
        if "case" in line:
            assert line["case"] in ("seven", "four")


def test_samples_say_which_server_answered():
    lines = []
    compared(multi(), baseline(), record=lines.append)
    assert {line["server"] for line in lines if "server" in line} == {"multi-item stub dense", "serial stub"}


# -- the words of a verdict --------------------------------------------------------------------


def test_reasons_of_a_difference():
    gate = equivalence.EQUIVALENCE
    assert judge_difference(gate, None, STRONG) == (Verdict.INCONCLUSIVE, "nothing was measured")
    several = Evidence(leak_visibility=0.5)
    needed = " and ".join(sorted(gate.evidence - {"leak_visibility"})).replace("_", " ")
    assert judge_difference(gate, 0.0, several) == (Verdict.INCONCLUSIVE, f"{needed} not measured")


@pytest.mark.parametrize(
    ("value", "interval", "blocks", "reason"),
    [
        (4.0, (3.5, 4.5), 0, "nothing was measured"),
        (None, (3.5, 4.5), 5, "nothing was measured"),
        (4.0, (3.5, 4.5), 1, "1 timed runs of each side; at least 5 are needed for a verdict"),
        (4.0, (3.5, 4.5), 5, "4 (95 % interval 3.5 to 4.5) reaches 3"),
        (2.0, (1.5, 2.5), 5, "2 (95 % interval 1.5 to 2.5) is below 3"),
        (3.2, (2.5, 4.5), 5, "3.2 (95 % interval 2.5 to 4.5) straddles 3"),
    ],
)
def test_reasons_of_a_ratio(value, interval, blocks, reason):
    assert judge_ratio(speedup.SPEEDUP_N32, value, interval, blocks)[1] == reason


def test_a_ratio_without_a_number_of_runs_was_not_measured():
    record = record_of(speedup.SPEEDUP_N32, Measurement(multi(), 4.0, interval=(3.5, 4.5)))
    assert (record.verdict, record.reason) == (Verdict.INCONCLUSIVE, "nothing was measured")
    assert record.gate == "speedup_n32_ge_3x" and record.interval == (3.5, 4.5)


def test_a_problem_and_a_value_beyond_the_limit_are_both_told():
    attested = Attestation("segment", problem="dense was requested")
    record = record_of(equivalence.EQUIVALENCE, Measurement(multi(), 0.5, STRONG, attested, problem="not read"))
    assert record.reason == "dense was requested; not read; 0.5 exceeds the limit 0.02"


def test_a_doubt_keeps_from_a_pass_and_excuses_no_fail():
    for value, verdict in ((0.0, Verdict.INCONCLUSIVE), (0.5, Verdict.FAIL)):
        record = record_of(equivalence.EQUIVALENCE, Measurement(multi(), value, STRONG, doubt="who knows"))
        assert record.verdict is verdict and (record.reason == "who knows") is (verdict is Verdict.INCONCLUSIVE)


# -- answers -----------------------------------------------------------------------------------

REQUEST = prepare([1, 2], [[3], [4, 5]], [7, 8])


def refusal(response):
    with pytest.raises(ScoreFailure) as caught:
        read_scores(response, REQUEST)
    return caught.value.kind, str(caught.value)


def test_a_failure_quotes_the_first_300_characters_of_the_answer():
    for status in (200, 500):
        kind, text = refusal(httpx.Response(status, text='{"x": "' + "a" * 999))
        quoted = '{"x": "' + "a" * 293
        assert quoted in text and quoted + "a" not in text
        assert kind is (FailureKind.BAD_JSON if status == 200 else FailureKind.HTTP_ERROR)


def test_an_accelerator_that_is_exhausted_is_out_of_memory():
    assert refusal(httpx.Response(500, text="XlaRuntimeError: RESOURCE_EXHAUSTED: no room"))[0] is FailureKind.OOM


def test_a_refused_answer_says_what_was_expected():
    assert (
        "expected 2 rows of 2 scores, got 1 rows of 2: " in refusal(httpx.Response(200, json={"scores": [[1, 0]]}))[1]
    )
    kind, text = refusal(httpx.Response(200, json={"scores": [[None, 1], [0, 1]]}))
    assert (
        kind is FailureKind.BAD_RESPONSE
        and 'Expected `float`, got `null` - at `$.scores[0][0]`; the body begins \'{"scores"' in text
    )


def test_the_largest_float_is_a_number_and_whole_numbers_are_floats():
    scores = read_scores(httpx.Response(200, json={"scores": [[sys.float_info.max, 0], [0, 1]]}), REQUEST)
    assert scores[0, 0] == sys.float_info.max
    assert read_scores(httpx.Response(200, json={"scores": [[1, 0], [0, 1]]}), REQUEST).dtype == np.float64


# -- isolation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("cases", [(), (make_case(1),)], ids=["no case", "one item"])
def test_isolation_without_an_untouched_item_counts_nothing(cases):
    assert isolated(multi(), baseline(), cases).samples == {"cases": 0, "mutations": 0, "items": 0}


def test_the_same_seed_sends_the_same_mutations():
    answers = []
    for seed in (3, 3, 4):
        lines = []
        isolated(multi(), baseline(), seed=seed, record=lines.append)
        answers.append([line["scores"] for line in lines if line["kind"] == "isolation mutated"])
    assert answers[0] == answers[1] != answers[2], "the mutated item's own score tells its tokens"


def test_a_case_that_cannot_be_mutated_hides_no_leak_of_the_next():
    empty = make_case(lengths=[0, 0, 0], name="empty")

    def leaky(query, items, labels):
        found = packed(query, items, labels)
        found[0] += 1e-9 * (sum(items[-1]) % 997)
        return found

    record = record_of(isolation.SAME_LENGTH, isolated(multi(leaky), baseline(), [empty, *CASES]))
    assert record.verdict is Verdict.FAIL


def test_details_of_isolation():
    found = isolated(multi(), baseline(), gate=isolation.CHANGED_LENGTH)
    assert found.samples["mutations"] > 6 and len(found.details.worst) == 6
    assert {entry.own_change > 0 for entry in found.details.worst} == {True}
    assert found.details.mutated_item_change_max >= max(entry.own_change for entry in found.details.worst)


@pytest.mark.parametrize("measure", [isolated, equal])
def test_the_median_of_the_visibility_is_told_where_there_is_one(measure):
    median = measure(multi(), baseline()).details.leak_visibility_median
    _, shifts = leak_visibility(baseline(), CASES, Semantics.PREFIX_FIRST_DELIM, DELIMITER, ignore)
    assert median == float(np.median(shifts))
    alone = make_case(lengths=[3, 0, 0])  # two items, and no neighbour with tokens
    assert measure(multi(), baseline(), [alone]).details.leak_visibility_median is None


def test_an_engine_that_ignores_its_items_is_told_so():
    found = isolated(multi(lambda query, items, labels: np.full((len(items), 2), 0.5)), baseline())
    assert found.problem == "the mutated item keeps its own score: the engine does not read its items"


@pytest.mark.parametrize(
    ("closeness", "verdict"), [(1e-6, Verdict.FAIL), (np.nextafter(1e-6, 0), Verdict.INCONCLUSIVE)]
)
def test_scores_are_saturated_below_a_millionth_and_not_at_it(closeness, verdict):
    target = multi(lambda query, items, labels: np.tile([closeness, 1.0], (len(items), 1)))
    assert record_of(isolation.SAME_LENGTH, isolated(target, baseline())).verdict is verdict


# -- evidence ----------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", [equal, compared])
@pytest.mark.parametrize("number", [0, 1], ids=["first case", "last case"])
def test_noise_of_any_case_is_the_floor(measure, number):
    target = multi(once_noisy(packed, CASES[number].query, 0.25))
    assert measure(target, baseline()).evidence.noise_floor == pytest.approx(0.25)


def test_visibility_is_measured_apart_for_each_semantics_and_delimiter():
    reference = baseline()
    found = {
        leak_visibility(reference, CASES, meant, delimiter, ignore)[0]
        for meant in (Semantics.PREFIX_FIRST_DELIM, Semantics.QUERY_PREFIX)
        for delimiter in (DELIMITER, DELIMITER + 1)
    }
    assert len(found) == 3, "a semantics without a visible delimiter has one, whatever the delimiter"


def test_visibility_is_measured_on_four_pairs_of_a_case_and_on_three_cases():
    many = [make_case(9, seed=seed) for seed in range(5)]
    assert len(leak_visibility(baseline(), many, Semantics.QUERY_PREFIX, DELIMITER, ignore)[1]) == 3 * 4


@pytest.mark.parametrize("measure", [isolated, equal])
def test_visibility_is_asked_for_with_the_delimiter_of_the_run(measure):
    reference = baseline()
    measure(multi(), reference)
    left, right = CASES[0].items[:2]
    behind = (right, (*left, DELIMITER, *right))
    assert ((*CASES[0].query, DELIMITER), behind, CASES[0].labels) in reference.client.requests


def test_the_semantics_probe_carries_its_evidence():
    record = record_of(semantics.AS_DECLARED, probed(multi(once_noisy(packed, CASES[0].query, 1e-6)), baseline()))
    assert record.noise_floor == pytest.approx(1e-6) and 0.1 < record.score_spread <= 1.0


# -- equivalence -------------------------------------------------------------------------------


def test_equivalence_without_cases_tells_nothing():
    found = equal(multi(), baseline(), [])
    assert found.value is None and found.samples == {"cases": 0, "items": 0}
    assert (found.evidence.noise_floor, found.evidence.leak_visibility, found.evidence.score_spread) == (None,) * 3
    nothing = {"mean_abs_diff": None, "query_only_max_abs_diff": None, "leak_visibility_median": None}
    assert found.details == details.Equivalence(worst=details.WorstItem(max_abs_diff=-1.0), **nothing)


def test_of_equal_differences_the_first_is_named():
    assert equal(multi(), baseline()).details.worst == details.WorstItem(max_abs_diff=0.0, case="seven", item=0)


# -- parity ------------------------------------------------------------------------------------


def test_details_of_a_comparison():
    found = compared(multi(lambda *request: packed(*request) + 0.01), baseline(), client_chunk_size=3)
    assert found.details.max_abs_diff == pytest.approx(0.01) == found.details.mean_abs_diff
    assert (found.details.left, found.details.right) == ("multi-item stub dense", "serial stub")
    assert record_of(parity.CROSS_BACKEND_MAX_ABS, found).client_chunk_size == 3


def test_a_comparison_without_cases_has_no_figures():
    found = compared(multi(), baseline(), []).details
    assert found.max_abs_diff is found.mean_abs_diff is None


def test_the_backends_of_both_sides_are_named_once():
    left, right = multi(), baseline()
    assert compared(left, right).backend == "stub"
    right.profile = replace(right.profile, backend="jax")
    assert record_of(parity.CROSS_BACKEND_MAX_ABS, compared(left, right)).backend == "stub vs jax"


def test_two_masks_that_nobody_attests_are_no_comparison():
    record = record_of(parity.SEGMENT_VS_DENSE, compared(multi(mask="segment", executed=None), multi(executed=None)))
    assert record.verdict is Verdict.INCONCLUSIVE
    assert record.reason == ("the servers cannot say which mask they executed: this may compare one mask with itself")


@pytest.mark.parametrize(
    "right",
    [multi(executed=None), baseline(executed=None), multi(mask="segment")],
    ids=["the same mask", "no mask", "one says it"],
)
def test_what_was_executed_is_doubted_only_where_it_matters(right):
    left = multi(executed="dense" if right.profile.mask_impl == "segment" else None)
    assert compared(left, right).doubt is None


def test_the_problems_of_both_sides_are_told():
    left, right = multi(mask="segment", executed="dense"), multi(executed="segment")
    assert compared(left, right).attestation.problem == (
        "segment was requested, but the server executed dense; dense was requested, but the server executed segment"
    )


# -- prefill+extend ----------------------------------------------------------------------------


def test_the_error_of_row_sums_is_told():
    def off(*request):
        return packed_query_prefix(*request) + np.array([2e-6, 0.0])

    found = replayed(extender(off), None)
    assert found.details.row_sum_error == pytest.approx(2e-6) and found.problem is None


# -- semantics ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("off", "verdict"),
    [(0.01, Verdict.INCONCLUSIVE), (0.02, Verdict.INCONCLUSIVE), (np.nextafter(0.02, 1), Verdict.FAIL)],
)
def test_scores_that_resemble_nothing_fail_beyond_the_limit_of_equivalence(off, verdict):
    """A model on which all semantics look alike: only the distance says whether it is any of them."""

    def flat(by):
        return lambda query, items, labels: np.tile([by, 1.0], (len(items), 1))

    assert record_of(semantics.AS_DECLARED, probed(multi(flat(off)), baseline(flat(0.0)))).verdict is verdict


def test_a_probe_without_a_token_to_send_counts_nothing():
    found = probed(multi(), baseline(), [make_case(lengths=[0, 0])])
    assert (found.value, found.holds, found.samples) == (None, None, {"items": 0})


# -- speed-up ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interval", "runs"),
    [(None, 0), ((3.0, 4.0), 0), ((2.9, 3.0), 10), ((2.0, 2.9), 0), ((2.9, 3.1), 10)],
    ids=["none", "lower end at the limit", "upper end at the limit", "below", "straddles"],
)
def test_blocks_are_added_exactly_where_the_interval_straddles(interval, runs):
    point = SimpleNamespace(num_items=speedup.GATED_ITEMS, interval=interval)
    assert speedup.further_runs(point, 5) == runs


def test_a_speed_up_carries_its_attestation_and_its_runs():
    curve = [CurvePoint(32, (4.0,) * 5, (1.0,) * 5)]
    found = speedup.measure_curve(multi(), curve, Attestation("segment", problem="dense was requested"))
    record = record_of(speedup.SPEEDUP_N32, found)
    assert (record.verdict, record.mask_attested) == (Verdict.FAIL, "segment")
    assert speedup.measure_curve(multi(), [], Attestation("dense")).samples == {"timed_runs": 0}


def test_all_requires_what_the_options_ask_for_and_names_are_taken_as_they_are():
    def settings(**given):
        return resolve({f"multiitem_{name}": value for name, value in given.items()}, {}, {})

    always = [name for name, gate in gates().items() if gate.asked_by is None and gate.mode is None]
    assert list(required(settings(require="all", reference="transformers"))) == always
    always.remove("serial_vs_reference_le_0p02")
    assert list(required(settings(require="all"))) == always
    between = {"jax_serial_vs_torch_serial_le_0p02", "jax_multi_vs_torch_multi_semantic_le_0p02"}
    cross = {name for name in always if name.startswith("cross_backend")}
    assert set(always) - set(required(settings(require="all", backend="pytorch"))) == between | cross
    alone = settings(require="all", backend="jax", reference="transformers")
    assert {*always, "serial_vs_reference_le_0p02"} - set(required(alone)) == cross
    assert required(settings(require="serial_vs_reference_le_0p02")) == ("serial_vs_reference_le_0p02",)
    assert set(required(settings(require="all", power=True))) - set(always) == {gate.name for gate in power.GATES}
    assert required(settings(require="fault_is_killed")) == ("fault_is_killed",) and required(settings()) == ()
    assert gate_names() == tuple(gates())


def test_the_evidence_of_a_probe_is_that_of_all_requests():
    target, reference = multi(), baseline()
    found = probed(target, reference, CASES[1:])
    visible, shifts = leak_visibility(reference, CASES[1:], Semantics.PREFIX_FIRST_DELIM, DELIMITER, ignore)
    assert found.evidence.leak_visibility == visible == max(shifts)
    assert found.evidence.semantic_visibility == semantic_visibility(reference, CASES[1:], DELIMITER, ignore) > 0.02
    assert (found.evidence.noise_floor, found.evidence.traffic_floor) == (0.0, 0.0)
    assert found.evidence.score_spread == np.ptp(packed(CASES[1].query, CASES[1].items, CASES[1].labels), axis=0).max()


@pytest.mark.parametrize("place", [1, 2, 3], ids=["first replay", "last replay", "replay in traffic"])
@pytest.mark.parametrize("name", list(MEASURED_ON_A_PACKED_SERVER))
def test_a_replay_without_a_number_fails_whatever_the_others_are(name, place):
    """No finite floor hides it: neither that of other replays nor that of other requests."""
    gate, calls = gates()[name], iter(range(999))

    def broken_once(query, items, labels):
        found = packed(query, items, labels)
        ours = tuple(query) == CASES[0].query and len(labels) == len(CASES[0].labels)
        return found * np.nan if ours and next(calls) == place else found

    record = record_of(gate, gate.measure(StubSubject(CASES, multi=multi(broken_once), serial=baseline())))
    assert record.verdict is Verdict.FAIL, record.reason
    assert "gives a difference of nan" in record.reason
    assert not all(map(math.isfinite, (record.noise_floor, record.traffic_floor)))


@pytest.mark.parametrize("tuned", [False, True])
def test_all_that_are_timed_together_are_timed_once_and_a_tuned_baseline_stands_beside(tuned, monkeypatch):
    """The times of two masks come from the same serial calls; only the gated N has all the timed runs."""
    dense, segment, reference, faster = multi(), multi(mask="segment"), baseline(), baseline()
    timed = []

    def measure_curves(serial, multis, cases_of, *, counts, warmup_runs, timed_runs, further_runs):
        timed.append((serial, counts, warmup_runs, [timed_runs(count) for count in counts]))
        assert further_runs(SimpleNamespace(num_items=32, interval=(2.9, 3.1))) == 2 * 7
        return {each.profile: ([CurvePoint(32, (4.0,) * 5, (1.0,) * 5)], Attestation("dense")) for each in multis}

    def measured(target):
        timings = {"bench_timed_runs": 7, "bench_warmup_runs": 2}
        subject = StubSubject([CASES[0]], multi=target, serial=reference, **timings)
        subject.timed_together = lambda target: [dense, segment]
        subject.tuned_serial = lambda serial: faster if tuned else None
        subject.item_counts = (8, 2)
        return speedup.measure(subject)

    monkeypatch.setattr(speedup, "measure_curves", measure_curves)
    found = [measured(target) for target in (dense, segment)]
    assert [each.target for each in found] == [dense, segment]
    assert timed == [(each, [2, 8, 32], 2, [3, 3, 7]) for each in (reference, *([faster] if tuned else []))]
    for each in found:
        assert each.value == 4.0 and (each.details.performance_vs_tuned_serial is not None) is tuned
