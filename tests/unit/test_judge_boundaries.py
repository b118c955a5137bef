"""Boundaries of the judge, on the whole way from a server's bytes to the verdict of a gate's test."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from types import SimpleNamespace

import httpx
import msgspec
import numpy as np
import pytest
from stub_targets import StubSubject, baseline, extender, make_case, multi, packed

from pytest_multiitem.bench.curve import measure_curves
from pytest_multiitem.gates import equivalence, isolation, parity, prefill_extend, semantics, speedup
from pytest_multiitem.gates.judge import MIN_PAIRED_BLOCKS
from pytest_multiitem.gates.record import Measurement, record_of
from pytest_multiitem.gates.registry import gates
from pytest_multiitem.results.records import EVIDENCE, Evidence, Verdict
from pytest_multiitem.session.gate_check import GateCheck
from pytest_multiitem.session.keys import RECORDS
from pytest_multiitem.transport import client as client_module
from pytest_multiitem.transport.client import ScoreClient

#: Everything was measured, nothing was noisy, and a violation would have been seen.
STRONG = Evidence(**{name: 0.0 if "floor" in name else 0.9 for name in EVIDENCE})

differences = pytest.mark.parametrize(
    "gate", [g for g in gates().values() if g.relation in ("==", "<=")], ids=lambda gate: gate.name
)
ratios = pytest.mark.parametrize(
    "gate", [g for g in gates().values() if g.relation == ">="], ids=lambda gate: gate.name
)


def above(value):
    return math.nextafter(value, math.inf)


def below(value):
    return math.nextafter(value, -math.inf)


# -- the limit of every gate -------------------------------------------------------------------


def test_every_gate_is_judged_by_a_difference_a_ratio_or_whoever_measured_it():
    assert {gate.relation for gate in gates().values()} == {"==", "<=", ">=", "holds"}
    assert all((gate.limit is None) == (gate.relation == "holds") for gate in gates().values())


@differences
@pytest.mark.parametrize("number", [float, np.float64])
def test_the_limit_itself_passes_and_the_next_float_fails(gate, number):
    at = record_of(gate, Measurement(multi(), number(gate.limit), STRONG))
    beyond = record_of(gate, Measurement(multi(), number(above(gate.limit)), STRONG))
    assert at.verdict is Verdict.PASS and at.reason == f"{gate.limit:.6g} is within the limit {gate.limit:g}"
    assert beyond.verdict is Verdict.FAIL and beyond.reason.endswith(f"exceeds the limit {gate.limit:g}")
    assert float(beyond.reason.split()[0]) > gate.limit, "the reason shows by what it exceeds the limit"


@differences
@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, -math.inf, -1e-9, below(-0.0)],
    ids=["nan", "inf", "-inf", "negative", "just negative"],
)
def test_no_difference_is_that_value(gate, value):
    assert record_of(gate, Measurement(multi(), value, STRONG)).verdict is Verdict.FAIL


@differences
@pytest.mark.parametrize("floor", [math.nan, math.inf])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_replays_that_are_no_numbers_fail(gate, floor, value):
    record = record_of(gate, Measurement(multi(), value, msgspec.structs.replace(STRONG, noise_floor=floor)))
    assert record.verdict is Verdict.FAIL and "replaying the same request" in record.reason


@ratios
def test_the_limit_of_a_ratio_passes_and_the_next_float_below_does_not(gate):
    def verdict(value, low, high):
        samples = {"timed_runs": MIN_PAIRED_BLOCKS}
        return record_of(gate, Measurement(multi(), value, interval=(low, high), samples=samples)).verdict

    limit = gate.limit
    assert verdict(limit, limit, limit) is Verdict.PASS
    assert verdict(limit, below(limit), limit) is Verdict.INCONCLUSIVE
    assert verdict(below(limit), below(limit), below(limit)) is Verdict.FAIL
    assert verdict(math.nan, limit, limit) is verdict(limit, limit, math.inf) is Verdict.FAIL


@pytest.mark.parametrize("gate", gates().values(), ids=lambda gate: gate.name)
def test_no_value_is_no_pass(gate):
    record = record_of(gate, Measurement(multi(), None, STRONG))
    assert (record.verdict, record.reason) == (Verdict.INCONCLUSIVE, "nothing was measured")


# -- from the bytes of an answer to the verdict ------------------------------------------------


@pytest.fixture
def served(monkeypatch):
    """Puts stub targets behind HTTP: real clients, whose answers ``spoil`` (scores → body) changes."""
    servers = {}

    def handler(request):
        stub, spoil = servers[request.url.host]
        if request.method == "GET":
            return httpx.Response(200, json=stub.server_info())
        asked = json.loads(request.content)
        if not asked["items"]:
            return httpx.Response(400, json={"error": {"code": "empty_items"}})
        scores = stub.score(asked["query"], asked["items"], asked["label_token_ids"]).tolist()
        return httpx.Response(200, content=spoil(scores))

    monkeypatch.setattr(client_module, "BoundedTransport", lambda verify: httpx.MockTransport(handler))

    def serve(target, spoil=lambda scores: json.dumps({"scores": scores})):
        name = f"server{len(servers)}"
        servers[name] = (target.client, spoil)
        target.client = ScoreClient(f"http://{name}")
        return target

    return serve


def concluded(gate, measure):
    """The record with which a gate's test ends, and how it ends: "passed", or "failed"."""
    settings = SimpleNamespace(allow_inconclusive=False, model=None, seed=0)
    engine = SimpleNamespace(known_issue=lambda model: None)
    run = SimpleNamespace(engine=engine, settings=settings, settle=lambda: None, connected=[])
    item = SimpleNamespace(nodeid="a test", stash=pytest.Stash())
    check = GateCheck(gate.name, item, SimpleNamespace(settings=settings, run=run))
    ended = "failed"
    with contextlib.suppress(pytest.fail.Exception):
        check.check(lambda gate: measure())
        ended = "passed"
    (record,) = item.stash[RECORDS]
    return record, ended


CASES = (make_case(7, name="seven"), make_case(4, seed=2, name="four"))


def ignore(line):
    pass


def against_serial(gate):
    return lambda target, serial, cases: gate.measure(StubSubject(cases, multi=target, serial=serial))


def compared(target, serial, cases):
    return parity.compare(StubSubject(cases), target, serial)


def replayed(target, serial, cases):
    return prefill_extend.measure(StubSubject(cases, extend=target))


def timed(runs):
    def measure(target, serial, cases):
        curves = measure_curves(
            serial,
            [target],
            lambda count: [make_case(count, lengths=[3] * count)],
            counts=[speedup.GATED_ITEMS],
            warmup_runs=0,
            timed_runs=lambda count: runs,
        )
        return speedup.measure_curve(target, *curves[target.profile])

    return measure


#: The server under test and how it is measured, of every gate that scores.
MEASURED = {
    isolation.SAME_LENGTH: (multi, against_serial(isolation.SAME_LENGTH)),
    isolation.CHANGED_LENGTH: (multi, against_serial(isolation.CHANGED_LENGTH)),
    equivalence.EQUIVALENCE: (multi, against_serial(equivalence.EQUIVALENCE)),
    semantics.AS_DECLARED: (multi, against_serial(semantics.AS_DECLARED)),
    parity.CROSS_BACKEND_MAX_ABS: (multi, compared),
    prefill_extend.PREFILL_EXTEND_REPLAY: (extender, replayed),
    speedup.SPEEDUP_N32: (multi, timed(1)),
}
BY_CASES = [g for g in MEASURED if g not in (prefill_extend.PREFILL_EXTEND_REPLAY, speedup.SPEEDUP_N32)]
every_gate = pytest.mark.parametrize("gate", MEASURED, ids=lambda gate: gate.name)
every_difference = pytest.mark.parametrize(
    "gate", [gate for gate in MEASURED if gate is not speedup.SPEEDUP_N32], ids=lambda gate: gate.name
)


def judged(served, gate, *, spoil=None, scores=None, cases=CASES, measure=None):
    make, how = MEASURED[gate]
    target = make() if scores is None else make(scores)
    target = served(target) if spoil is None else served(target, spoil)
    serial = served(baseline())
    return concluded(gate, lambda: (measure or how)(target, serial, cases))


@every_difference
def test_a_healthy_server_passes_over_http(served, gate):
    record, ended = judged(served, gate)
    assert (record.verdict, ended) == (Verdict.PASS, "passed"), record.reason


def body(change):
    return lambda scores: json.dumps({"scores": change(scores)})


def first(value):
    """The first score replaced by ``value``, as it stands in the JSON."""
    return lambda scores: json.dumps({"scores": [["@", *scores[0][1:]], *scores[1:]]}).replace('"@"', value)


SPOILT = {
    "NaN": (first("NaN"), "bad_json"),
    "Infinity": (first("Infinity"), "bad_json"),
    "-Infinity": (first("-Infinity"), "bad_json"),
    "larger than a float": (first("1e999"), "bad_json"),
    "null": (first("null"), "Expected `float`, got `null` - at `$.scores[0][0]`"),
    "a number as text": (first('"0.5"'), "Expected `float`, got `str` - at `$.scores[0][0]`"),
    "the last row missing": (body(lambda scores: scores[:-1]), "rows of 2 scores, got"),
    "a row too many": (body(lambda scores: [*scores, scores[0]]), "rows of 2 scores, got"),
    "no rows": (body(lambda scores: []), "got 0 rows"),
    "one label too few": (body(lambda scores: [row[:1] for row in scores]), "rows of 2 scores, got"),
    "one label too many": (body(lambda scores: [[*row, 0.0] for row in scores]), "rows of 2 scores, got"),
    "one label too few in one row": (body(lambda scores: [*scores[:-1], scores[-1][:1]]), "rows of 2 scores, got"),
    "one score an item": (
        body(lambda scores: [row[0] for row in scores]),
        "rows of 2 scores: Expected `array`, got `float`",
    ),
    "an error body": (lambda scores: '{"error": {"message": "boom", "code": "internal_error"}}', "boom"),
    "truncated": (lambda scores: json.dumps({"scores": scores})[:-7], "bad_json"),
    "empty": (lambda scores: "", "bad_json"),
}


@every_gate
@pytest.mark.parametrize("fault", SPOILT)
def test_an_answer_that_holds_no_scores_fails_the_gate(served, gate, fault):
    spoil, reason = SPOILT[fault]
    record, ended = judged(served, gate, spoil=spoil)
    assert (record.verdict, ended) == (Verdict.FAIL, "failed")
    assert reason in record.reason and record.value is None


@pytest.mark.parametrize(
    "order",
    [lambda n: [*range(n)][::-1], lambda n: [*range(1, n), 0], lambda n: [1, 0, *range(2, n)]],
    ids=["reversed", "rotated", "two neighbours"],
)
@pytest.mark.parametrize("gate", [g for g in BY_CASES if g.limit is not None], ids=lambda gate: gate.name)
def test_permuted_rows_fail(served, gate, order):
    record, ended = judged(served, gate, spoil=body(lambda scores: [scores[i] for i in order(len(scores))]))
    assert (record.verdict, ended) == (Verdict.FAIL, "failed"), record.reason


@every_difference
@pytest.mark.parametrize("constant", [[0.5, 0.5], [0.25, 0.75]])
def test_equal_scores_for_every_item_are_no_pass(served, gate, constant):
    record, ended = judged(served, gate, scores=lambda query, items, labels: np.tile(constant, (len(items), 1)))
    # Two runs of prefill+extend that answer the same constant agree: it cannot be told from the values.
    expected = Verdict.INCONCLUSIVE if gate is prefill_extend.PREFILL_EXTEND_REPLAY else Verdict.FAIL
    assert (record.verdict, ended) == (expected, "failed")


@pytest.mark.parametrize("gate", BY_CASES, ids=lambda gate: gate.name)
def test_no_cases_are_no_pass(served, gate):
    record, ended = judged(served, gate, cases=())
    assert (record.verdict, record.reason, ended) == (Verdict.INCONCLUSIVE, "nothing was measured", "failed")
    assert record.value is None


@every_difference
@pytest.mark.parametrize("lengths", [[0], [0, 0, 0]], ids=["one empty item", "empty items"])
def test_items_without_tokens_are_no_pass(served, gate, lengths):
    record, ended = judged(served, gate, cases=(make_case(lengths=lengths),))
    assert ended == "failed" and record.verdict is Verdict.INCONCLUSIVE, record.reason


@every_difference
def test_a_case_without_items_is_no_pass(served, gate):
    case = dataclasses.replace(CASES[0], items=())
    record, ended = judged(served, gate, cases=(case,))
    assert ended == "failed" and record.value is None
    assert record.reason == "nothing was measured" or "empty_items" in record.reason


@every_difference
def test_one_item_is_no_pass(served, gate):
    record, ended = judged(served, gate, cases=(make_case(1),))
    assert (record.verdict, ended) == (Verdict.INCONCLUSIVE, "failed"), record.reason


@pytest.mark.parametrize("runs", [1, 2, MIN_PAIRED_BLOCKS - 1])
def test_too_few_timed_runs_decide_nothing(served, runs):
    record, ended = judged(served, speedup.SPEEDUP_N32, measure=timed(runs))
    assert (record.verdict, ended) == (Verdict.INCONCLUSIVE, "failed")
    assert record.reason == f"{runs} timed runs of each side; at least {MIN_PAIRED_BLOCKS} are needed for a verdict"
    assert record.samples == {"timed_runs": runs}


@pytest.mark.parametrize("limit", [0.02])
@pytest.mark.parametrize(("off", "expected"), [(0.0, Verdict.PASS), (math.ulp(0.02), Verdict.FAIL)])
def test_a_server_exactly_at_the_limit(served, limit, off, expected):
    """The served score, not only the judged value: 0.02 away from its reference, and one bit more."""

    def flat(by):
        def scores(query, items, labels):
            found = packed(query, items, labels)
            found[-1] = [0.0 + by, 1.0]
            return found

        return scores

    target = served(multi(flat(limit + off)))
    serial = served(multi(flat(0.0), mask="segment"))
    record, ended = concluded(parity.CROSS_BACKEND_MAX_ABS, lambda: compared(target, serial, CASES))
    assert record.value == limit + off
    assert (record.verdict, ended) == (expected, "passed" if expected is Verdict.PASS else "failed")
