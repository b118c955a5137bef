"""Load: a server under requests that overlap, at several concurrencies (closed loop) and arrival rates (open loop).

In the closed loop, each of c senders waits for its answer before it sends again, so a slow server is asked less. In the
open loop, requests come at random moments that are drawn ahead, as from many users who know nothing of each other.
Latency counts from the moment a request was due: a stall is felt by every request that came during it, also where the
generator itself was late (Gil Tene, How NOT to Measure Latency, 2013: coordinated omission).

No score goes unjudged: before the levels, each request is sent alone, and (of the first 512) its items once more in
smaller requests; after each level, every answer is compared with that. One that is wrong is an error of the kind
``wrong_scores``.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import httpx
import msgspec
import numpy as np
from numpy.typing import NDArray

from pytest_multiitem.bench.generator import Generator, Sent, poisson_schedule
from pytest_multiitem.bench.referee import Referee
from pytest_multiitem.bench.statistics import percentiles
from pytest_multiitem.errors import UsageError
from pytest_multiitem.results.store import utc_now
from pytest_multiitem.scoring.limits import placed_limit
from pytest_multiitem.targets.answers import Answers, WrongRow
from pytest_multiitem.transport.client import (
    SCORE_PATH,
    FailureKind,
    PreparedRequest,
    ScoreClient,
    ScoreFailure,
    Scores,
    deadline,
    http_settings,
    read_scores,
)

LOAD_SCHEMA: Final = "score_load_v1"
#: The kind of a request that was never sent, because too many had no answer yet.
OVERLOAD: Final = "overload"
#: Called with the level that is measured, and for how many seconds already.
Progress = Callable[[str, float], None]
#: Judges answers: the worst row of each that is wrong.
Judge = Callable[[Sequence[tuple[PreparedRequest, Scores]]], Sequence[WrongRow | None]]

#: Requests without an answer that the open loop has at most; each holds a connection, and so a file descriptor.
MAX_OUTSTANDING: Final = 512
#: No request waits in the client for a connection. After 5 s uvicorn closes an idle one, perhaps just as a request
#: is sent on it: ours are closed before.
_LIMITS: Final = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=4.0)
_TICK: Final = 0.5  # seconds between two reports of progress
#: A server keeps up while it answers at this share of the rate at which requests come.
_KEEPS_UP: Final = 0.95
#: Latency rises where the median of a level's last third is this many times that of its first third.
_RISES: Final = 1.5
#: More senders that gain less than this in items/s while latency grows only stand in a queue.
_GAIN: Final = 0.05
#: Fewer arrivals show no trend.
_TREND_SAMPLES: Final = 9
#: A generator that computes for this share of the time, or is as late as this (the larger of milliseconds and of a
#: share of the mean latency) at the median, is slower than the server that it should measure.
_BUSY: Final = 0.8
_LATE_MS, _LATE_SHARE = 10.0, 0.5
#: Items that are sent in smaller requests before the levels: those of the first requests, and at least the first's.
_JUDGED_ITEMS: Final = 512
#: HTTP statuses by which a server sheds load.
_SHED: Final = (429, 503)


class LoadRecord(msgspec.Struct, kw_only=True):
    """One request; times in seconds from the level's start.

    ``due_sec``: when it was to be sent. ``started_sec``: when it was, null where the generator refused to.
    ``finished_sec``: its last byte or its failure, null where it was not waited for. ``latency_ms``: from when it
    was due to its last byte, where it succeeded. ``failure_kind``: a `transport.client.FailureKind`, or "overload".
    """

    state: Literal["successful", "errored", "incomplete"]
    items: int
    due_sec: float
    started_sec: float | None = None
    finished_sec: float | None = None
    latency_ms: float | None = None
    failure_kind: str | None = None
    failure_message: str | None = None
    http_status: int | None = None


class JudgedScores(msgspec.Struct, kw_only=True):
    """With what the answers of all levels were compared.

    ``limit``: how far scores of the same item may be apart, for the precision ``dtype`` that the server states.
    ``answers``, ``rows``: quiet ones, compared with each other before the levels; ``asked``: of these, the smaller
    requests. ``max_difference``: between those rows. ``problem``: the server contradicts itself without any load; then
    levels are judged by the smaller requests. ``wrong_warm_ups``: of the requests before the levels' clocks.
    ``doubt``: why some answers could not be judged.
    """

    limit: float
    dtype: str | None = None
    answers: int = 0
    rows: int = 0
    asked: int = 0
    max_difference: float | None = None
    problem: str | None = None
    wrong_warm_ups: int = 0
    doubt: str | None = None


class Level(msgspec.Struct, kw_only=True):
    """One concurrency (``mode`` closed) or one arrival rate (open), held for ``duration_sec``.

    ``offered_rate``: requests a second on average. ``elapsed_sec``: until the last answer; what is per second is
    per second of these. ``latency_ms`` (percentiles) and ``mean_latency_ms``: of the successful requests.
    ``goodput_items_per_sec``: items of requests that succeeded within the objective. ``share_within_objective``: of
    all requests. ``lateness_ms_p50``, ``lateness_ms_max``: the generator's own, from when a request was due until it
    was sent. ``generator_busy``: the share of the time that it computed. ``saturated``: null where it cannot be told;
    ``saturation``: why, in each case. ``ended_early``: why requests were issued for less than ``duration_sec``.
    """

    mode: Literal["closed", "open"]
    duration_sec: float
    elapsed_sec: float
    requests: int
    successful: int
    errored: int
    incomplete: int
    items_per_sec: float
    goodput_items_per_sec: float
    latency_ms: dict[str, Any]
    concurrency: int | None = None
    offered_rate: float | None = None
    errors_by_kind: dict[str, int] = {}
    mean_latency_ms: float | None = None
    share_within_objective: float | None = None
    lateness_ms_p50: float | None = None
    lateness_ms_max: float | None = None
    generator_busy: float | None = None
    saturated: bool | None = None
    saturation: str | None = None
    ended_early: str | None = None
    records: list[LoadRecord] = []

    @property
    def label(self) -> str:
        """For people: which level this is."""
        return f"concurrency {self.concurrency}" if self.mode == "closed" else f"{self.offered_rate:g} requests/s"


class LoadReport(msgspec.Struct, kw_only=True):
    """All levels of one server.

    ``items_per_request``: sizes of the requests that were sent in turn. ``saturation_concurrency`` and
    ``saturation_rate``: the lowest that saturate the server, null where none did. ``server_info``: what the server
    says of itself, where it was asked. ``scores``: how the answers were judged.
    """

    schema_version: Literal["score_load_v1"] = LOAD_SCHEMA
    url: str
    seed: int
    duration_sec: float
    timeout_sec: float
    latency_objective_ms: float
    items_per_request: list[int]
    levels: list[Level]
    max_goodput_items_per_sec: float
    saturation_concurrency: int | None = None
    saturation_rate: float | None = None
    generated_at_utc: str | None = None
    server_info: Any = None
    scores: JudgedScores | None = None

    @property
    def wrong_answers(self) -> int:
        """Answers with wrong scores, over all levels and the requests before them."""
        counted = sum(level.errors_by_kind.get(FailureKind.WRONG_SCORES.value, 0) for level in self.levels)
        return counted + (0 if self.scores is None else self.scores.wrong_warm_ups)


@dataclass(frozen=True, kw_only=True)
class LoadShape:
    """Which load, for how long. Raises UsageError for one that cannot be.

    ``concurrency``: senders of each closed level. ``rates``: requests a second of each open one. ``duration``: seconds
    for which a level issues requests; it then waits for those under way, ``drain`` seconds at most where given, and
    what is left is incomplete. ``objective_ms``: goodput counts what is answered within it. ``seed``: of the arrivals.
    ``timeout``: seconds that a request may take. ``max_outstanding``: requests without an answer, in the open loop.
    """

    concurrency: Sequence[int] = ()
    rates: Sequence[float] = ()
    duration: float = 10.0
    objective_ms: float = 500.0
    seed: int = 20_260_101
    timeout: float = 180.0
    drain: float | None = None
    max_outstanding: int = MAX_OUTSTANDING

    def __post_init__(self) -> None:
        if not (self.concurrency or self.rates):
            raise UsageError("a load measurement needs a concurrency or a rate")
        for what, values in (
            ("concurrency", self.concurrency), ("rate", self.rates), ("duration", [self.duration]),
            ("objective_ms", [self.objective_ms]), ("timeout", [self.timeout]),
        ):  # fmt: skip
            for value in values:
                if not 0 < value < math.inf:
                    raise UsageError(f"{what} {value:g} is not valid: expected a number above 0")


def measure_load(
    url: str,
    requests: Sequence[PreparedRequest],
    shape: LoadShape,
    *,
    api_key: str | None = None,
    ca_file: Path | None = None,
    dtype: str | None = None,
    progress: Progress = lambda what, seconds: None,
) -> LoadReport:
    """A level for each concurrency, then one for each rate, in ascending order; ``requests`` are sent in turn.

    Before each level, untimed requests warm the server up and wait for what the level before has left in its queue.
    ``dtype``: the precision that the server states. Raises UsageError where there is no request; a server that fails,
    or is gone, is in the report.
    """
    if not requests:
        raise UsageError("a load measurement needs a request")
    settings = http_settings(url, timeout=shape.timeout, api_key=api_key, ca_file=ca_file)
    with ScoreClient(url, timeout=shape.timeout, api_key=api_key, ca_file=ca_file) as client:
        scores = _QuietScores(client, shape, dtype)
        scores.ask(requests)
        levels = asyncio.run(_levels(settings, requests, shape, progress, scores))
    saturated = [level for level in levels if level.saturated]
    return LoadReport(
        url=str(httpx.URL(url).copy_with(userinfo=b"")),
        seed=shape.seed,
        duration_sec=shape.duration,
        timeout_sec=shape.timeout,
        latency_objective_ms=shape.objective_ms,
        items_per_request=[request.num_items for request in requests],
        levels=levels,
        max_goodput_items_per_sec=max(level.goodput_items_per_sec for level in levels),
        saturation_concurrency=next((level.concurrency for level in saturated if level.mode == "closed"), None),
        saturation_rate=next((level.offered_rate for level in saturated if level.mode == "open"), None),
        generated_at_utc=utc_now(),
        scores=scores.judged,
    )


class _QuietScores:
    """What the requests score while nothing else is sent, and whether other answers are that."""

    def __init__(self, client: ScoreClient, shape: LoadShape, dtype: str | None) -> None:
        self._client, self._timeout, self._seed = client, shape.timeout, shape.seed
        self._answers = Answers()
        self.judged = JudgedScores(limit=placed_limit(dtype), dtype=dtype)
        self._referee = Referee(self._answers, self._send, limit=self.judged.limit, seed=shape.seed)

    def _send(self, request: PreparedRequest) -> Scores:
        with deadline(self._timeout, "a request before or after a level"):
            return self._client.send(request)

    def ask(self, requests: Sequence[PreparedRequest]) -> None:
        """Send each request, and the items of the first ones in smaller requests; up to the first that fails."""
        items = 0
        try:
            for request in {request.body: request for request in requests}.values():
                scores = self._send(request)
                if items == 0 or items + request.num_items <= _JUDGED_ITEMS:
                    self._answers.add(request, scores)
                else:
                    self._referee.wrong([(request, scores)])  # the first answer: what the others must equal
                items += request.num_items
            found = self._answers.judge(self._send, limit=self.judged.limit, seed=self._seed)
        except ScoreFailure as failure:
            self.judged.doubt = (
                f"the scores without load could not be had ({failure}): answers are compared with the first"
            )
            self._answers.drop()
            return
        self.judged.answers, self.judged.rows, self.judged.asked = found.answers, found.rows, found.asked
        self.judged.max_difference, self.judged.problem = found.largest, found.problem
        self.judged.doubt = found.doubt

    def wrong(self, answered: Sequence[tuple[PreparedRequest, Scores]]) -> list[WrongRow | None]:
        """See `Referee.wrong`."""
        found = self._referee.wrong(answered)
        self.judged.doubt = self.judged.doubt or self._referee.doubt
        return found

    def judge_warm_ups(self, answers: Sequence[tuple[PreparedRequest, httpx.Response]]) -> None:
        """Count the answers before a level that are wrong; what gives no scores shows in the level."""
        answered = []
        for request, response in answers:
            with suppress(ScoreFailure):
                answered.append((request, read_scores(response, request)))
        self.judged.wrong_warm_ups += sum(row is not None for row in self.wrong(answered))


async def _levels(
    settings: dict[str, Any],
    requests: Sequence[PreparedRequest],
    shape: LoadShape,
    progress: Progress,
    scores: _QuietScores,
) -> list[Level]:
    drain = math.inf if shape.drain is None else shape.drain
    duration = shape.duration
    levels: list[Level] = []
    async with httpx.AsyncClient(**settings, limits=_LIMITS) as http:

        async def measured(what: str, work: Callable[[Generator], Coroutine[Any, Any, None]], **load: Any) -> Level:
            progress(what, 0.0)
            warm_ups = await _warm_up(http, requests, shape.timeout)
            generator = Generator(http, requests, timeout=shape.timeout)

            async def report() -> None:
                while True:
                    await asyncio.sleep(_TICK)
                    progress(what, generator.now())

            reporting = asyncio.create_task(report())
            try:
                await work(generator)
            finally:
                reporting.cancel()
            level = level_of(generator, shape, scores.wrong, **load)
            scores.judge_warm_ups(warm_ups)
            return level

        for senders in sorted(set(shape.concurrency)):
            work = partial(Generator.closed, concurrency=senders, duration=duration, drain=drain)
            level = await measured(f"concurrency {senders}", work, concurrency=senders)
            best = max(levels, key=lambda lower: lower.items_per_sec, default=None)
            level.saturated, level.saturation = closed_saturation(level, best)
            levels.append(level)
        for rate in sorted(set(shape.rates)):
            moments = poisson_schedule(rate, duration, shape.seed)
            work = partial(
                Generator.open, moments=moments, duration=duration, drain=drain, max_outstanding=shape.max_outstanding
            )
            level = await measured(f"{rate:g} requests/s", work, offered_rate=rate)
            level.saturated, level.saturation = open_saturation(level)
            levels.append(level)
    return levels


async def _warm_up(
    http: httpx.AsyncClient, requests: Sequence[PreparedRequest], timeout: float
) -> list[tuple[PreparedRequest, httpx.Response]]:
    """Send one request of each size; gives the unread answers. The level will show what is wrong with a server that
    does not answer."""
    answers = []
    for request in {request.num_items: request for request in requests}.values():
        with suppress(httpx.HTTPError, TimeoutError):
            async with asyncio.timeout(timeout):
                answers.append((request, await http.post(SCORE_PATH, content=request.body)))
    return answers


def level_of(
    generator: Generator,
    shape: LoadShape,
    judge: Judge = lambda answered: [None] * len(answered),
    *,
    concurrency: int | None = None,
    offered_rate: float | None = None,
) -> Level:
    """A level from what was sent; every answer is read and judged here, where no clock runs."""
    elapsed, busy = generator.now(), generator.busy()
    read = [_record(sent) for sent in generator.sent]
    records = [record for record, _ in read]
    answered = [(sent.request, scores, record) for sent, (record, scores) in zip(generator.sent, read, strict=True)
                if scores is not None]  # fmt: skip
    for (_, _, record), wrong in zip(answered, judge([(r, scores) for r, scores, _ in answered]), strict=True):
        if wrong is not None:
            failure = ScoreFailure(FailureKind.WRONG_SCORES, str(wrong), 200)
            record.state, record.latency_ms = "errored", None
            record.failure_kind, record.failure_message = failure.kind.value, str(failure)
            record.http_status = failure.status
    good = [record for record in records if record.state == "successful"]
    latencies = [record.latency_ms for record in good if record.latency_ms is not None]
    within = [record for record in good if record.latency_ms is not None and record.latency_ms <= shape.objective_ms]
    late = [1000 * (record.started_sec - record.due_sec) for record in records if record.started_sec is not None]
    return Level(
        mode="open" if concurrency is None else "closed",
        concurrency=concurrency,
        offered_rate=offered_rate,
        duration_sec=shape.duration,
        elapsed_sec=elapsed,
        requests=len(records),
        successful=len(good),
        errored=sum(record.state == "errored" for record in records),
        incomplete=sum(record.state == "incomplete" for record in records),
        errors_by_kind=dict(Counter(record.failure_kind for record in records if record.failure_kind is not None)),
        latency_ms=percentiles(latencies),
        mean_latency_ms=float(np.mean(latencies)) if latencies else None,
        items_per_sec=sum(record.items for record in good) / elapsed,
        goodput_items_per_sec=sum(record.items for record in within) / elapsed,
        share_within_objective=len(within) / len(records) if records else None,
        lateness_ms_p50=float(np.median(late)) if late else None,
        lateness_ms_max=max(late, default=None),
        generator_busy=busy,
        ended_early=generator.ended_early,
        records=records,
    )


def _record(sent: Sent) -> tuple[LoadRecord, Scores | None]:
    """A request's record, and its scores where they could be read."""
    record = LoadRecord(
        state="errored",
        items=sent.request.num_items,
        due_sec=sent.due,
        started_sec=sent.started,
        finished_sec=sent.finished,
    )
    failure = sent.failure
    if sent.response is not None:
        try:
            scores = read_scores(sent.response, sent.request)
        except ScoreFailure as error:
            failure = error
        else:
            assert sent.finished is not None
            record.state = "successful"
            record.latency_ms = 1000 * (sent.finished - sent.due)
            return record, scores
    if failure is not None:
        record.failure_kind, record.failure_message = failure.kind.value, str(failure)
        record.http_status = failure.status
    elif sent.refused:
        record.failure_kind = OVERLOAD
        record.failure_message = "not sent: too many requests had no answer yet"
    else:
        record.state = "incomplete"
    return record, None


def _own_limit(level: Level) -> str | None:
    """Why a level shows the generator's limits and not the server's; None where it does not."""
    if level.generator_busy is not None and level.generator_busy > _BUSY:
        return f"the generator itself computed {level.generator_busy:.0%} of the time: its limit, not the server's"
    allowed = max(_LATE_MS, _LATE_SHARE * (level.mean_latency_ms or 0.0))
    late = level.lateness_ms_p50
    if late is not None and late > allowed:
        return f"the generator itself was {late:.0f} ms late at the median: its limit, not the server's"
    return None


def closed_saturation(level: Level, best: Level | None) -> tuple[bool | None, str]:
    """Whether more senders than at the ``best`` of the smaller concurrencies only stand in a queue, and why."""
    if best is None:
        return None, "there is no smaller concurrency to compare with"
    if level.mean_latency_ms is None or best.mean_latency_ms is None:
        return None, "no request succeeded here or at a smaller concurrency"
    if limit := _own_limit(level):
        return None, limit
    gain = level.items_per_sec / best.items_per_sec - 1
    slower = level.mean_latency_ms / best.mean_latency_ms
    reason = f"{gain:+.0%} items/s over concurrency {best.concurrency}, at {slower:.2f} times its mean latency"
    return gain < _GAIN and slower > 1, reason


def open_saturation(level: Level) -> tuple[bool | None, str]:
    """Whether requests came faster than the server answers them, and why.

    It did not keep up where it answered at less than 95 % of the rate at which they came. The two rates are those of
    the same requests, one over the time from the first to the last arrival, the other over the time from the first
    to the last end: so the last answers, which are under way when the level ends, do not count against it. Nor did it
    where latency rose, and more requests were left at the end than at any time in the first third.
    """
    records = level.records
    if level.ended_early is not None or not level.successful:
        return None, level.ended_early or "no request succeeded"
    if limit := _own_limit(level):
        return None, limit
    if len(records) < _TREND_SAMPLES:
        return None, f"{len(records)} requests are too few; {_TREND_SAMPLES} are needed"
    due = np.array([record.due_sec for record in records])
    ends = np.array([_end(record, level.elapsed_sec) for record in records])
    # Dealt with, be it by an error; not where the server shed the load.
    answered = sum(r.state == "successful" or r.http_status not in (None, *_SHED) for r in records)
    share = answered / len(records) * min(1.0, float(np.ptp(due) / np.ptp(ends)))
    if share < _KEEPS_UP:
        return True, f"it answered at {share:.0%} of the rate at which requests came"
    third = len(records) // 3
    first, last = _median_latency(records[:third]), _median_latency(records[-third:])
    early = max(_under_way(due, ends, moment) for moment in due[:third])
    left = _under_way(due, ends, level.duration_sec)
    if first is not None and last is not None and last > _RISES * first and left > early:
        return True, f"the median latency rose {last / first:.1f}-fold, and {left} requests were left at the end"
    return False, f"it answered at {share:.0%} of the rate at which requests came"


def _end(record: LoadRecord, elapsed: float) -> float:
    """When a request was over: one that was refused at once, one that was given up with the level."""
    if record.finished_sec is not None:
        return record.finished_sec
    return record.due_sec if record.started_sec is None else elapsed


def _median_latency(records: Sequence[LoadRecord]) -> float | None:
    latencies = [record.latency_ms for record in records if record.latency_ms is not None]
    return float(np.median(latencies)) if latencies else None


def _under_way(due: NDArray[np.float64], ends: NDArray[np.float64], moment: float) -> int:
    """How many requests were due by a moment and had not ended."""
    return int(np.sum((due <= moment) & (ends > moment)))
