"""A measurement, its evidence, and the record it becomes."""

import json
import math

import msgspec
import numpy as np
import pytest
from release_gates import RELEASED
from stub_targets import DELIMITER, POOL, baseline, hashed, make_case, multi, packed

from pytest_multiitem.adapters.attestation import Attestation
from pytest_multiitem.bench.curve import CurvePoint
from pytest_multiitem.errors import EngineUnavailable
from pytest_multiitem.gates import speedup
from pytest_multiitem.gates.equivalence import EQUIVALENCE
from pytest_multiitem.gates.evidence import baseline as measured_baseline
from pytest_multiitem.gates.evidence import leak_visibility, max_abs, replay_floor, score_spread, semantic_visibility
from pytest_multiitem.gates.gate import Gate
from pytest_multiitem.gates.record import Measurement, blank_record, judged, record_of
from pytest_multiitem.gates.registry import gate_names, gates
from pytest_multiitem.gates.segment import SEGMENT_LOWERS
from pytest_multiitem.results.details import Notes
from pytest_multiitem.results.records import Evidence, Verdict
from pytest_multiitem.scoring.cases import Case
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.servers.errors import ServerError
from pytest_multiitem.transport.client import FailureKind, ScoreFailure

STRONG = Evidence(noise_floor=0.0, leak_visibility=0.5, score_spread=0.5)


def ignore(line):
    pass


def test_the_gates_of_the_contract():
    known = gates()
    assert {name: (known[name].relation, known[name].limit) for name in RELEASED} == RELEASED
    assert gate_names() == tuple(known)
    timing = {name for name in RELEASED if known[name].timing}
    assert timing == {"no_regression_vs_baseline", "speedup_n32_ge_3x"}


@pytest.mark.parametrize("value", [0.0, 0.5, math.nan, None])
def test_a_mask_mismatch_is_a_fail_whatever_the_value(value):
    attested = Attestation("dense", 2, 14, "segment was requested, but the server executed dense")
    record = record_of(EQUIVALENCE, Measurement(multi(), value, STRONG, attested))
    assert record.verdict is Verdict.FAIL and record.reason.startswith(attested.problem)
    assert record.mask_attested == "dense" and record.items_per_sequence == 7.0


def test_a_problem_is_a_fail_whatever_the_value():
    record = record_of(EQUIVALENCE, Measurement(multi(), 0.0, STRONG, problem="it does not read its items"))
    assert (record.verdict, record.reason) == (Verdict.FAIL, "it does not read its items")


def test_a_record_carries_its_evidence():
    target = multi(mask="segment", chunk=2)
    samples, details = {"items": 4}, Notes(entries={"note": 1})
    evidence = Evidence(
        noise_floor=0.001, leak_visibility=0.4, score_spread=0.3, traffic_floor=0.002, semantic_visibility=0.5
    )
    measurement = Measurement(target, 0.01, evidence, Attestation("segment", 3, 6), samples=samples)
    measurement.details = details
    record = record_of(EQUIVALENCE, measurement)
    assert record.verdict is Verdict.PASS
    assert (record.value, record.limit, record.relation) == (0.01, 0.02, "<=")
    assert (record.noise_floor, record.leak_visibility, record.score_spread) == (0.001, 0.4, 0.3)
    assert (record.traffic_floor, record.semantic_visibility) == (0.002, 0.5)
    assert (record.mask_requested, record.mask_attested) == ("segment", "segment")
    assert (record.server_chunk_size, record.items_per_sequence) == (2, 2.0)
    assert record.samples == samples and record.details == details


def test_a_value_that_is_not_finite_leaves_valid_json():
    record = record_of(EQUIVALENCE, Measurement(multi(), np.float64("nan"), STRONG))
    assert record.verdict is Verdict.FAIL
    assert json.loads(msgspec.json.encode(record))["value"] is None


def test_a_gate_without_a_number_can_be_recorded():
    record = record_of(SEGMENT_LOWERS, Measurement(multi(), None, attestation=Attestation("segment")))
    assert record.verdict is Verdict.INCONCLUSIVE and record.limit is None
    failed = record_of(SEGMENT_LOWERS, Measurement(multi(), None, attestation=Attestation("dense", problem="not it")))
    assert failed.verdict is Verdict.FAIL


@pytest.mark.parametrize(
    ("serial", "multi_sec", "verdict"),
    [
        ([4.0] * 5, [1.0] * 5, Verdict.PASS),
        ([3.0] * 5, [1.0] * 5, Verdict.PASS),
        ([2.0] * 5, [1.0] * 5, Verdict.FAIL),
        ([4.0] * 4, [1.0] * 4, Verdict.INCONCLUSIVE),
        ([2.0, 2.0, 4.0, 4.0, 4.0], [1.0] * 5, Verdict.INCONCLUSIVE),
    ],
)
def test_the_speed_up_of_a_curve(serial, multi_sec, verdict):
    curve = [CurvePoint(8, (9.0,) * 5, (1.0,) * 5), CurvePoint(32, tuple(serial), tuple(multi_sec))]
    record = record_of(speedup.SPEEDUP_N32, speedup.measure_curve(multi(), curve, Attestation("dense")))
    assert record.verdict is verdict
    assert record.samples == {"timed_runs": len(serial)}
    assert set(record.details.performance) == {"8", "32"}


def test_a_curve_without_the_gated_point_measures_nothing():
    curve = [CurvePoint(8, (9.0,) * 5, (1.0,) * 5)]
    record = record_of(speedup.SPEEDUP_N32, speedup.measure_curve(multi(), curve, Attestation("dense")))
    assert record.verdict is Verdict.INCONCLUSIVE and record.value is None


def test_a_made_up_gate_needs_no_registration():
    gate = Gate("mine_le_1", "something", "<=", 1.0)
    assert record_of(gate, Measurement(multi(), 1.0)).verdict is Verdict.PASS


def test_max_abs():
    assert max_abs(np.array([[0.1, -0.3], [0.2, 0.0]])) == 0.3
    assert max_abs(np.empty((0, 2))) == 0.0
    assert math.isnan(max_abs(np.array([0.1, math.nan])))


def test_the_floor_is_the_largest_move_of_any_replay():
    moves = iter([0.25, 0.5])
    target = multi(lambda query, items, labels: packed(query, items, labels) + next(moves))
    case, lines = make_case(3), []
    first = packed(case.query, case.items, case.labels)
    assert replay_floor(target, case, first, lines.append) == pytest.approx(0.5)
    assert [line["kind"] for line in lines] == ["replay", "replay"]


def test_the_spread_is_the_median_range_over_items():
    wide = np.array([[0.1, 0.9], [0.9, 0.1]])
    flat = np.array([[0.5, 0.5], [0.5, 0.5]])
    one = np.array([[0.0, 1.0]])
    assert score_spread([wide]) == pytest.approx(0.8)
    assert score_spread([flat, wide, one]) == pytest.approx(0.4)
    assert score_spread([one]) is None and score_spread([]) is None


@pytest.mark.parametrize("semantics", [Semantics.PREFIX_FIRST_DELIM, Semantics.QUERY_PREFIX])
def test_visibility_is_the_largest_shift_by_a_neighbour(semantics):
    case = make_case(3)
    between = (DELIMITER,) if semantics is Semantics.PREFIX_FIRST_DELIM else ()
    query = (*case.query, *between)
    expected = [
        max_abs(hashed([*query, *a, *between, *b], case.labels) - hashed([*query, *b], case.labels))
        for a, b in zip(case.items, case.items[1:], strict=False)
    ]
    assert leak_visibility(baseline(), [case], semantics, DELIMITER, ignore) == (max(expected), expected)


def test_visibility_needs_two_items_with_tokens():
    single = Case("single", (1, 2), ((), (3, 4), ()), (5, 6), POOL)
    assert leak_visibility(baseline(), [single], Semantics.QUERY_PREFIX, DELIMITER, ignore) == (None, [])
    apart = Case("apart", (1, 2), ((3,), (), (4,)), (5, 6), POOL)
    assert len(leak_visibility(baseline(), [apart], Semantics.QUERY_PREFIX, DELIMITER, ignore)[1]) == 1


def test_an_ablation_has_no_visibility():
    with pytest.raises(ValueError, match="equals no serial scoring"):
        leak_visibility(baseline(), [make_case(3)], Semantics.ALL_DELIMS_PREFIX, DELIMITER, ignore)


def test_a_request_is_scored_and_replayed_once_for_all_gates():
    case, lines = make_case(3), []
    moves = iter([0.0, 0.25, 0.0, 0.5])

    def moving(query, items, labels):
        return packed(query, items, labels) + (next(moves) if query == case.query else 0.0)

    target = multi(moving)
    first = measured_baseline(target, case, lines.append)
    assert first.floor == pytest.approx(0.25) and first.traffic_floor == pytest.approx(0.5)
    attested = first.attestation
    assert (attested.mask, attested.packed_sequences, attested.packed_items) == ("dense", 3, 9)
    assert measured_baseline(target, case, lines.append) is first, "a fifth request would have no move left"
    assert [line["kind"] for line in lines] == ["scores", "replay", "replay", "surrounded"]


def test_what_runs_in_traffic_only_is_attested_as_well():
    """A server that falls back under load must not attest what it does when it is left alone."""
    target, case = multi(), make_case(3)

    def scores(query, items, labels):
        target.client.executed = "dense" if query == case.query else "segment"
        return packed(query, items, labels)

    target.client._scores = scores
    found = measured_baseline(target, case, ignore).attestation
    assert "segment" in found.mask and "dense was requested, but the server executed" in found.problem


def test_how_far_the_delimiter_moves_scores():
    case, lines = make_case(6), []
    reference = baseline()
    expected = max(
        max_abs(hashed([*case.query, DELIMITER, *item], case.labels) - hashed([*case.query, *item], case.labels))
        for item in case.items[:4]
    )
    assert semantic_visibility(reference, [case], DELIMITER, lines.append) == expected > 0.02
    assert semantic_visibility(reference, [case], DELIMITER, lines.append) == expected and len(lines) == 1
    deaf = baseline(lambda query, items, labels: np.array([hashed(item, labels) for item in items]))
    assert semantic_visibility(deaf, [case], DELIMITER, ignore) == 0.0
    empty = Case("empty", (1, 2), ((), ()), (5, 6), POOL)
    assert semantic_visibility(reference, [empty], DELIMITER, ignore) is None


def test_a_slow_first_run_decides_nothing():
    """The slowest run is not enough, nor is a ratio: the first one must stand out from all others."""
    warm, usual = (10.0,) * 5, (1.0, 1.1, 1.0, 1.05, 1.0)

    def judged(serial, multi_sec):
        measured = speedup.measure_curve(multi(), [CurvePoint(32, serial, multi_sec)], Attestation("dense"))
        return record_of(speedup.SPEEDUP_N32, measured)

    record = judged(warm, (2.3, *usual[1:]))
    assert record.verdict is Verdict.INCONCLUSIVE
    assert record.reason == (
        "multi: slow first run: the first timed run took 2.24 times the median of the others, and more than 2 times "
        "the slowest of them; nothing shows that it compiled anything: repeat the run without other load"
    )
    assert "serial: slow first run" in judged((21.0, *warm[1:]), usual).reason
    for first in (1.9, 2.2):  # the slowest, but within what a busy machine does
        assert judged(warm, (first, *usual[1:])).verdict is Verdict.PASS
    assert judged(warm, (2.3, 1.2, 1.0, 1.0, 1.0)).verdict is Verdict.PASS
    assert judged((2.0,) * 5, (2.3, *usual[1:])).verdict is Verdict.FAIL


def test_what_several_blocks_attest_is_joined():
    parts = [Attestation("dense", 1, 3), Attestation("segment", 3, 3, "not dense"), Attestation("dense")]
    joined = Attestation.joined(parts)
    assert joined.mask == "dense+segment" and joined.problem == "not dense" and joined.items_per_sequence == 1.5
    assert Attestation.joined([]) == Attestation() and Attestation().mask == "unattested"


# -- what ends a measurement -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "verdict", "reason"),
    [
        (EngineUnavailable("no accelerator"), Verdict.NOT_RUN, "no accelerator"),
        (ServerError("it died"), Verdict.FAIL, "it died"),
        (ScoreFailure(FailureKind.HTTP_ERROR, "HTTP 500", 500), Verdict.FAIL, "http_error: HTTP 500"),
    ],
)
def test_a_server_that_fails_fails_its_gate_and_one_that_cannot_run_was_not_measured(error, verdict, reason):
    def measure(gate):
        assert gate is EQUIVALENCE
        raise error

    record = judged(EQUIVALENCE, measure)
    assert (record.gate, record.verdict, record.reason) == (EQUIVALENCE.name, verdict, str(error))
    assert reason in record.reason and (record.relation, record.limit, record.value) == ("<=", 0.02, None)


def test_a_mistake_in_the_measurement_is_no_verdict():
    with pytest.raises(ZeroDivisionError):
        judged(EQUIVALENCE, lambda gate: 1 // 0)


def test_a_record_says_how_long_it_took(monkeypatch):
    times = iter([10.0, 11.23456])
    monkeypatch.setattr("time.perf_counter", lambda: next(times))
    record = judged(EQUIVALENCE, lambda gate: Measurement(multi(), 0.01, STRONG))
    assert (record.verdict, record.seconds) == (Verdict.PASS, 1.235)


def test_a_blank_record_names_its_gate_and_its_test():
    record = blank_record(EQUIVALENCE, Verdict.NOT_RUN, "not today", "test_it.py::test")
    told = (record.gate, record.verdict, record.reason, record.relation, record.limit, record.nodeid)
    assert told == (EQUIVALENCE.name, Verdict.NOT_RUN, "not today", "<=", 0.02, "test_it.py::test")
    assert blank_record(EQUIVALENCE, Verdict.NOT_RUN, "not today").nodeid == ""


def test_visibility_of_the_delimiter_is_measured_once_for_each_request_and_delimiter():
    reference, lines = baseline(), []
    cases = [make_case(5, seed=seed, name=f"case {seed}") for seed in range(4)]

    def measured(cases, delimiter=DELIMITER):
        return semantic_visibility(reference, cases, delimiter, lines.append)

    found = {measured(cases[:1]), measured(cases[1:2]), measured(cases[:1], DELIMITER - 1)}
    assert len(found) == len(lines) == 3, "each has a value of its own"
    lines.clear()
    assert measured(cases) == max(measured(cases[at : at + 1]) for at in range(3))
    assert [line["case"] for line in lines] == ["case 0", "case 1", "case 2", "case 2"], "three requests are enough"
    assert {tuple(line) for line in lines} == {("kind", "case", "plain", "aligned")}
    apart = np.abs(np.array(lines[0]["aligned"]) - np.array(lines[0]["plain"]))
    assert len(apart) == 4 and apart.max() == measured(cases[:1]) and lines[0]["kind"] == "semantic visibility"
    empty = Case("empty", (1, 2), ((), ()), (5, 6), POOL)
    assert measured([empty, cases[0]]) == measured(cases[:1]), "a request without tokens is passed over"


def test_who_measured_it_has_the_words_of_a_gate_without_a_limit():
    records = [
        record_of(SEGMENT_LOWERS, Measurement(multi(), None, holds=words)) for words in ("it compiles", "", None)
    ]
    told = [(record.verdict, record.reason) for record in records]
    assert told[:2] == [(Verdict.PASS, "it compiles"), (Verdict.PASS, "")]
    assert told[2] == (Verdict.INCONCLUSIVE, "nothing was measured")
