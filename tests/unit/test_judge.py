"""The judge: where a measurement becomes a verdict."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from stub_targets import multi

from pytest_multiitem.gates.equivalence import EQUIVALENCE
from pytest_multiitem.gates.gate import Gate, Measurement, larger_floor, magnitude
from pytest_multiitem.gates.isolation import SAME_LENGTH
from pytest_multiitem.gates.judge import judge_difference, judge_ratio
from pytest_multiitem.gates.prefill_extend import PREFILL_EXTEND_REPLAY
from pytest_multiitem.gates.record import record_of
from pytest_multiitem.gates.registry import gates
from pytest_multiitem.gates.segment import SEGMENT_LOWERS
from pytest_multiitem.gates.speedup import SPEEDUP_N32
from pytest_multiitem.reports import table
from pytest_multiitem.results.records import Evidence, Verdict

STRONG = Evidence(noise_floor=0.0, leak_visibility=0.5, score_spread=0.5)
NAMES = ("noise_floor", "leak_visibility", "score_spread")


def above(value):
    return math.nextafter(value, math.inf)


def verdict(gate, value, evidence=STRONG):
    return judge_difference(gate, value, evidence)[0]


@pytest.mark.parametrize(
    ("gate", "value", "expected"),
    [
        (EQUIVALENCE, 0.0, Verdict.PASS),
        (EQUIVALENCE, 0.02, Verdict.PASS),
        (EQUIVALENCE, above(0.02), Verdict.FAIL),
        (SAME_LENGTH, 0.0, Verdict.PASS),
        (SAME_LENGTH, -0.0, Verdict.PASS),
        (SAME_LENGTH, above(0.0), Verdict.FAIL),
        (PREFILL_EXTEND_REPLAY, 1e-4, Verdict.PASS),
        (PREFILL_EXTEND_REPLAY, above(1e-4), Verdict.FAIL),
        (EQUIVALENCE, -1e-9, Verdict.FAIL),
        (EQUIVALENCE, math.nan, Verdict.FAIL),
        (EQUIVALENCE, math.inf, Verdict.FAIL),
        (EQUIVALENCE, -math.inf, Verdict.FAIL),
        (EQUIVALENCE, None, Verdict.INCONCLUSIVE),
    ],
)
def test_the_limit_itself_holds_and_nothing_beyond(gate, value, expected):
    assert verdict(gate, value) is expected


@pytest.mark.parametrize("missing", NAMES)
@pytest.mark.parametrize("gate", [EQUIVALENCE, SAME_LENGTH])
def test_missing_evidence_is_no_pass(gate, missing):
    found, reason = judge_difference(gate, 0.0, replace(STRONG, **{missing: None}))
    assert found is Verdict.INCONCLUSIVE
    assert reason == f"{missing.replace('_', ' ')} not measured"


def test_everything_that_is_missing_is_named():
    _, reason = judge_difference(EQUIVALENCE, 0.0, Evidence())
    assert all(name.replace("_", " ") in reason for name in NAMES)


def test_a_gate_asks_only_for_its_own_evidence():
    assert verdict(PREFILL_EXTEND_REPLAY, 0.0, Evidence(score_spread=0.5)) is Verdict.PASS
    assert verdict(PREFILL_EXTEND_REPLAY, 0.0, Evidence(noise_floor=0.0, leak_visibility=0.5)) is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("missing", NAMES)
def test_a_violation_needs_no_evidence(missing):
    assert verdict(EQUIVALENCE, 0.3, replace(STRONG, **{missing: None})) is Verdict.FAIL


@pytest.mark.parametrize(
    ("value", "floor", "expected"),
    [
        (0.0, 0.02, Verdict.PASS),  # a floor at the limit still resolves it
        (0.0, above(0.02), Verdict.INCONCLUSIVE),
        (0.03, 0.02, Verdict.FAIL),  # noise within the limit excuses nothing
        (0.03, above(0.02), Verdict.INCONCLUSIVE),
        (0.06, 0.03, Verdict.INCONCLUSIVE),
        (0.09, 0.03, Verdict.INCONCLUSIVE),  # exactly three floors
        (above(0.09), 0.03, Verdict.FAIL),
        (0.0, math.nan, Verdict.FAIL),
        (0.0, math.inf, Verdict.FAIL),
        (1.0, math.inf, Verdict.FAIL),
    ],
)
def test_the_noise_floor(value, floor, expected):
    assert verdict(EQUIVALENCE, value, replace(STRONG, noise_floor=floor)) is expected


UNTOLD = "above the limit 0.02: a violation could not be told from noise"


@pytest.mark.parametrize(
    ("value", "quiet", "traffic", "expected", "words"),
    [
        (0.0, 0.0, 0.02, Verdict.PASS, ""),
        (0.0, 0.0, above(0.02), Verdict.INCONCLUSIVE, f"the noise floor 0.02 (in traffic) is {UNTOLD}"),
        (0.0, 0.03, 0.0, Verdict.INCONCLUSIVE, f"the noise floor 0.03 is {UNTOLD}"),
        (0.09, 0.0, 0.03, Verdict.INCONCLUSIVE, "among others already moves scores by 0.03"),
        (above(0.09), 0.0, 0.03, Verdict.FAIL, ""),
        (0.03, 0.0, 0.02, Verdict.FAIL, ""),
        (0.0, 0.0, math.nan, Verdict.FAIL, "among others gives a difference of nan"),
        (0.0, 0.0, math.inf, Verdict.FAIL, "among others"),
        (0.0, math.nan, 0.0, Verdict.FAIL, "replaying the same request gives"),
        (0.0, None, 0.03, Verdict.INCONCLUSIVE, "noise floor not measured"),
    ],
)
def test_the_larger_floor_counts(value, quiet, traffic, expected, words):
    found, reason = judge_difference(EQUIVALENCE, value, replace(STRONG, noise_floor=quiet, traffic_floor=traffic))
    assert found is expected and words in reason


@given(quiet=st.none() | st.floats(), traffic=st.none() | st.floats())
def test_no_floor_hides_the_other(quiet, traffic):
    floor = larger_floor(quiet, traffic)
    known = [each for each in (quiet, traffic) if each is not None]
    if all(map(math.isfinite, known)):
        assert floor == max(known, default=None)
    else:
        assert not math.isfinite(floor)


def test_a_value_just_above_the_limit_shows_its_digits():
    assert judge_difference(EQUIVALENCE, above(0.02), STRONG)[1] == "0.020000000000000004 exceeds the limit 0.02"


def test_isolation_with_noise_cannot_tell():
    noisy = replace(STRONG, noise_floor=1e-7)
    assert verdict(SAME_LENGTH, 0.0, noisy) is Verdict.INCONCLUSIVE
    assert verdict(SAME_LENGTH, 3e-7, noisy) is Verdict.INCONCLUSIVE
    assert verdict(SAME_LENGTH, 4e-7, noisy) is Verdict.FAIL


@pytest.mark.parametrize(
    ("gate", "visibility", "expected"),
    [
        (EQUIVALENCE, 0.02, Verdict.INCONCLUSIVE),
        (EQUIVALENCE, above(0.02), Verdict.PASS),
        (EQUIVALENCE, 0.0, Verdict.INCONCLUSIVE),
        (EQUIVALENCE, math.nan, Verdict.INCONCLUSIVE),
        (SAME_LENGTH, 0.0, Verdict.INCONCLUSIVE),
        (SAME_LENGTH, above(0.0), Verdict.PASS),
    ],
)
def test_a_leak_must_be_visible_above_the_limit(gate, visibility, expected):
    assert verdict(gate, 0.0, replace(STRONG, leak_visibility=visibility)) is expected


@pytest.mark.parametrize(
    ("gate", "spread", "expected"),
    [
        (SAME_LENGTH, 0.01, Verdict.INCONCLUSIVE),  # the least range of scores, whatever the limit
        (SAME_LENGTH, above(0.01), Verdict.PASS),
        (EQUIVALENCE, 0.02, Verdict.INCONCLUSIVE),  # the limit, where that is larger
        (EQUIVALENCE, above(0.02), Verdict.PASS),
        (EQUIVALENCE, math.nan, Verdict.INCONCLUSIVE),
    ],
)
def test_scores_must_differ_between_items(gate, spread, expected):
    assert verdict(gate, 0.0, replace(STRONG, score_spread=spread)) is expected


ODD = st.sampled_from([None, 0.0, 0.01, 0.02, above(0.01), above(0.02), 0.06, math.nan, math.inf, -math.inf])
NUMBER = st.one_of(ODD, st.floats(0, 0.2), st.floats())


@given(
    limit=st.sampled_from([0.0, 1e-4, 0.01, 0.02]),
    required=st.sets(st.sampled_from(NAMES)),
    value=NUMBER,
    found=st.tuples(NUMBER, NUMBER, NUMBER),
)
def test_no_pass_without_a_held_limit_and_strong_evidence(limit, required, value, found):
    gate = Gate("made_up", "a difference", "<=", limit, evidence=frozenset(required))
    evidence = dict(zip(NAMES, found, strict=True))
    if verdict(gate, value, Evidence(**evidence)) is not Verdict.PASS:
        return
    assert value is not None and 0.0 <= value <= limit
    assert all(evidence[name] is not None for name in required)
    floor, visibility, spread = found
    assert floor is None or floor <= limit
    assert visibility is None or (visibility > limit and visibility > (floor or 0.0))
    assert spread is None or (spread > limit and spread > 0.01)


@given(value=st.floats(0, 0.02), spread=st.floats(0.03, 1), visibility=st.floats(0.03, 1), floor=st.floats(0, 0.02))
def test_a_held_limit_with_strong_evidence_passes(value, spread, visibility, floor):
    assert (
        verdict(EQUIVALENCE, value, Evidence(noise_floor=floor, leak_visibility=visibility, score_spread=spread))
        is Verdict.PASS
    )


@pytest.mark.parametrize(
    ("value", "interval", "blocks", "expected"),
    [
        (4.0, (3.5, 4.5), 5, Verdict.PASS),
        (3.5, (3.0, 4.0), 5, Verdict.PASS),  # the lower end exactly at the limit
        (3.5, (math.nextafter(3.0, 0), 4.0), 5, Verdict.INCONCLUSIVE),
        (2.5, (2.0, 3.0), 5, Verdict.INCONCLUSIVE),  # the upper end exactly at the limit
        (2.5, (2.0, math.nextafter(3.0, 0)), 5, Verdict.FAIL),
        (2.0, (1.5, 2.5), 5, Verdict.FAIL),
        (2.9, (3.0, 3.2), 5, Verdict.INCONCLUSIVE),  # an interval that leaves its own value out
        (3.1, (2.0, 2.9), 5, Verdict.INCONCLUSIVE),
        (4.0, (3.5, 4.5), 4, Verdict.INCONCLUSIVE),
        (1.0, (0.5, 1.5), 4, Verdict.INCONCLUSIVE),
        (4.0, None, 100, Verdict.INCONCLUSIVE),
        (4.0, (3.5, 4.5), 0, Verdict.INCONCLUSIVE),
        (None, None, 5, Verdict.INCONCLUSIVE),
        (None, (3.5, 4.5), 5, Verdict.INCONCLUSIVE),
        (math.nan, (3.5, 4.5), 5, Verdict.FAIL),
        (math.inf, (3.5, 4.5), 5, Verdict.FAIL),
        (4.0, (3.5, math.inf), 5, Verdict.FAIL),
        (4.0, (math.nan, 4.5), 5, Verdict.FAIL),
    ],
)
def test_a_ratio(value, interval, blocks, expected):
    assert judge_ratio(SPEEDUP_N32, value, interval, blocks)[0] is expected


@given(value=st.one_of(st.none(), st.floats()), low=st.floats(), high=st.floats(), blocks=st.integers(0, 9))
def test_no_ratio_passes_below_its_limit(value, low, high, blocks):
    if judge_ratio(SPEEDUP_N32, value, (low, high), blocks)[0] is Verdict.PASS:
        assert 3.0 <= value < math.inf and 3.0 <= low < math.inf and blocks >= 5


def test_a_gate_without_a_limit_is_not_judged_by_a_number():
    with pytest.raises(ValueError, match="segment_lowers has no limit"):
        judge_difference(SEGMENT_LOWERS, 0.0, STRONG)
    with pytest.raises(ValueError, match="segment_lowers has no limit"):
        judge_ratio(SEGMENT_LOWERS, 4.0, (3.5, 4.5), 5)


# -- numbers that are none ---------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
@pytest.mark.parametrize("place", range(3))
def test_a_number_that_is_none_comes_before_all_others_wherever_it_stands(wrong, place):
    floors = [0.1, 0.3, 0.2]
    floors[place] = wrong
    assert not math.isfinite(larger_floor(None, *floors)) and not math.isfinite(max(floors, key=magnitude))
    assert larger_floor(0.1, None, 0.3, 0.2) == 0.3 and larger_floor(None) is larger_floor() is None


@pytest.mark.parametrize(
    "gate", [gate for gate in gates().values() if gate.relation != ">="], ids=lambda gate: gate.name
)
@pytest.mark.parametrize("floors", [(0.1, math.nan), (math.nan, 0.1), (None, math.inf)])
def test_a_floor_that_is_no_number_fails_every_gate_and_is_shown(gate, floors):
    """The judge sees what the record holds, and the report prints that."""
    evidence = replace(STRONG, noise_floor=floors[0], traffic_floor=floors[1])
    record = record_of(gate, Measurement(multi(), 0.0, evidence, holds="all is well"))
    assert record.verdict is Verdict.FAIL
    assert re.fullmatch(r"replaying the same request( among others)? gives a difference of (nan|inf)", record.reason)
    assert not math.isfinite(table.floor(record)) and table.resolved(record).split(" | ")[1] in ("nan", "inf")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_no_number_holds_nothing(value):
    record = record_of(SEGMENT_LOWERS, Measurement(multi(), value, STRONG, holds="all is well"))
    assert (record.verdict, record.reason) == (Verdict.FAIL, f"the measured value is {value}, not a finite number")


# -- rounding by shape, and servers that do not repeat themselves ---------------------------------


@pytest.mark.parametrize(
    ("value", "floor", "expected"),
    [
        (3e-6, 1e-6, Verdict.INCONCLUSIVE),
        (3.1e-6, 1e-6, Verdict.FAIL),
        (3e-6, 0.0, Verdict.FAIL),
        (0.0, 1e-6, Verdict.PASS),
    ],
)
def test_within_three_shape_floors_all_of_it_is_rounding(value, floor, expected):
    said, reason = judge_difference(SAME_LENGTH, value, replace(STRONG, shape_floor=floor, leak_bound=2e-7))
    assert said is expected
    if expected is Verdict.INCONCLUSIVE:
        assert reason == ("3e-06 is above the limit 0, but all of it is rounding: floor 1e-06, content leak ≤ 2e-07")
    if floor and expected is Verdict.FAIL:
        assert reason == "3.1e-06 exceeds the limit 0, and 3 times the shape floor 1e-06 by 1e-07"


def test_a_bound_that_was_not_measured_is_not_made_up():
    _, reason = judge_difference(SAME_LENGTH, 1e-7, replace(STRONG, shape_floor=1e-6))
    assert reason.endswith("content leak not known")


@pytest.mark.parametrize(
    ("gate", "value", "floor", "expected"),
    [
        (EQUIVALENCE, 0.6, 0.475, Verdict.FAIL),
        (EQUIVALENCE, above(0.1), above(0.1), Verdict.FAIL),
        (EQUIVALENCE, 0.1, 0.475, Verdict.INCONCLUSIVE),
        (EQUIVALENCE, 0.3, 0.1, Verdict.INCONCLUSIVE),
        (EQUIVALENCE, 0.31, 0.1, Verdict.FAIL),
        (EQUIVALENCE, 0.0, 0.475, Verdict.INCONCLUSIVE),
        (SAME_LENGTH, 0.6, 0.475, Verdict.FAIL),
        (SAME_LENGTH, 0.1, 0.1, Verdict.INCONCLUSIVE),
        (Gate("wide", "a difference", "<=", 0.05), 0.25, 0.3, Verdict.INCONCLUSIVE),
        (Gate("wide", "a difference", "<=", 0.05), 0.26, 0.3, Verdict.FAIL),
    ],
)
def test_what_is_not_repeatable_is_not_undecided(gate, value, floor, expected):
    said, reason = judge_difference(gate, value, replace(STRONG, noise_floor=floor))
    assert said is expected
    assert reason.startswith("not repeatable") == (expected is Verdict.FAIL and value <= 3 * floor)


def test_noise_in_traffic_alone_is_no_reason_to_call_a_server_unrepeatable():
    said, _ = judge_difference(EQUIVALENCE, 0.6, replace(STRONG, traffic_floor=0.475))
    assert said is Verdict.INCONCLUSIVE
