"""The performance curve: the order of its requests, and what is timed."""

import json

import httpx
import msgspec
import pytest
from stub_targets import baseline, make_case, multi

from pytest_multiitem.bench.curve import CurvePoint, measure_curves
from pytest_multiitem.gates import speedup
from pytest_multiitem.transport.client import FailureKind, ScoreFailure


class Clock:
    """A stub client's clock: every request takes ``seconds`` a sequence; the log is shared by all sides."""

    def __init__(self, target, name, log, seconds, answers=None, first=1.0):
        self.log, self.name, self.seconds, self.answers, self.first = log, name, seconds, answers, first
        target.client.timed_send = self

    def __call__(self, request):
        items = json.loads(request.body)["items"]
        self.log.append((self.name, len(items)))
        seconds, self.first = self.seconds * self.first, 1.0
        rows = [[0.5] * request.num_labels] * request.num_items
        answer = self.answers() if self.answers else httpx.Response(200, json={"scores": rows})
        return seconds, answer


def measured(*, warmup=1, timed=4, counts=(2, 4), lengths=None, masks=("dense",), first=None):
    """``first``: how many times as long the first timed request of a side takes, by its name."""
    log, asked = [], []
    serial = baseline()
    first = first or {}
    Clock(serial, "serial", log, 3.0, first=first.get("serial", 1.0))
    multis = []
    for number, mask in enumerate(masks):
        target = multi(mask=mask)
        Clock(target, mask, log, 2.0 + number, first=first.get(mask, 1.0))
        multis.append(target)

    def cases_of(count):
        asked.append(count)
        return [make_case(count, lengths=lengths or [3] * count)]

    curves = measure_curves(
        serial,
        multis,
        cases_of,
        counts=counts,
        warmup_runs=warmup,
        timed_runs=timed if callable(timed) else lambda count: timed,
    )
    return curves, log, asked, multis


def blocks(log):
    """The log with each run of one-item serial requests as one entry ("serial", how many)."""
    found = []
    for name, items in log:
        if name == "serial" and found and found[-1][0] == "serial":
            found[-1] = (name, found[-1][1] + items)
        else:
            found.append((name, items))
    return found


def test_sides_are_interleaved_and_turn_round():
    _, log, _, _ = measured(counts=(4,), warmup=0, timed=4)
    # Adjacent turns of one side merge in the log: multi, serial | serial, multi | multi, serial | serial, multi.
    assert [name for name, _ in blocks(log)] == ["dense", "serial", "dense", "dense", "serial", "dense"]
    assert [count for name, count in blocks(log) if name == "serial"] == [8, 8]
    assert [count for name, count in log if name == "dense"] == [4, 4, 4, 4]


def test_several_servers_share_every_block():
    curves, log, _, multis = measured(counts=(2,), warmup=0, timed=2, masks=("dense", "segment"))
    names = [name for name, _ in log]
    assert names == ["segment", "dense", "serial", "serial", "serial", "serial", "dense", "segment"]
    for target, seconds in zip(multis, (2.0, 3.0), strict=True):
        (point,), _ = curves[target.profile]
        assert point.multi_sec == (seconds,) * 2 and point.serial_sec == (6.0, 6.0)


def test_warm_up_is_not_timed():
    curves, log, _, multis = measured(counts=(4,), warmup=3, timed=2)
    ((point,), _) = curves[multis[0].profile]
    assert len(point.serial_sec) == len(point.multi_sec) == 2
    assert log[:6] == [("serial", 1), ("dense", 4)] * 3
    assert len(log) == 6 + 2 * (4 + 1)


def test_warm_up_sends_one_item_of_every_length():
    _, log, _, _ = measured(counts=(4,), warmup=1, timed=1, lengths=[3, 5, 3, 5])
    assert log[:3] == [("serial", 1), ("serial", 1), ("dense", 4)]


def test_every_count_has_its_own_case_and_number_of_runs():
    curves, _, asked, multis = measured(counts=(2, 4), timed=lambda count: 5 if count == 4 else 3)
    points, attestation = curves[multis[0].profile]
    assert asked == [2, 4] and [p.num_items for p in points] == [2, 4]
    assert [len(p.serial_sec) for p in points] == [3, 5]
    assert attestation is not None


def test_serial_time_is_the_sum_of_its_requests():
    curves, _, _, multis = measured(counts=(4,), timed=3)
    ((point,), _) = curves[multis[0].profile]
    assert point.serial_sec == (12.0,) * 3 and point.multi_sec == (2.0,) * 3
    assert point.speedup == 6.0 and point.interval == (6.0, 6.0)


def test_a_first_block_that_is_slow_on_every_side_is_set_aside():
    """Serial: two requests of 3 s a block, the first one of all at 4 times that; both packed servers likewise."""
    slow = {"serial": 4.0, "dense": 2.0, "segment": 3.0}
    curves, log, _, multis = measured(counts=(2,), warmup=0, timed=3, masks=("dense", "segment"), first=slow)
    for target, usual, first in zip(multis, (2.0, 3.0), (4.0, 9.0), strict=True):
        (point,), _ = curves[target.profile]
        assert point.set_aside_sec == (15.0, first)
        assert point.serial_sec == (6.0,) * 3 and point.multi_sec == (usual,) * 3
        assert point.record().set_aside_sec == (15.0, first)
        assert point.doubts == [
            f"the first block, 15 s serial and {first:.0f} s multi, was slow on every side: set aside"
        ]
    assert [name for name, _ in log].count("dense") == 4, "another block is timed in its place"


@pytest.mark.parametrize("fast", ["serial", "dense", "segment"])
def test_a_first_block_that_is_slow_on_some_sides_is_judged(fast):
    """Something was compiled there: that is what the doubts are for."""
    slow = {"serial": 4.0, "dense": 4.0, "segment": 4.0} | {fast: 1.0}
    curves, _, _, multis = measured(counts=(2,), warmup=0, timed=3, masks=("dense", "segment"), first=slow)
    points = [curves[target.profile][0][0] for target in multis]
    assert {point.set_aside_sec for point in points} == {None} and {len(p.serial_sec) for p in points} == {3}
    assert any("first timed run took" in doubt for point in points for doubt in point.doubts)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (httpx.Response(500, text="boom"), FailureKind.HTTP_ERROR),
        (httpx.Response(200, json={"error": {}}), FailureKind.BAD_RESPONSE),
        (httpx.Response(200, json={"scores": [[0.5, 0.5]]}), FailureKind.BAD_RESPONSE),
    ],
)
def test_an_answer_without_scores_is_no_timing(answer, kind):
    serial, target, log = baseline(), multi(), []
    Clock(serial, "serial", log, 1.0)
    Clock(target, "dense", log, 1.0, answers=lambda: answer)
    with pytest.raises(ScoreFailure) as caught:
        measure_curves(
            serial, [target], lambda n: [make_case(n)], counts=[4], warmup_runs=0, timed_runs=lambda count: 1
        )
    assert caught.value.kind is kind


def test_the_record_of_a_point():
    point = CurvePoint(8, (4.0, 4.0, 4.0), (1.0, 1.0, 1.0)).record()
    assert point.speedup_vs_serial_p50 == 4.0 and point.speedup_interval_95 == (4.0, 4.0)
    assert msgspec.structs.asdict(point.multi) == {
        "latencies_sec": [1.0, 1.0, 1.0],
        "p50_sec": 1.0,
        "p95_sec": 1.0,
        "p95_interpolated": True,
        "items_per_sec_p50": 8.0,
        "items_per_sec_p95": 8.0,
    }
    assert CurvePoint(8, (1.0,) * 90, (1.0,) * 90).record().serial.p95_interpolated is False
    assert CurvePoint(8, (1.0,) * 2, (1.0,) * 2).record().speedup_interval_95 is None


@pytest.mark.parametrize(
    ("items", "serial", "multi", "further"),
    [
        (32, (3.5, 2.0, 3.6, 2.1, 3.4), (1.0,) * 5, 10),  # straddles 3
        (32, (6.0,) * 5, (1.0,) * 5, 0),  # clearly above
        (32, (2.0,) * 5, (1.0,) * 5, 0),  # clearly below
        (8, (3.5, 2.0, 3.6, 2.1, 3.4), (1.0,) * 5, 0),  # no gate judges it
    ],
)
def test_a_straddling_gate_is_measured_longer_once(items, serial, multi, further):
    assert speedup.further_runs(CurvePoint(items, serial, multi), 5) == further


def test_a_point_says_why_its_times_are_to_be_doubted():
    assert CurvePoint(32, (3.0, 3.0, 3.0), (1.0, 1.0, 1.0)).record().doubts == []
    doubts = CurvePoint(32, (3.0, 3.1, 3.0), (2.0, 1.0, 1.0)).record().doubts
    assert doubts == [
        "multi: the first timed run took 2.00 times the median of the others",
        "multi: the standard deviation is 43% of the mean",
    ]


def test_several_requests_are_timed_as_several_requests():
    """N items in requests of their own: each item behind its own query on the serial side, none merged on the other."""
    serial, target = baseline(), multi()
    sent = {"serial": [], "multi": []}
    for name, each in (("serial", serial), ("multi", target)):
        Clock(each, name, [], 1.0)
        timed = each.client.timed_send

        def timed_send(request, name=name, timed=timed):
            sent[name].append((request.query, request.items))
            return timed(request)

        each.client.timed_send = timed_send
    cases = [make_case(3, seed=1), make_case(2, seed=2)]
    curves = measure_curves(
        serial, [target], lambda count: cases, counts=[5], warmup_runs=0, timed_runs=lambda count: 1
    )
    (point,), _ = curves[target.profile]
    assert point.num_items == 5 and len(point.serial_sec) == len(point.multi_sec) == 1
    assert sent["multi"] == [(case.query, case.items) for case in cases]
    assert sent["serial"] == [(case.query, (item,)) for case in cases for item in case.items]
