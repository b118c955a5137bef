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
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec

from pytest_multiitem.bench.generator import Generator, Sent, poisson_schedule
from pytest_multiitem.bench.load_figures import level, saturate, summary
from pytest_multiitem.bench.load_records import OVERLOAD, JudgedScores, Level, LoadRecord, LoadReport
from pytest_multiitem.bench.referee import Referee
from pytest_multiitem.errors import UsageError
from pytest_multiitem.results.store import utc_now
from pytest_multiitem.scoring.limits import placed_limit
from pytest_multiitem.targets.answers import Answers, WrongRow
from pytest_multiitem.transport.bounded import KEPT
from pytest_multiitem.transport.client import (
    FailureKind,
    PreparedRequest,
    ScoreClient,
    ScoreFailure,
    Scores,
    async_client,
    build,
    read_scores,
)

#: Called with the level that is measured, and for how many seconds already.
Progress = Callable[[str, float], None]
#: Judges answers: the worst row of each that is wrong.
Judge = Callable[[Sequence[tuple[PreparedRequest, Scores]]], Sequence[WrongRow | None]]

#: Requests without an answer that the open loop has at most; each holds a connection, and so a file descriptor.
MAX_OUTSTANDING: Final = 512
#: No request waits in the client for a connection.
_LIMITS: Final = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=KEPT)
_TICK: Final = 0.5  # seconds between two reports of progress
#: Items that are sent in smaller requests before the levels: those of the first requests, and at least the first's.
_JUDGED_ITEMS: Final = 512


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
    finished: list[Level] | None = None,
) -> LoadReport:
    """A level for each concurrency, then one for each rate, in ascending order; ``requests`` are sent in turn.

    Before each level, untimed requests warm the server up and wait for what the level before has left in its queue.
    ``dtype``: the precision that the server states. ``finished``: takes each level once it is measured, for whoever
    interrupts. Raises UsageError where there is no request; a server that fails, or is gone, is in the report.
    """
    if not requests:
        raise UsageError("a load measurement needs a request")
    connect: Any = {"timeout": shape.timeout, "api_key": api_key, "ca_file": ca_file}
    with ScoreClient(url, **connect) as client:
        scores = _QuietScores(client, shape, dtype)
        scores.ask(requests)
        connected = partial(async_client, url, limits=_LIMITS, **connect)
        levels: list[Level] = [] if finished is None else finished
        asyncio.run(_measure(connected, requests, shape, progress, scores, levels))
    return LoadReport(
        url=client.url,
        seed=shape.seed,
        duration_sec=shape.duration,
        timeout_sec=shape.timeout,
        latency_objective_ms=shape.objective_ms,
        items_per_request=[request.num_items for request in requests],
        levels=levels,
        **msgspec.structs.asdict(summary(levels)),
        generated_at_utc=utc_now(),
        scores=scores.judged,
    )


class _QuietScores:
    """What the requests score while nothing else is sent, and whether other answers are that."""

    def __init__(self, client: ScoreClient, shape: LoadShape, dtype: str | None) -> None:
        self._send, self._seed = client.send, shape.seed
        self._answers = Answers()
        self.judged = JudgedScores(limit=placed_limit(dtype), dtype=dtype)
        self._referee = Referee(self._answers, self._send, limit=self.judged.limit, seed=shape.seed)

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


async def _measure(
    connected: Callable[[], httpx.AsyncClient],
    requests: Sequence[PreparedRequest],
    shape: LoadShape,
    progress: Progress,
    scores: _QuietScores,
    levels: list[Level],
) -> None:
    drain = math.inf if shape.drain is None else shape.drain
    duration = shape.duration
    async with connected() as http:

        async def measured(what: str, work: Callable[[Generator], Coroutine[Any, Any, None]], **load: Any) -> Level:
            progress(what, 0.0)
            warm_ups = await _warm_up(http, requests)
            generator = Generator(http, requests)

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
            levels.append(level)
            saturate(levels)
        for rate in sorted(set(shape.rates)):
            moments = poisson_schedule(rate, duration, shape.seed)
            work = partial(
                Generator.open, moments=moments, duration=duration, drain=drain, max_outstanding=shape.max_outstanding
            )
            level = await measured(f"{rate:g} requests/s", work, offered_rate=rate)
            levels.append(level)
            saturate(levels)


async def _warm_up(
    http: httpx.AsyncClient, requests: Sequence[PreparedRequest]
) -> list[tuple[PreparedRequest, httpx.Response]]:
    """Send one request of each size; gives the unread answers. The level will show what is wrong with a server that
    does not answer."""
    answers = []
    for request in {request.num_items: request for request in requests}.values():
        with suppress(httpx.HTTPError):
            answers.append((request, await http.send(build(http, request))))
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
    return level(
        records,
        mode="open" if concurrency is None else "closed",
        concurrency=concurrency,
        offered_rate=offered_rate,
        duration_sec=shape.duration,
        elapsed_sec=elapsed,
        objective_ms=shape.objective_ms,
        generator_busy=busy,
        ended_early=generator.ended_early,
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
