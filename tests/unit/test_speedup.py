"""The speed gate: its ceiling, refusals by size, and what a slow first run shows. All times are made up."""

from __future__ import annotations

import json
from dataclasses import replace

import httpx
import pytest
from stub_targets import StubSubject, baseline, multi
from test_ceiling import QWEN3_06B, RAW, request

from pytest_multiitem.adapters.attestation import Attestation
from pytest_multiitem.bench.ceiling import Bound
from pytest_multiitem.bench.curve import CurvePoint
from pytest_multiitem.gates import speedup
from pytest_multiitem.gates.record import judged, record_of
from pytest_multiitem.results.details import Speedup
from pytest_multiitem.results.records import Verdict

GATE = speedup.SPEEDUP_N32
TOO_MANY = {"error": {"code": "too_many_items", "message": "64 items are too many: at most 32"}}


class Server:
    """A stub's answers and seconds. ``usual``: of a request; ``first``: how many times as long the second request of a
    shape takes, by its number of items (None: of every shape), after one warm-up. ``refuses``: whether, by items."""

    def __init__(self, target, usual, *, first=None, at=None, refuses=None, answer=None):
        self.usual, self.first, self.at = usual, first or 1.0, at
        self.refuses, self.answer = refuses, answer or httpx.Response(413, json=TOO_MANY)
        self.seen: dict[tuple[int, ...], int] = {}
        self.sent: list[tuple[int, ...]] = []
        target.client.timed_send = self

    def __call__(self, sent):
        body = json.loads(sent.body)
        shape = (len(body["query"]), len(body["items"]), *map(len, body["items"]))
        self.sent.append(shape[:2])
        self.seen[shape] = self.seen.get(shape, 0) + 1
        if self.refuses is not None and self.refuses(shape[1], self.seen[shape]):
            return 0.001, self.answer
        slow = self.seen[shape] == 2 and (self.at is None or self.at(*shape[:2]))
        rows = [[0.5] * sent.num_labels] * sent.num_items
        return self.usual * (self.first if slow else 1.0), httpx.Response(200, json={"scores": rows})


def run(*, counts=(), packed=None, alone=None, info=None, query=16, tokens=3):
    """The gate's record on stubs. ``packed``, ``alone``: what servers do; a packed request takes 1 s, another 0.2."""
    target, serial = multi(executed=None), baseline(executed=None)
    for each in (target, serial):
        each.described = {"model_path": "stub", **(info or {})}
    servers = Server(target, 1.0, **(packed or {})), Server(serial, 0.2, **(alone or {}))
    subject = StubSubject([], multi=target, serial=serial, bench_timed_runs=5, bench_warmup_runs=1)
    subject.item_counts = counts
    subject.timing_case = lambda _, count: request(query, count, tokens)
    record = judged(GATE, lambda gate: speedup.measure(subject))
    return record, servers


def measured(serial, packed, bound, case):
    curve = [CurvePoint(32, (serial,) * 5, (packed,) * 5)]
    found = speedup.measure_curve(multi(), curve, Attestation("dense"), bound=bound, cases_of=lambda count: [case])
    return record_of(GATE, found)


# -- the ceiling -------------------------------------------------------------------------------


def test_a_limit_above_the_ceiling_decides_nothing_and_a_shape_that_can_is_named():
    record = measured(1.4, 1.0, Bound(QWEN3_06B, "b"), request(120, 32, 180))
    assert record.verdict is Verdict.INCONCLUSIVE and record.value == pytest.approx(1.4)
    assert record.reason.startswith("1.4 (95 % interval 1.4 to 1.4) is below 3, but packing saves at most 1.61 times")
    assert "/32/180 can decide" in record.reason
    point = record.details.performance["32"]
    assert point.ceiling == pytest.approx(1.609, abs=1e-3) and point.share_of_ceiling == pytest.approx(
        1.4 / 1.609, 1e-3
    )
    assert record.details.remarks == [] and record.details.ceiling_basis == "b"


def test_the_same_value_below_a_ceiling_that_clears_the_limit_fails():
    record = measured(1.4, 1.0, Bound(QWEN3_06B, ""), request(256, 32, 20))
    assert record.verdict is Verdict.FAIL and record.details.performance["32"].ceiling == pytest.approx(9.62, abs=0.01)


def test_a_pass_above_its_ceiling_stays_one_and_carries_a_note():
    record = measured(5.0, 1.0, Bound(QWEN3_06B, ""), request(120, 32, 180))
    assert record.verdict is Verdict.PASS
    (remark,) = record.details.remarks
    assert remark.startswith("5 at N = 32 is above what operations alone explain (1.61)")


def test_an_unknown_model_changes_no_verdict():
    bound = Bound(None, "unknown: nobody knows")
    for serial, verdict in ((1.4, Verdict.FAIL), (5.0, Verdict.PASS)):
        record = measured(serial, 1.0, bound, request(120, 32, 180))
        assert record.verdict is verdict and record.details.ceiling_basis == bound.basis
        assert record.details.performance["32"].ceiling is record.details.performance["32"].share_of_roofline is None


@pytest.mark.filterwarnings("ignore:The BCa")
def test_no_finite_ratio_fails_whatever_the_ceiling_is():
    record = measured(1.0, float("nan"), Bound(QWEN3_06B, ""), request(120, 32, 180))
    assert record.verdict is Verdict.FAIL and "not finite" in record.reason


def test_a_problem_of_the_server_fails_whatever_the_ceiling_is():
    curve = [CurvePoint(32, (1.4,) * 5, (1.0,) * 5)]
    found = speedup.measure_curve(
        multi(), curve, Attestation("causal", problem="dense was requested"),
        bound=Bound(QWEN3_06B, ""), cases_of=lambda count: [request(120, 32, 180)],
    )  # fmt: skip
    assert record_of(GATE, found).verdict is Verdict.FAIL


def test_every_point_of_a_run_has_the_ceiling_of_its_shape_and_of_its_baseline():
    record, _ = run(counts=(1, 8), info=RAW, query=256, tokens=20)
    ceilings = [record.details.performance[n].ceiling for n in ("1", "8", "32")]
    assert ceilings == sorted(ceilings) and ceilings[2] == pytest.approx(9.62, abs=0.01)
    assert "by the server's own word" in record.details.ceiling_basis
    cached, _ = run(info=RAW | {"disable_radix_cache": False})
    assert cached.details.performance["32"].ceiling < 1 and "keeps the query" in cached.details.ceiling_basis


# -- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refusal_at_another_n_is_noted_there_and_the_gated_one_is_judged(status):
    refuses = {"refuses": lambda items, seen: items > 32, "answer": httpx.Response(status, json=TOO_MANY)}
    record, (packed, _) = run(counts=(1, 8, 64, 128), packed=refuses)
    assert record.verdict is Verdict.PASS and record.value == pytest.approx(6.4)
    assert list(record.details.performance) == ["1", "8", "32"]
    assert list(record.details.refused) == ["64", "128"]
    assert all(why.startswith("refused: ") and "too_many_items" in why for why in record.details.refused.values())
    assert [sent for sent in packed.sent if sent[1] > 32] == [(16, 64), (16, 128)], "each is tried once"


def test_a_refusal_at_the_gated_n_decides_nothing():
    record, _ = run(counts=(1, 8), packed={"refuses": lambda items, seen: items > 8})
    assert (record.verdict, record.value) == (Verdict.INCONCLUSIVE, None)
    assert record.reason.startswith("refused at N = 32: ") and "too_many_items" in record.reason
    assert list(record.details.performance) == ["1", "8"] and list(record.details.refused) == ["32"]


def test_a_serial_side_that_refuses_leaves_no_point():
    record, _ = run(alone={"refuses": lambda items, seen: True})
    assert record.verdict is Verdict.INCONCLUSIVE and record.reason.startswith(
        "refused at N = 32: serial stub server http://stub: HTTP 413: "
    )


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(500, json=TOO_MANY),
        httpx.Response(400, text="label_token_ids: 7 is no token"),
        httpx.Response(200, json={"scores": [[0.5, 0.5]]}),
    ],
    ids=["5xx", "not its size", "wrong shape"],
)
@pytest.mark.parametrize("at", [32, 64])
def test_any_other_failure_fails_at_any_n(at, answer):
    record, _ = run(counts=(64,), packed={"refuses": lambda items, seen: items == at, "answer": answer})
    assert record.verdict is Verdict.FAIL


def test_a_server_that_takes_no_more_requests_has_not_scored_wrongly():
    busy = httpx.Response(429, text="rate limit")
    record, _ = run(counts=(64,), packed={"refuses": lambda items, seen: items == 64, "answer": busy})
    assert record.verdict is Verdict.ERROR


def test_a_refusal_between_answers_is_not_by_size():
    later, _ = run(counts=(8,), packed={"refuses": lambda items, seen: items == 8})
    assert later.verdict is Verdict.FAIL and "too_many_items" in later.reason, "32 items were answered"
    now_and_then, _ = run(packed={"refuses": lambda items, seen: seen == 3})
    assert now_and_then.verdict is Verdict.FAIL, "the same request was answered before"


def test_without_a_warm_up_a_timed_request_is_refused():
    target, serial = multi(executed=None), baseline(executed=None)
    Server(target, 1.0, refuses=lambda items, seen: items > 32)
    Server(serial, 0.2)
    subject = StubSubject([], multi=target, serial=serial, bench_timed_runs=5, bench_warmup_runs=0)
    subject.item_counts, subject.timing_case = (64,), lambda _, count: request(16, count, 3)
    record = judged(GATE, lambda gate: speedup.measure(subject))
    assert record.verdict is Verdict.PASS and list(record.details.refused) == ["64"]


# -- a slow first run --------------------------------------------------------------------------


@pytest.mark.parametrize("counts", [(), (1, 8)], ids=["one N", "several"])
def test_a_first_run_that_is_slow_at_every_shape_was_compiled(counts):
    """Of one N alone, a shape that nobody has sent shows it."""
    record, (packed, _) = run(counts=counts, packed={"first": 8.0})
    assert record.verdict is Verdict.INCONCLUSIVE
    assert record.reason.startswith("multi: the first timed run took 8.00 times the median of the others")
    assert "something was compiled inside the timed runs; raise --multiitem-bench-warmup-runs" in record.reason
    shown = "N = 1" if counts else "15/32/3"
    assert f"the first one of {shown} stands out as well" in record.reason
    assert ((15, 32) in packed.sent) is not counts
    assert record.reason in record.details.performance["32"].doubts


@pytest.mark.parametrize("counts", [(), (1, 8)], ids=["one N", "several"])
@pytest.mark.parametrize("side", ["packed", "alone"])
def test_a_slow_first_run_of_one_shape_is_load_and_is_timed_again(side, counts):
    slow = {"first": 2.1, "at": lambda query, items: query == 16 and items == 32}
    if side == "alone":
        slow = {"first": 300.0, "at": lambda query, items: query == 16}
    record, (packed, _) = run(counts=() if side == "alone" else counts, **{side: slow})
    name = {"packed": "multi", "alone": "serial"}[side]
    assert record.verdict is Verdict.PASS and record.value == pytest.approx(6.4)
    point = record.details.performance["32"]
    assert len(point.multi.latencies_sec) == len(point.serial.latencies_sec) == 5
    assert max(point.multi.latencies_sec) == 1.0 and max(point.set_aside_sec) > 6.4
    (doubt,) = point.doubts
    assert doubt.endswith(f"was a slow first run ({name}) that another shape does not show: set aside")
    assert "compiled" not in record.reason + doubt
    assert packed.sent.count((16, 32)) == 1 + 5 + 1, "one block more, once"


@pytest.mark.parametrize("info", [{"backend": "jax"}, {"enable_torch_compile": True}], ids=str)
def test_an_engine_that_compiles_is_evidence(info):
    slow = {"first": 8.0, "at": lambda query, items: query == 16 and items == 32}
    record, (packed, _) = run(packed=slow, info=info)
    assert record.verdict is Verdict.INCONCLUSIVE and "something was compiled" in record.reason
    assert "the engine compiles" in record.reason and (15, 32) not in packed.sent


def test_a_compiled_run_shows_in_a_block_that_was_set_aside_and_beside_busy_moments():
    """The serial side was slow in the first block as well, by chance; or a later run is half as slow as the first."""
    usual = {"multi_sec": (1.0,) * 5, "serial_sec": (6.4,) * 5}
    aside = CurvePoint(32, **usual, set_aside_sec=(12.0, 8.0))
    busy = CurvePoint(32, **usual | {"multi_sec": (8.0, 1.0, 5.0, 1.0, 1.0)})
    unseen = CurvePoint(32, **usual | {"multi_sec": (7.0, 1.0, 4.0, 1.0, 1.0)})
    for point in (aside, busy):
        assert speedup.compiled_again(point, unseen, "15/32/3").startswith("multi: the first timed run took 8.00 times")
        assert speedup.compiled_again(point, CurvePoint(32, **usual), "15/32/3") is None
    assert speedup.compiled_again(CurvePoint(32, **usual), unseen, "15/32/3") is None


def test_a_suspect_first_run_that_does_not_come_again_changes_nothing():
    target, serial, case = multi(executed=None), baseline(executed=None), request(16, 32, 3)
    Server(target, 1.0), Server(serial, 0.2)
    point = CurvePoint(32, (6.4,) * 5, (4.0, 1.0, 3.0, 1.0, 1.0))
    curves = {target.profile: ([point], Attestation("dense"))}
    (found,), _ = speedup.explained(curves, serial, [target], [case], warmup_runs=1)[target.profile]
    assert found == point
    Server(target, 1.0, first=8.0)
    (found,), _ = speedup.explained(curves, serial, [target], [case], warmup_runs=1)[target.profile]
    assert "the first one of 15/32/3 stands out as well" in found.compiled


def test_an_engine_that_compiles_and_has_no_slow_first_run_passes():
    record, _ = run(info={"backend": "jax"})
    assert record.verdict is Verdict.PASS and record.details.performance["32"].doubts == []


def test_a_fail_with_a_slow_first_run_stays_one():
    target, serial = multi(executed=None), baseline(executed=None)
    Server(target, 10.0, first=8.0)
    Server(serial, 0.2)
    subject = StubSubject([], multi=target, serial=serial, bench_timed_runs=5, bench_warmup_runs=1)
    subject.timing_case = lambda _, count: request(16, count, 3)
    assert judged(GATE, lambda gate: speedup.measure(subject)).verdict is Verdict.FAIL


def test_a_point_that_is_slow_first_again_decides_nothing_without_the_word():
    point = CurvePoint(32, (9.0,) * 5, (3.0, 1.0, 1.0, 1.0, 1.0), (9.0, 9.0), "a slow first run (multi)")
    found = speedup.measure_curve(multi(), [point], Attestation("dense"))
    record = record_of(GATE, found)
    assert record.verdict is Verdict.INCONCLUSIVE and "slow first run" in record.reason
    assert "it was measured again" in record.reason and "compiled" not in record.reason


def test_who_compiles():
    target = multi()
    assert speedup.compiler(target) is None
    target.profile = replace(target.profile, backend="jax")
    assert speedup.compiler(target) == "the engine compiles (jax)"


def test_a_request_that_nobody_has_sent():
    assert len(speedup._unseen(request(16, 4, 3)).query) == 15
    one = speedup._unseen(request(1, 4, 3))
    assert len(one.query) == 1 and [len(item) for item in one.items] == [2] * 4
    assert isinstance(run()[0].details, Speedup)
