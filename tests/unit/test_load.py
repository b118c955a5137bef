"""Load: what is counted, from when latency counts, and when a server is saturated."""

import asyncio
import json
import signal
import socket
import threading
import time
from types import SimpleNamespace

import httpx
import msgspec
import numpy as np
import pytest
import typer
import uvicorn
from starlette.applications import Starlette
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from typer.testing import CliRunner

from pytest_multiitem.bench import generator, load_figures
from pytest_multiitem.bench.generator import Sent, poisson_schedule
from pytest_multiitem.bench.load import LoadShape, level_of, measure_load
from pytest_multiitem.bench.load_figures import closed_saturation, open_saturation
from pytest_multiitem.bench.load_records import Level, LoadRecord, LoadReport
from pytest_multiitem.commands import load as load_command
from pytest_multiitem.errors import UsageError
from pytest_multiitem.transport.client import prepare
from pytest_multiitem.validation import load as validation

TWO = prepare([1, 2], [[3], [4, 5]], [7, 8])
THREE = prepare([1, 2], [[3], [4, 5], [6]], [7, 8])


class Behaviour:
    """How a server answers in one test, and what it saw. ``service``: seconds that a request takes, one after the
    other where ``serial``. ``stall_after``: seconds from the first request on after which all wait for 400 ms.
    ``off``: how far the first item's scores are from what they should be."""

    def __init__(self):
        self.service, self.serial, self.stall_after = 0.0, False, None
        self.status, self.content, self.off = 200, None, lambda: 0.0
        self.seen = self.under_way = self.most_under_way = 0
        self._begun = self._stalled_until = None
        self._lock = asyncio.Lock()

    async def score(self, items):
        self.seen += 1
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        off = self.off()
        try:
            await self._serve()
        finally:
            self.under_way -= 1
        if callable(self.content):
            return StreamingResponse(self.content())
        scores = json.dumps({"scores": [[0.25 + off, 0.75 - off], *[[0.25, 0.75]] * (items - 1)]})
        return Response(self.content or scores, status_code=self.status)

    async def _serve(self):
        now = time.monotonic()
        self._begun = self._begun or now
        if self.stall_after is not None and self._stalled_until is None and now - self._begun > self.stall_after:
            self._stalled_until = now + 0.4
        if self._stalled_until is not None:
            await asyncio.sleep(max(0.0, self._stalled_until - now))
        service = self.service() if callable(self.service) else self.service
        if not self.serial:
            await asyncio.sleep(service)
            return
        async with self._lock:
            await asyncio.sleep(service)


class Server:
    """A scoring server in a thread, of a behaviour that can be changed."""

    def __init__(self):
        self.behaviour = Behaviour()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        routes = [Route("/v1/score", self._score, methods=["POST"]), Route("/get_server_info", self._info)]
        self._server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), log_config=None, lifespan="off"))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listener]})
        self._thread.start()

    def stop(self):
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(10)
        self._listener.close()

    async def _info(self, request):
        return Response(json.dumps({"vocab_size": 152_000, "api_key": "hidden"}))

    async def _score(self, request):
        behaviour = self.behaviour
        return await behaviour.score(len(json.loads(await request.body())["items"]))


@pytest.fixture(scope="module")
def server():
    running = Server()
    yield running
    running.stop()


@pytest.fixture
def stub(server):
    """A server's behaviour, new for each test."""
    server.behaviour = Behaviour()
    server.behaviour.url = server.url
    return server.behaviour


@pytest.fixture
def nowhere():
    """An address where nobody listens."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{holder.getsockname()[1]}"


def measured(url, requests, progress=lambda what, seconds: None, **shape):
    return measure_load(url, requests, LoadShape(**shape), progress=progress)


def only_level(*args, **more):
    (level,) = measured(*args, **more).levels
    assert level.successful + level.errored + level.incomplete == level.requests == len(level.records)
    assert sum(level.errors_by_kind.values()) == level.errored
    return level


# -- the schedule ------------------------------------------------------------------------------


def test_a_seed_gives_one_schedule():
    first = poisson_schedule(50, 10, seed=7)
    assert (first == poisson_schedule(50, 10, seed=7)).all()
    assert len(first) != len(poisson_schedule(50, 10, seed=8)) or (first != poisson_schedule(50, 10, seed=8)).any()


@pytest.mark.parametrize(("rate", "duration"), [(0.1, 5), (1, 0.5), (200, 30)])
def test_a_schedule_lies_within_its_level(rate, duration):
    moments = poisson_schedule(rate, duration, seed=3)
    assert moments[0] == 0 and (np.diff(moments) > 0).all() and moments[-1] < duration


def test_arrivals_are_poisson():
    gaps = np.diff(poisson_schedule(200, 100, seed=11))
    assert np.mean(gaps) == pytest.approx(1 / 200, rel=0.03)
    assert np.std(gaps) == pytest.approx(1 / 200, rel=0.05)  # of an exponential distribution, equal to the mean


def test_requests_are_due_as_scheduled(stub):
    level = only_level(stub.url, [TWO], rates=[60], duration=0.3, seed=5)
    assert [record.due_sec for record in level.records] == poisson_schedule(60, 0.3, seed=5).tolist()
    assert all(record.started_sec >= record.due_sec for record in level.records)
    assert level.lateness_ms_max >= level.lateness_ms_p50 >= 0


# -- counting ----------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_closed_loop_keeps_that_many_under_way(stub, concurrency):
    stub.service = 0.1  # long beside what a busy machine takes to start the senders
    level = only_level(stub.url, [TWO], concurrency=[concurrency], duration=0.8)
    assert stub.most_under_way == concurrency
    # One warmed it up; before, it was asked whole, and for its pair of items again, with a neighbour.
    assert level.successful == level.requests == stub.seen - 1 - 2
    assert concurrency < level.requests <= concurrency * (0.8 / 0.1 + 1)
    assert level.mean_latency_ms >= 100
    assert (level.mode, level.concurrency, level.offered_rate) == ("closed", concurrency, None)


def answered(request, due, late, latency, **more):
    """A request that was sent ``late`` seconds after it was due and answered ``latency`` seconds after that."""
    response = httpx.Response(200, json={"scores": [[0.5, 0.5]] * request.num_items})
    return Sent(request, due, started=due + late, finished=due + latency, **({"response": response} | more))


@pytest.mark.parametrize("seed", range(5))
def test_every_figure_follows_from_the_records(seed):
    """From times that are known, computed again from the JSON by other means."""
    rng = np.random.default_rng(seed)
    sent, expected = [], {"items": 0, "in time": 0, "within": 0, "latencies": []}
    for due in sorted(rng.uniform(0, 4, 100).tolist()):
        request, latency = (TWO, THREE)[rng.integers(2)], float(rng.exponential(0.1))
        if rng.random() < 0.2:
            sent.append(answered(request, due, 0.001, latency, response=httpx.Response(500, text="boom")))
            continue
        sent.append(answered(request, due, 0.001, latency))
        expected["items"] += request.num_items
        expected["latencies"].append(1000 * latency)
        if latency <= 0.08:
            expected["in time"] += request.num_items
            expected["within"] += 1
    done = SimpleNamespace(sent=sent, ended_early=None, now=lambda: 5.0, busy=lambda: 0.25)
    level = level_of(done, LoadShape(rates=[25.0], duration=4.0, objective_ms=80.0), offered_rate=25.0)
    written = json.loads(msgspec.json.encode(level))
    assert written["requests"] == 100
    assert written["successful"] == len(expected["latencies"]) == 100 - written["errors_by_kind"]["http_error"]
    assert written["items_per_sec"] == pytest.approx(expected["items"] / 5)
    assert written["goodput_items_per_sec"] == pytest.approx(expected["in time"] / 5)
    assert written["share_within_objective"] == pytest.approx(expected["within"] / 100)
    assert written["mean_latency_ms"] == pytest.approx(np.mean(expected["latencies"]))
    assert written["latency_ms"]["p50"] == pytest.approx(np.median(expected["latencies"]))
    assert written["latency_ms"]["p99"] is None and "459" in written["latency_ms"]["reasons"]["p99"]
    assert written["lateness_ms_p50"] == pytest.approx(1) and written["generator_busy"] == 0.25
    kept = [record["latency_ms"] for record in written["records"] if record["state"] == "successful"]
    assert kept == pytest.approx(expected["latencies"])


def test_a_report_of_several_levels(stub, monkeypatch):
    monkeypatch.setattr(load_figures, "closed_saturation", lambda level, best: (level.concurrency > 1, str(best)))
    monkeypatch.setattr(load_figures, "open_saturation", lambda level: (level.offered_rate > 100, ""))
    stub.service = 0.005
    told = []
    report = measured(
        stub.url, [TWO, THREE], concurrency=[3, 1, 2, 2], rates=[60.5], duration=0.1, seed=4,
        progress=lambda what, seconds: told.append((what, seconds)),
    )  # fmt: skip
    assert [level.label for level in report.levels] == [
        "concurrency 1", "concurrency 2", "concurrency 3", "60.5 requests/s",
    ]  # fmt: skip
    assert (report.saturation_concurrency, report.saturation_rate) == (2, None)
    assert report.levels[0].saturation == "None"
    best = max(report.levels[:2], key=lambda level: level.items_per_sec).concurrency
    assert f"concurrency={best}" in report.levels[2].saturation
    assert report.max_goodput_items_per_sec == max(level.goodput_items_per_sec for level in report.levels) > 0
    assert [what for what, seconds in told if seconds == 0] == [level.label for level in report.levels]
    assert report.schema_version == "score_load_v1" and report.items_per_request == [2, 3]
    for level in report.levels:
        assert [record.items for record in level.records] == [2 + i % 2 for i in range(level.requests)]
        assert level.elapsed_sec >= max(0.1, *(record.finished_sec for record in level.records))


# -- latency counts from when a request was due ------------------------------------------------


def test_a_stall_is_felt_by_every_request_that_was_due_in_it(stub):
    stub.stall_after = 0.2
    level = only_level(stub.url, [TWO], rates=[60], duration=0.8)
    first = next(record for record in level.records if record.latency_ms > 300)
    end = first.started_sec + 0.4  # or later
    during = [record for record in level.records if first.due_sec <= record.due_sec < end]
    assert len(during) > 10
    for record in during:
        assert record.latency_ms > 1000 * (end - record.due_sec) - 2  # a timer may be that early
    assert level.mean_latency_ms > 60


def test_a_closed_loop_feels_a_stall_once(stub):
    stub.stall_after = 0.2
    level = only_level(stub.url, [TWO], concurrency=[1], duration=0.8)
    assert sum(record.latency_ms > 300 for record in level.records) == 1


class Late(list):
    """A request whose fifth turn keeps the generator busy for 300 ms."""

    taken = 0

    def __getitem__(self, index):
        self.taken += 1
        if self.taken == 5:
            time.sleep(0.3)
        return super().__getitem__(index)


def test_a_generator_that_is_late_counts_as_latency(stub):
    level = only_level(stub.url, Late([TWO]), rates=[60], duration=0.5)
    assert level.lateness_ms_max > 200
    late = [record for record in level.records if record.started_sec - record.due_sec > 0.2]
    assert len(late) > 1
    for record in late:
        assert record.latency_ms == 1000 * (record.finished_sec - record.due_sec) > 200


# -- failures ----------------------------------------------------------------------------------


async def trickle():
    while True:
        yield b" "
        await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("behaviour", "kind"),
    [
        ({"status": 500, "content": "boom"}, "http_error"),
        ({"status": 503, "content": "busy"}, "http_error"),
        ({"status": 500, "content": "CUDA out of memory"}, "oom"),
        ({"content": '{"scores": [[0.5'}, "bad_json"),
        ({"content": '{"scores": [[0.5, 0.5]]}'}, "bad_response"),
        ({"content": '{"error": {"message": "boom"}}'}, "bad_response"),
        ({"service": 5.0}, "timeout"),
        ({"content": trickle}, "timeout"),
    ],
)
def test_failures_by_kind(stub, behaviour, kind):
    for name, value in behaviour.items():
        setattr(stub, name, value)
    level = only_level(stub.url, [TWO], rates=[40], duration=0.1, timeout=0.15 if kind == "timeout" else 10.0)
    assert level.errors_by_kind == {kind: level.requests} and level.requests >= 1
    assert level.goodput_items_per_sec == level.items_per_sec == 0
    assert level.share_within_objective == 0 and level.mean_latency_ms is None and level.latency_ms["p50"] is None
    assert all(record.failure_message.startswith(kind) for record in level.records)
    assert level.saturated is None


def test_some_failures_among_successes(stub):
    turn = iter(range(10_000))

    def service():
        stub.status = 500 if next(turn) % 2 else 200
        return 0.005

    stub.service = service
    level = only_level(stub.url, [TWO], concurrency=[1], duration=0.2)
    assert level.errored > 0 and abs(level.errored - level.successful) <= 1
    assert level.items_per_sec == pytest.approx(2 * level.successful / level.elapsed_sec)


def test_a_server_that_is_gone_ends_levels_early(nowhere, monkeypatch):
    monkeypatch.setattr(generator, "_DEAD_AFTER", 0.2)
    start = time.monotonic()
    closed, opened = measured(nowhere, [TWO], concurrency=[3], rates=[50], duration=30).levels
    assert time.monotonic() - start < 10
    for level in (closed, opened):
        assert level.errors_by_kind == {"connection": level.requests} and level.requests > 0
        assert "the server is gone" in level.ended_early and level.saturated is None
    assert closed.requests < 30  # refused connections are not tried again at once


def test_a_server_that_stops_in_the_middle(monkeypatch):
    monkeypatch.setattr(generator, "_DEAD_AFTER", 0.2)
    server = Server()
    server.behaviour.service = 0.005
    threading.Timer(0.3, server.stop).start()
    level = only_level(server.url, [TWO], concurrency=[2], duration=30, timeout=5)
    assert level.successful > 0 and level.errors_by_kind["connection"] > 0
    assert "the server is gone" in level.ended_early and level.elapsed_sec < 10


def test_what_is_not_waited_for_is_incomplete(stub):
    stub.service = 5.0
    start = time.monotonic()
    level = only_level(stub.url, [TWO], concurrency=[2], duration=0.1, drain=0.1, timeout=0.5)
    assert (level.requests, level.incomplete, level.errored) == (2, 2, 0)
    assert all(record.finished_sec is None for record in level.records)
    assert time.monotonic() - start < 3


def test_requests_under_way_at_the_end_are_waited_for(stub):
    stub.service = 0.2
    level = only_level(stub.url, [TWO], concurrency=[2], duration=0.1)
    assert (level.requests, level.successful) == (2, 2) and level.elapsed_sec > 0.19


def test_more_than_can_be_under_way_is_refused_and_counted(stub):
    stub.service = 0.2
    level = only_level(stub.url, [TWO], rates=[100], duration=0.3, max_outstanding=2)
    assert stub.most_under_way <= 2
    refused = [record for record in level.records if record.failure_kind == "overload"]
    assert len(refused) == level.errors_by_kind["overload"] > 10
    assert all(record.started_sec is None and record.state == "errored" for record in refused)
    assert level.saturated


def test_a_password_in_the_address_is_not_kept(nowhere):
    report = measured(nowhere.replace("//", "//user:hunter2@"), [TWO], concurrency=[1], duration=0.1)
    assert report.levels[0].errored and b"hunter2" not in msgspec.json.encode(report)


@pytest.mark.parametrize(
    "wrong",
    [
        {"requests": []},
        {"concurrency": ()},
        {"concurrency": [0]},
        {"rates": [-1.0]},
        {"rates": [float("inf")]},
        {"duration": 0.0},
        {"objective_ms": 0.0},
        {"timeout": float("nan")},
    ],
)
def test_what_cannot_be_measured(nowhere, wrong):
    with pytest.raises(UsageError):
        measured(nowhere, **({"requests": [TWO], "concurrency": [1]} | wrong))


# -- scores ------------------------------------------------------------------------------------


def test_scores_that_are_wrong_under_load_are_no_goodput(stub):
    """From four requests in flight on, the first row is another one's."""
    stub.service = 0.01
    moved = []

    def off():
        moved.append(stub.under_way >= 4)
        return 0.3 if moved[-1] else 0.0

    stub.off = off
    report = measured(stub.url, [THREE], concurrency=[1, 2, 8], duration=0.2)
    one, two, eight = report.levels
    assert one.successful == one.requests > 0 and two.successful == two.requests > 0
    wrong = eight.errors_by_kind["wrong_scores"]
    assert wrong == eight.errored == sum(moved) > 0
    assert eight.goodput_items_per_sec == pytest.approx(3 * eight.successful / eight.elapsed_sec)
    assert report.wrong_answers == wrong
    record = next(record for record in eight.records if record.failure_kind == "wrong_scores")
    assert record.state == "errored" and record.latency_ms is None and record.http_status == 200
    assert "item 1 of 3" in record.failure_message and "0.3 away" in record.failure_message
    assert report.scores.problem is None and report.scores.wrong_warm_ups == 0


def test_all_answers_of_a_level_may_be_wrong(stub):
    stub.off = lambda: 0.001 if stub.seen > 3 else 0.0  # it never recovers
    shape = LoadShape(concurrency=[1], duration=0.1)
    (level,) = measure_load(stub.url, [TWO], shape, dtype="float32").levels
    assert level.errors_by_kind == {"wrong_scores": level.requests}
    assert level.goodput_items_per_sec == level.items_per_sec == 0 and level.mean_latency_ms is None


@pytest.mark.parametrize(("dtype", "wrong"), [("float32", True), ("torch.float32", True), ("bfloat16", False)])
def test_how_far_scores_may_move_depends_on_the_precision(stub, dtype, wrong):
    stub.service = 0.005
    stub.off = lambda: 0.01 if stub.under_way >= 2 else 0.0
    report = measure_load(stub.url, [TWO], LoadShape(concurrency=[3], duration=0.1), dtype=dtype)
    assert (report.wrong_answers > 0) is wrong and report.scores.dtype == dtype


def test_a_wrong_answer_before_the_clock_is_counted(stub):
    stub.off = lambda: 0.3 if stub.seen == 3 else 0.0  # one whole, the pair again, then the warm-up
    report = measured(stub.url, [TWO], concurrency=[1], duration=0.1)
    assert report.scores.wrong_warm_ups == report.wrong_answers == 1
    assert report.levels[0].successful == report.levels[0].requests


def test_a_request_that_is_wrong_without_load_is_judged_by_smaller_ones():
    """A server whose third item is off in every request of three or more, and nowhere else."""
    server = Server()

    async def score(items):
        rows = [[0.25, 0.75]] * items
        if items >= 3:
            rows[2] = [0.75, 0.25]
        return Response(json.dumps({"scores": rows}))

    server.behaviour.score = score
    try:
        report = measured(server.url, [THREE, TWO], concurrency=[2], duration=0.1)
    finally:
        server.stop()
    (level,) = report.levels
    assert "item 3 of 3" in report.scores.problem and "0.5 away" in report.scores.problem
    assert {record.state for record in level.records if record.items == 3} == {"errored"}
    assert {record.state for record in level.records if record.items == 2} == {"successful"}


def test_noise_is_no_wrong_score(stub):
    turn = iter(range(10**6))
    stub.off = lambda: 0.07 * (next(turn) * 0.618 % 1)
    shape = LoadShape(concurrency=[1, 2], duration=0.1)
    report = measure_load(stub.url, [TWO], shape, dtype="float32")
    assert all(level.successful == level.requests for level in report.levels)
    assert "noise" in report.scores.doubt and report.scores.problem is None


def test_without_quiet_scores_answers_are_compared_with_the_first(stub):
    stub.status = 500
    stub.off = lambda: 0.3 if stub.seen == 5 else 0.0  # one failed, one warmed it up, two were right

    def service():
        stub.status = 200 if stub.seen > 1 else 500
        return 0.0

    stub.service = service
    report = measured(stub.url, [TWO], concurrency=[1], duration=0.6)
    (level,) = report.levels
    assert "HTTP 500" in report.scores.doubt
    assert level.errors_by_kind == {"wrong_scores": 1} and level.successful == level.requests - 1


# -- saturation --------------------------------------------------------------------------------


def test_requests_that_come_faster_than_they_are_answered(stub):
    stub.service, stub.serial = 0.01, True  # at most 100 requests/s
    for _ in range(5):  # beside other tests the generator may be late itself, and says that it cannot tell
        level = only_level(stub.url, [TWO], rates=[300], duration=0.2)
        if level.saturated is not None:
            break
    assert level.saturated and level.successful == level.requests > 30
    assert level.records[-1].latency_ms > 10 * level.requests - 200 - 10


def level_from(due, ends, duration, **more):
    """An open level whose requests were due and ended at these moments."""
    records = [
        LoadRecord(state="successful", items=1, due_sec=d, started_sec=d, finished_sec=e, latency_ms=1000 * (e - d))
        for d, e in zip(due, ends, strict=True)
    ]
    latencies = [record.latency_ms for record in records]
    settings = {
        "mode": "open", "duration_sec": duration, "elapsed_sec": max(ends), "requests": len(records),
        "successful": len(records), "errored": 0, "incomplete": 0, "items_per_sec": 1.0,
        "goodput_items_per_sec": 1.0, "latency_ms": {}, "mean_latency_ms": float(np.mean(latencies)),
    }  # fmt: skip
    return Level(**{**settings, "records": records, **more})


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("utilisation", "saturated"), [(0.1, False), (0.4, False), (1.3, True), (3, True)])
def test_saturation_of_a_queue(seed, utilisation, saturated):
    """One server with a fixed service time and a first-in-first-out queue, simulated."""
    due = poisson_schedule(20, 20, seed)
    ends, free = [], 0.0
    for moment in due:
        free = max(free, moment) + utilisation / 20
        ends.append(free)
    assert open_saturation(level_from(due, ends, 20))[0] is saturated


def test_a_queue_that_grows_slowly():
    """It answers at 97 % of the rate, but ever later."""
    due = np.arange(100) * 0.1
    growing, shrinking = 0.1 + 0.003 * np.arange(100), 0.4 - 0.003 * np.arange(100)
    saturated, why = open_saturation(level_from(due, due + growing, 10))
    assert saturated and "rose 2.4-fold" in why
    assert open_saturation(level_from(due, due + shrinking, 10))[0] is False


def test_what_does_not_tell():
    due = np.arange(8) * 0.1
    assert open_saturation(level_from(due, due + 5, 1))[0] is None
    due = np.arange(100) * 0.1
    gone = level_from(due, due + 5, 10, ended_early="after 1 s")
    assert open_saturation(gone) == (None, "after 1 s")
    for limit in ({"generator_busy": 0.97}, {"lateness_ms_p50": 4000.0}):
        saturated, why = open_saturation(level_from(due, due + 5, 10, **limit))
        assert saturated is None and "the generator itself" in why


def test_errors_that_are_answers_are_no_saturation():
    due = np.arange(100) * 0.1
    level = level_from(due, due + 0.05, 10)
    for record in level.records[::4]:
        record.state, record.latency_ms, record.failure_kind, record.http_status = "errored", None, "http_error", 500
    assert open_saturation(level)[0] is False
    for record in level.records[::4]:
        record.http_status = 503
    assert open_saturation(level)[0] is True


@pytest.mark.parametrize(
    ("items_per_sec", "latency", "saturated"),
    [(1.9, 1.05, False), (1.04, 1.9, True), (1.06, 1.9, False), (1.0, 0.99, False), (0.8, 2.5, True)],
)
def test_saturation_of_a_closed_loop(items_per_sec, latency, saturated):
    before = level_from([0], [0.1], 1, mode="closed", concurrency=1)
    after = level_from(
        [0], [0.1], 1, mode="closed", concurrency=2, items_per_sec=items_per_sec,
        mean_latency_ms=before.mean_latency_ms * latency,
    )  # fmt: skip
    assert closed_saturation(after, before)[0] is saturated
    assert closed_saturation(before, None)[0] is None
    after.generator_busy = 0.99
    assert closed_saturation(after, before)[0] is None


# -- the command -------------------------------------------------------------------------------


@pytest.fixture
def command():
    app = typer.Typer()
    app.command()(load_command.load)
    return lambda *words: CliRunner().invoke(app, [*map(str, words)])


def problems_of(path):
    return validation.problems(msgspec.json.decode(path.read_bytes(), type=LoadReport))


SHAPE = ("--query-tokens", 5, "--num-items", 4, "--item-tokens", 3)


def test_the_command(stub, command, tmp_path):
    output = tmp_path / "new" / "load.json"
    done = command(
        "--url", f"{stub.url}/v1/score", *SHAPE, "--client-chunk-size", 3, "--concurrency", "1,2", "--rates", 40,
        "--duration", 0.2, "--output-json", output,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    written = json.loads(output.read_text())
    assert written["items_per_request"] == [3, 1] * 4 and written["url"] == stub.url
    assert written["server_info"] == {"vocab_size": 152000, "api_key": "[redacted]"}
    rows = [line.split() for line in done.stdout.splitlines()[2:5]]
    assert [row[:2] for row in rows] == [["concurrency", "1"], ["concurrency", "2"], ["40", "requests/s"]]
    assert [int(row[2]) for row in rows] == [level["requests"] for level in written["levels"]]
    assert "best goodput" in done.stdout and f"wrote {output}" in done.stdout


def test_the_command_measures_a_workload(stub, command, tmp_path):
    workload = tmp_path / "workload.json"
    request = {"request_id": "r", "query_token_ids": [1], "items_token_ids": [[2], [3], [4]], "label_token_ids": [5, 6]}
    workload.write_text(json.dumps({"schema_version": "canonical_score_workload_v1", "requests": [request] * 2}))
    output = tmp_path / "load.json"
    done = command(
        "--url", stub.url, "--workload", workload, "--concurrency", 1, "--duration", 0.1, "--output-json", output
    )
    assert done.exit_code == 0, done.output
    assert json.loads(output.read_text())["items_per_request"] == [3, 3]


def test_a_level_without_a_success_is_exit_status_1(stub, command):
    stub.status = 500
    done = command("--url", stub.url, *SHAPE, "--concurrency", 1, "--duration", 0.1)
    assert done.exit_code == 1
    assert "http_error" in done.stdout and "no request succeeded at concurrency 1" in done.stderr


def test_wrong_scores_are_exit_status_1(stub, command, tmp_path):
    stub.off = lambda: 0.3 if stub.under_way >= 2 else 0.0
    stub.service = 0.01
    output = tmp_path / "load.json"
    done = command("--url", stub.url, *SHAPE, "--concurrency", "1,3", "--duration", 0.2, "--output-json", output)
    assert done.exit_code == 1 and "no request succeeded" not in done.stderr
    assert "answers with wrong scores: " in done.stderr
    assert "failed by wrong_scores; the first: wrong_scores: item 1 of 4" in done.stdout
    assert problems_of(output) == []


@pytest.mark.parametrize(
    "wrong",
    [
        ("--concurrency", "1,x"), ("--concurrency", "0"), ("--concurrency", "1.5"), ("--rates", "1,,2"),
        ("--rates", "nan"), ("--concurrency", ""), ("--labels", "x"), ("--duration", "0"), ("--url", "nonsense"),
    ],
)  # fmt: skip
def test_wrong_options(nowhere, command, wrong):
    done = command("--url", nowhere, *wrong)
    assert isinstance(done.exception, UsageError) and wrong[0].removeprefix("--") in str(done.exception)


def test_an_interrupted_load_shows_the_levels_that_are_finished(stub, multiitem, monkeypatch, tmp_path):
    def progress(bar, duration):
        def report(level, seconds):
            if level == "concurrency 2":
                signal.raise_signal(signal.SIGTERM)

        return report

    monkeypatch.setattr("pytest_multiitem.commands.load._progress", progress)
    words = (
        "--concurrency",
        "1,2,4",
        "--duration",
        "0.2",
        "--num-items",
        "2",
        "--query-tokens",
        "5",
        "--delimiter",
        "7",
    )
    status, out, err = multiitem("load", "--url", stub.url, *words, "--output-json", tmp_path / "load.json")
    assert status == 143 and "concurrency 1" in out and "concurrency 2" not in out, out
    assert err.splitlines()[-2:] == ["interrupted: nothing is written", "multiitem: ended by SIGTERM"]
    assert [*tmp_path.iterdir()] == []
