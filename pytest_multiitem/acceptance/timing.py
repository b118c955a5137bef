"""Client chunk sizes of one packing server beside the serial side, in interleaved blocks, every answer judged.

A request is timed at every size before the next one is begun, so that whatever ends the measurement leaves whole
requests. A request's items go to the serial side one by one.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from pytest_multiitem.acceptance import plan as plans
from pytest_multiitem.acceptance.plan import Plan
from pytest_multiitem.comparison.measuring.rows import Sampled, sample
from pytest_multiitem.comparison.records import WorkloadRequest
from pytest_multiitem.results.answer import TimedRequest, TimedRow
from pytest_multiitem.scoring.cases import ASSUMED_VOCABULARY, Case, equal_length_case, token_pool
from pytest_multiitem.scoring.limits import row_differences
from pytest_multiitem.settings.settings import Settings
from pytest_multiitem.targets.target import Target, declared_semantics
from pytest_multiitem.transport.client import FailureKind

#: Called after each timed request: how many are done, of how many at most, and the seconds that the last one took.
Told = Callable[[int, int, float], None]


@dataclass
class Timed:
    """Requests and rows so far; ``not_timed``: why fewer than there are."""

    requests: list[TimedRequest] = field(default_factory=list)
    rows: list[TimedRow] = field(default_factory=list)
    not_timed: str | None = None


def requests_of(settings: Settings, plan: Plan, multi: Target, own: Sequence[Case] | None) -> list[Case]:
    """The requests to time: the user's, in a seeded order, or made for it. The one with the most items is the first, so
    that whatever ends the measurement, no size is larger than a request that was timed."""
    if own is not None:
        order = np.random.default_rng(settings.seed).permutation(len(own))
        drawn = [own[at] for at in order[: plan.requests]]
        largest = max(drawn, key=lambda case: len(case.items), default=None)
        return sorted(drawn, key=lambda case: case is not largest)
    shape = plan.shape
    pool = token_pool(multi.vocab_size or ASSUMED_VOCABULARY, (*settings.labels, multi.delimiter))
    return [
        equal_length_case(
            seed=settings.seed + number,
            query_tokens=shape.query_tokens,
            num_items=shape.items,
            item_tokens=shape.item_tokens,
            labels=settings.labels,
            pool=pool,
        )
        for number in range(plan.requests)
    ]


def measure(
    settings: Settings, plan: Plan, multi: Target, serial: Target, cases: Sequence[Case], timed: Timed, told: Told
) -> None:
    """Time the requests one after the other, until all are or the plan's time is over, and enter them into ``timed``.

    Failures of a server are recorded, never raised.
    """
    cases = [case for case in cases if case.items]
    if not cases:
        timed.not_timed = "no request has an item"
        return
    sizes = plans.sizes(settings, plan, max(len(case.items) for case in cases))
    timed.rows = [TimedRow(client_chunk_size=size, runs_ms=[]) for size in (None, *sizes)]
    semantics = declared_semantics(multi)
    begun = time.monotonic()
    for number, case in enumerate(cases):
        if number and time.monotonic() - begun > plan.timing_s:
            timed.not_timed = f"{number} of {len(cases)} requests were timed within {plan.timing_s:g} s"
            return
        start = time.monotonic()
        places = _sample(len(case.items), plan.serial_items, settings.seed)
        alone = replace(
            case,
            query=tuple(semantics.serial_query(case.query, multi.delimiter)),
            items=tuple(case.items[place] for place in places),
        )
        samples = sample(
            [(serial, 1), *((multi, size) for size in sizes)],
            [_request(case)],
            warmup_runs=settings.bench_warmup_runs,
            timed_runs=plan.blocks,
            seed=settings.seed,
            instead={0: [_request(alone)]},
        )
        _enter(timed, case, places, samples)
        told(number + 1, len(cases), time.monotonic() - start)


def _sample(count: int, most: int, seed: int) -> list[int]:
    """The places of at most so many of ``count`` items, ascending."""
    return sorted(np.random.default_rng(seed).permutation(count)[:most].tolist())


def _request(case: Case) -> WorkloadRequest:
    return WorkloadRequest(
        request_id=case.name,
        query_token_ids=list(case.query),
        items_token_ids=[list(item) for item in case.items],
        label_token_ids=list(case.labels),
    )


def _enter(timed: Timed, case: Case, places: list[int], samples: Sequence[Sampled]) -> None:
    serial, largest = _scores(samples[0]), _scores(samples[-1])
    timed.requests.append(
        TimedRequest(
            name=case.name,
            query_tokens=len(case.query),
            items=len(case.items),
            serial_places=places,
            serial_scores=None if serial is None else serial.tolist(),
            packed_scores=None if largest is None else largest[places].tolist(),
        )
    )
    for row, sampled in zip(timed.rows, samples, strict=True):
        row.runs_ms.append([run.total_e2e_ms if run.ok else None for run in sampled.runs])
        failures = Counter(run.failure_reason for run in sampled.runs if run.failure_reason)
        row.failures = dict(Counter(row.failures) + failures)
        details = (run.failure_detail for run in sampled.runs if run.failure_detail)
        wrong = next((text for text in details if text.startswith(FailureKind.WRONG_SCORES.value)), None)
        if sampled.problem is not None and sampled.problem.startswith(FailureKind.WRONG_SCORES.value):
            wrong = wrong or sampled.problem
        row.wrong = row.wrong or wrong
        attested = None if sampled.attestation is None else sampled.attestation.problem
        row.problem = row.problem or (attested if _scores(sampled) is not None else None)
        if sampled.problem is not None and wrong is None:
            row.problem = row.problem or sampled.problem
        if sampled is not samples[0] and serial is not None and (scores := _scores(sampled)) is not None:
            apart = float(row_differences(scores[places], serial, apply_softmax=True).max())
            row.max_abs_diff = apart if row.max_abs_diff is None else max(row.max_abs_diff, apart)


def _scores(sampled: Sampled) -> NDArray[np.float64] | None:
    """What a side says of the items: of its first successful run."""
    return next(iter(sampled.scores), None)
