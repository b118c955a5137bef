"""One row of a chunk-size matrix: the order of its requests, what is timed, and what becomes of failures."""

import json

import httpx
import numpy as np
import pytest
from stub_targets import LABELS, make_case, multi, packed

from pytest_multiitem.comparison.decision import guardrail
from pytest_multiitem.comparison.measuring.rows import Sampled, chunked, row_of, sample
from pytest_multiitem.comparison.records import RunRecord, WorkloadRequest
from pytest_multiitem.transport.client import FailureKind, ScoreFailure


def request_of(count=7, **shape):
    case = make_case(count, **shape)
    return WorkloadRequest(
        request_id="r",
        query_token_ids=list(case.query),
        items_token_ids=[list(item) for item in case.items],
        label_token_ids=list(LABELS),
    )


class Clock:
    """A stub client's clock; ``seconds(n)`` of the n-th request, or a failure to raise, or an answer to give."""

    def __init__(self, target, name, log, seconds):
        self.log, self.name, self.seconds, self.count = log, name, seconds, 0
        target.client.timed_send = self

    def __call__(self, request):
        body = json.loads(request.body)
        self.log.append((self.name, len(body["items"])))
        self.count += 1
        told = self.seconds(self.count)
        if isinstance(told, Exception):
            raise told
        seconds, answer = told if isinstance(told, tuple) else (told, None)
        scores = packed(body["query"], body["items"], body["label_token_ids"]).tolist()
        return seconds, answer or httpx.Response(200, json={"scores": scores})


def measured(*seconds, chunk=3, count=7, warmup=1, timed=4, lengths=None):
    request, log, targets = request_of(count, lengths=lengths), [], []
    for number, each in enumerate(seconds):
        targets.append(multi())
        Clock(targets[-1], "AB"[number], log, each if callable(each) else lambda n, s=each: s)
    found = sample([(t, chunk) for t in targets], [request], warmup_runs=warmup, timed_runs=timed)
    rows = [row_of(s, cost_per_hour=3.6) for s in found]
    return rows, log, request


def test_requests_hold_every_item_once_in_order():
    request = request_of(7)
    for size in (1, 2, 3, 7, 500):
        requests, shapes = chunked([request], size)
        bodies = [json.loads(r.body) for r in requests]
        assert [item for body in bodies for item in body["items"]] == request.items_token_ids
        assert len(bodies) == -(-7 // size) and all(body["query"] == request.query_token_ids for body in bodies)
        assert {r.num_items for r in shapes} == {r.num_items for r in requests}


def test_equal_items_are_warmed_up_by_one_request_of_every_shape():
    (row,), log, _ = measured(0.5, chunk=3, count=7, lengths=[4] * 7, warmup=2, timed=1)
    assert log[:4] == [("A", 3), ("A", 1), ("A", 3), ("A", 1)] and len(log) == 4 + 3
    assert row.warmup_ms == [500.0] * 4


def test_ragged_items_are_all_warmed_up():
    _, log, _ = measured(0.5, chunk=3, count=6, lengths=[1, 2, 3, 4, 5, 6], warmup=1, timed=1)
    assert len(log) == 2 + 2


def test_sides_turn_round_from_block_to_block():
    _, log, _ = measured(0.5, 0.25, chunk=7, warmup=0, timed=4)
    assert "".join(name for name, _ in log) == "ABBAABBA"


def test_a_row_says_what_was_measured():
    (row,), _, request = measured(lambda n: n / 10, chunk=4, count=7, warmup=0, timed=3)
    # Two requests a run: 0.1 + 0.2, 0.3 + 0.4, 0.5 + 0.6 seconds.
    assert [run.call_latencies_ms for run in row.run_records] == [
        pytest.approx(calls) for calls in ([100, 200], [300, 400], [500, 600])
    ]
    assert (row.num_chunks, row.timed_runs, row.successful_runs, row.success_rate, row.status) == (2, 3, 3, 1.0, "ok")
    assert row.mean_chunk_call_ms == pytest.approx(350) and row.p95_chunk_call_ms == pytest.approx(575)
    assert row.failure_reason_counts == {} and row.noise_floor == 0.0 and row.p95_interpolated
    expected = packed(request.query_token_ids, request.items_token_ids, LABELS)
    assert np.array_equal(row.reference_scores, expected)
    assert row.score_spread == pytest.approx(np.ptp(expected, axis=0).max())
    assert row.percentiles["chunk_call_ms"]["p95"] is None
    assert row.percentiles["chunk_call_ms"]["reasons"]["p95"] == "6 samples; 90 are needed"


def test_totals_are_those_of_the_calls():
    (row,), _, _ = measured(lambda n: [0.5, 1.0, 0.5, 2.0][n - 1], chunk=4, count=7, warmup=0, timed=2)
    assert [run.total_e2e_ms for run in row.run_records] == [1500.0, 2500.0]
    assert (row.p50_total_e2e_ms, row.mean_total_e2e_ms, row.p95_total_e2e_ms) == (2000.0, 2000.0, 2450.0)
    assert row.throughput_items_sec == 3.5 and row.first_run_penalty_ratio == 0.6
    assert row.usd_per_run == pytest.approx(0.002) and row.items_per_usd == pytest.approx(3500)


def test_items_are_asked_for_as_the_workload_asks():
    request = request_of(3)
    request.apply_softmax, request.item_first = False, True
    (body,) = (json.loads(r.body) for r in chunked([request], 3)[0])
    assert body["apply_softmax"] is False and body["item_first"] is True
    assert "item_first" not in json.loads(chunked([request_of(3)], 3)[0][0].body)


@pytest.mark.parametrize("kind", list(FailureKind))
def test_a_failure_is_counted_and_the_rest_is_measured(kind):
    def seconds(n):
        return ScoreFailure(kind, "broken") if n == 3 else 0.1

    (row,), log, _ = measured(seconds, chunk=4, count=7, warmup=0, timed=3)
    assert row.status == "partial_failure" and row.failure_reason_counts == {kind.value: 1}
    assert (row.timed_runs, row.successful_runs) == (3, 2) and row.success_rate == pytest.approx(2 / 3)
    assert [run.ok for run in row.run_records] == [True, False, True]
    assert "broken" in row.run_records[1].failure_detail
    assert len(log) == 2 + 1 + 2, "a run that has failed is not sent to its end"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (httpx.Response(500, text="out of memory"), "oom"),
        (httpx.Response(503, text="busy"), "http_error"),
        (httpx.Response(200, text="{"), "bad_json"),
        (httpx.Response(200, json={"scores": [[0.5, 0.5]]}), "bad_response"),
        (httpx.Response(200, json={"error": {"message": "no"}}), "bad_response"),
    ],
)
def test_bad_answers_fail_their_run(answer, kind):
    (row,), _, _ = measured(lambda n: (0.1, answer), chunk=7, warmup=0, timed=2)
    assert row.status == "failed" and row.failure_reason_counts == {kind: 2} and row.success_rate == 0.0
    assert row.p50_total_e2e_ms is None and row.throughput_items_sec is None and row.reference_scores is None


def test_a_server_that_only_times_out_is_given_up_and_the_other_goes_on():
    rows, log, _ = measured(ScoreFailureOf("timeout"), 0.1, chunk=7, warmup=0, timed=5)
    assert rows[0].timed_runs == 2 and rows[0].failure_reason_counts == {"timeout": 2} and rows[0].success_rate == 0.0
    assert rows[1].timed_runs == 5 and rows[1].status == "ok"
    assert [name for name, _ in log].count("A") == 2


def ScoreFailureOf(kind):
    return lambda n: ScoreFailure(FailureKind(kind), "late")


def test_another_path_than_the_one_asked_for_is_recorded():
    target = multi(mask="segment", executed="dense")
    send = target.client.score

    def timed_send(request):
        body = json.loads(request.body)
        scores = send(body["query"], body["items"], body["label_token_ids"])
        return 0.1, httpx.Response(200, json={"scores": scores.tolist()})

    target.client.timed_send = timed_send
    (found,) = sample([(target, 3)], [request_of(3)], warmup_runs=0, timed_runs=2)
    row = row_of(found)
    assert row.mask_attested == "dense" and "segment was requested" in row.attestation_problem


class Timed:
    """Servers whose scores are those of a stub's function, timed calls too."""

    def __init__(self, *scores, seconds=0.1):
        self.targets = [multi(each) for each in scores]
        for target in self.targets:
            target.client.timed_send = self.call(target.client, seconds)

    def call(self, client, seconds):
        def timed_send(request):
            rows = client.silently(request.query, request.items, request.labels)
            return seconds, httpx.Response(200, json={"scores": rows.tolist()})

        return timed_send

    def rows(self, *sizes, count=16, warmup=1, timed=4):
        """Rows of the one server at several chunk sizes, one after the other."""
        request = request_of(count)
        found = []
        for size in sizes:
            (sampled,) = sample([(self.targets[0], size)], [request], warmup_runs=warmup, timed_runs=timed, seed=1)
            found.append(row_of(sampled))
        return found


def moved(scores, amount):
    """The first row of every answer moved by ``amount(call, N)``."""
    calls = iter(range(10**9))

    def answer(query, items, labels):
        rows = scores(query, items, labels)
        rows[0] += amount(next(calls), len(items)) * np.array([1, -1])
        return rows

    return answer


def test_scores_that_move_between_runs_are_the_noise_floor():
    (row,) = Timed(moved(packed, lambda call, n: 1e-5 * call)).rows(16, warmup=0, timed=3)
    assert row.status == "ok" and row.noise_floor == pytest.approx(2e-5) and row.score_problem is None


def test_a_server_that_does_not_repeat_itself_is_noisy_and_not_wrong():
    turn = iter(range(1, 10**9))

    def noisy(query, items, labels):
        shift = 0.05 * np.random.default_rng(next(turn)).uniform(-1, 1, (len(items), 1))
        return packed(query, items, labels) + shift * [1, -1]

    (row,) = Timed(noisy).rows(16)
    assert row.status == "ok" and row.score_problem is None and row.noise_floor > 0.02


# -- wrong scores ------------------------------------------------------------------------------


def test_a_healthy_server_is_asked_again_once_and_its_rows_are_right():
    timed = Timed(packed)
    rows = timed.rows(16, 4, 1)
    assert [(row.status, row.score_problem) for row in rows] == [("ok", None)] * 3
    judged = timed.targets[0].answers.total
    assert judged.asked == 2, "16 items, once each: other chunk sizes are compared with that"
    assert judged.answers == sum(len(row.warmup_ms) + 4 * row.num_chunks for row in rows)
    assert judged.rows >= 16 * 4 * 3 and judged.problem is None


@pytest.mark.parametrize("order", [(16, 4, 1), (1, 4, 16)])
def test_a_row_that_is_wrong_at_one_chunk_size_alone_has_failed(order):
    scores = moved(packed, lambda call, n: 0.3 if n == 4 else 0.0)
    by_size = {row.client_chunk_size: row for row in Timed(scores).rows(*order)}
    assert by_size[16].status == by_size[1].status == "ok"
    wrong = by_size[4]
    assert wrong.status == "failed" and wrong.success_rate == 0.0 and wrong.p50_total_e2e_ms is None
    assert wrong.failure_reason_counts == {"wrong_scores": 4} and wrong.reference_scores is None
    assert "item 1 of 4" in wrong.run_records[0].failure_detail and len(wrong.run_records[0].call_latencies_ms) == 4
    assert guardrail.why_not(wrong) == "its success rate is 0 (4 wrong_scores)"
    assert guardrail.recommend(list(by_size.values())) in (1, 16)


def test_one_wrong_run_of_many_has_failed():
    scores = moved(packed, lambda call, n: 0.3 if call == 3 else 0.0)  # of one warm-up and four runs
    (row,) = Timed(scores).rows(16)
    assert row.status == "partial_failure" and row.failure_reason_counts == {"wrong_scores": 1}
    assert [run.ok for run in row.run_records] == [True, True, False, True]
    assert row.noise_floor == 0.0, "what is wrong is no noise"
    assert guardrail.recommend([row]) is None


def test_a_wrong_first_run_is_not_what_the_others_are_judged_by():
    (row,) = Timed(moved(packed, lambda call, n: 0.3 if call == 0 else 0.0)).rows(16, warmup=0)
    assert [run.ok for run in row.run_records] == [False, True, True, True]
    request = request_of(16)
    assert np.array_equal(row.reference_scores, packed(request.query_token_ids, request.items_token_ids, LABELS))


def test_a_wrong_warm_up_keeps_a_row_from_winning():
    (row,) = Timed(moved(packed, lambda call, n: 0.3 if call == 0 else 0.0)).rows(16)
    assert row.status == "ok" and row.score_problem.startswith("wrong_scores: item 1 of 16")
    assert guardrail.why_not(row) == row.score_problem and guardrail.recommend([row]) is None


def test_a_row_whose_scores_cannot_be_judged_does_not_win():
    timed = Timed(packed)

    def send(request):
        raise ScoreFailure(FailureKind.CONNECTION, "gone")

    timed.targets[0].client.send = send
    (row,) = timed.rows(16)
    assert row.status == "ok" and "could not be judged: connection" in row.score_problem
    assert guardrail.recommend([row]) is None


def test_servers_are_judged_each_by_itself():
    timed = Timed(packed, moved(packed, lambda call, n: 0.3 if n > 8 else 0.0))
    found = sample([(target, 16) for target in timed.targets], [request_of(16)], warmup_runs=1, timed_runs=3)
    assert [row_of(each).status for each in found] == ["ok", "failed"]


def test_a_first_run_that_compiles_is_seen():
    runs = [RunRecord(ok=True, total_e2e_ms=ms, call_latencies_ms=[ms], block=i) for i, ms in enumerate([8, 2, 2, 3])]
    answer = [(chunked([request_of(1)], 1)[0][0], np.array([[0.5, 0.5]]))]
    slow = row_of(Sampled(1, [1], "s", runs=runs, answers=dict.fromkeys(range(4), answer)))
    assert slow.recompilation == "the first timed run took 4.00 times the median of the others"
    assert slow.first_run_penalty_ratio == pytest.approx(8 / (7 / 3)) and slow.unstable is not None
