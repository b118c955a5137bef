"""One row of a chunk-size matrix: every server sends all items in requests of one client chunk size, interleaved.

Whatever a server answers meanwhile, warm-ups too, is judged once the last run is timed: rows of an item must agree
over all runs and all chunk sizes. A run with a wrong score has failed, by ``wrong_scores``.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

import httpx
import numpy as np

from pytest_multiitem.adapters.attestation import Attestation
from pytest_multiitem.bench.referee import Answered, Referee
from pytest_multiitem.comparison.records import Row, RunRecord, WorkloadRequest
from pytest_multiitem.comparison.row_figures import fill
from pytest_multiitem.gates.evidence import max_abs
from pytest_multiitem.gates.gate import larger_floor
from pytest_multiitem.results.store import utc_now
from pytest_multiitem.scoring.limits import placed_limit
from pytest_multiitem.servers.errors import ServerError
from pytest_multiitem.targets.target import Target
from pytest_multiitem.transport.client import FailureKind, PreparedRequest, ScoreFailure, Scores, prepare

#: Runs in a row that time out before a row is given up: each one takes the whole time-out.
_TIMEOUTS = 2


@dataclass
class Sampled:
    """What one server gave for one row; ``answers`` of every successful run, one a request. ``request_items``: items of
    each of the workload's requests. ``session``: names the interleaved blocks that it was measured in. ``problem``: of
    scores that are no run's, or why none could be judged.
    """

    chunk_size: int
    request_items: list[int]
    session: str
    warmup_ms: list[float] = field(default_factory=list)
    runs: list[RunRecord] = field(default_factory=list)
    answers: dict[int, list[Answered]] = field(default_factory=dict)
    attestation: Attestation | None = None
    problem: str | None = None

    @property
    def num_items(self) -> int:
        """N, of all requests together."""
        return sum(self.request_items)

    @property
    def scores(self) -> list[Scores]:
        """[N, K] of every successful run."""
        return [np.concatenate([rows for _, rows in answers]) for answers in self.answers.values()]

    @property
    def given_up(self) -> bool:
        """Whether the server only times out."""
        last = [run.failure_reason for run in self.runs[-_TIMEOUTS:]]
        return last == [FailureKind.TIMEOUT.value] * _TIMEOUTS


def chunked(workload: Sequence[WorkloadRequest], size: int) -> tuple[list[PreparedRequest], list[PreparedRequest]]:
    """The items of each request in encoded requests of at most ``size`` items; and one of every shape among them."""
    shapes: dict[tuple[int, ...], PreparedRequest] = {}
    requests = []
    for request in workload:
        for at in range(0, len(request.items_token_ids), size):
            items = request.items_token_ids[at : at + size]
            requests.append(encoded(request, request.query_token_ids, items))
            shapes.setdefault((len(request.query_token_ids), *map(len, items)), requests[-1])
    return requests, list(shapes.values())


def encoded(request: WorkloadRequest, query: Sequence[int], items: Sequence[Sequence[int]]) -> PreparedRequest:
    """Items of a request behind a query, asked as the request asks."""
    return prepare(
        query, items, request.label_token_ids, apply_softmax=request.apply_softmax, item_first=request.item_first
    )


def sample(
    sides: Sequence[tuple[Target, int]],
    workload: Sequence[WorkloadRequest],
    *,
    warmup_runs: int,
    timed_runs: int,
    seed: int = 0,
    instead: Mapping[int, Sequence[WorkloadRequest]] | None = None,
    on_block: Callable[[int], None] | None = None,
) -> list[Sampled]:
    """Time a row on several servers, each at its client chunk size: a run sends all requests of the workload, one after
    the other.

    ``instead``: by the place of a side, what it is sent for the same items in another context. ``on_block``: told how
    many blocks have been timed, after each.

    ABBA: the order turns round from block to block, so that drift hits all alike. Requests are encoded before the
    clock starts, and answers are read after it has stopped; they are judged after the last block, with items that a
    ``seed`` deals out to further requests. A warm-up sends one request of every shape. Failures are recorded, never
    raised.
    """
    items, session = [len(request.items_token_ids) for request in workload], uuid.uuid4().hex[:12]
    samples = [Sampled(chunk_size, items, session) for _, chunk_size in sides]
    turns = []
    with ExitStack() as stack:
        for place, ((target, _), sampled) in enumerate(zip(sides, samples, strict=True)):
            requests, shapes = chunked((instead or {}).get(place, workload), sampled.chunk_size)
            for _ in range(warmup_runs):
                sampled.warmup_ms += _warm_up(target, shapes)
            sampled.attestation = stack.enter_context(target.attest())
            turns.append((target, requests, sampled))
        for block in range(timed_runs):
            for target, requests, sampled in reversed(turns) if block % 2 else turns:
                if not sampled.given_up:
                    _run(target, requests, sampled, block)
            if on_block is not None:
                on_block(block + 1)
    for (target, _), sampled in zip(sides, samples, strict=True):
        _judge(target, sampled, seed)
    return samples


def row_of(sampled: Sampled, cost_per_hour: float | None = None) -> Row:
    """The row that a server's samples make; runs that were given up are not counted as timed."""
    row = Row(
        client_chunk_size=sampled.chunk_size,
        status="failed",
        run_records=sampled.runs,
        session=sampled.session,
        warmup_ms=sampled.warmup_ms,
        request_items=sampled.request_items if len(sampled.request_items) > 1 else [],
        measured_at_utc=utc_now(),
    )
    scores = sampled.scores
    if scores:
        row.reference_scores = scores[0].tolist()
    fill(row, sampled.num_items)
    if sampled.attestation is not None:
        row.mask_attested = sampled.attestation.mask
        row.attestation_problem = sampled.attestation.problem if row.successful_runs else None
    row.score_problem = sampled.problem
    if cost_per_hour is not None and row.mean_total_e2e_ms is not None:
        row.usd_per_run = cost_per_hour * row.mean_total_e2e_ms / 3_600_000
        row.items_per_usd = sampled.num_items / row.usd_per_run
    if scores[1:]:
        row.noise_floor = larger_floor(*(max_abs(other - scores[0]) for other in scores[1:]))
    return row


def _warm_up(target: Target, requests: Sequence[PreparedRequest]) -> Iterator[float]:
    """Send the requests, and read their answers; gives milliseconds."""
    with suppress(ScoreFailure):  # the timed runs will say it
        for request in requests:
            seconds, answer = target.client.timed_send(request)
            yield 1000 * seconds
            target.client.read(answer, request)


def _run(target: Target, requests: Sequence[PreparedRequest], sampled: Sampled, block: int) -> None:
    record = RunRecord(ok=False, run_index=len(sampled.runs), block=block)
    sampled.runs.append(record)
    answers: list[httpx.Response] = []
    try:
        for request in requests:
            seconds, answer = target.client.timed_send(request)
            record.call_latencies_ms.append(1000 * seconds)
            answers.append(answer)
            if answer.status_code != 200:
                break  # a run that has failed is not sent to its end
        record.total_e2e_ms = sum(record.call_latencies_ms)  # what the harness does between calls is not the server's
        sampled.answers[record.run_index or 0] = [
            (r, target.client.read(a, r)) for a, r in zip(answers, requests[: len(answers)], strict=True)
        ]
        record.ok = True
    except ScoreFailure as failure:
        record.failure_reason, record.failure_detail = failure.kind.value, str(failure)[:500]


def _judge(target: Target, sampled: Sampled, seed: int) -> None:
    """Compare all that the server has answered; a run with a wrong score has failed."""
    try:
        sampled.problem = target.judge_answers(seed).problem
    except (ScoreFailure, ServerError) as error:
        sampled.problem = f"its scores could not be judged: {str(error).splitlines()[0]}"
        target.answers.drop()
    referee = Referee(target.answers, target.client.send, limit=placed_limit(target.dtype), seed=seed)
    answered = [(run, answer) for run, answers in sampled.answers.items() for answer in answers]
    for (run, _), wrong in zip(answered, referee.wrong([answer for _, answer in answered]), strict=True):
        if wrong is not None and sampled.answers.pop(run, None) is not None:
            failure = ScoreFailure(FailureKind.WRONG_SCORES, str(wrong))
            record = sampled.runs[run]
            record.ok, record.failure_reason = False, failure.kind.value
            record.failure_detail = str(failure)[:500]
