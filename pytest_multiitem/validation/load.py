"""Whether a load report's figures follow from its requests."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import msgspec

from pytest_multiitem.bench.load_figures import level, saturate, summary
from pytest_multiitem.bench.load_records import Level, LoadRecord, LoadReport
from pytest_multiitem.results.figures import contradictions, differs
from pytest_multiitem.scoring.limits import placed_limit

#: Seconds: a timer may wake a sender so much too early.
_TIMER = 1e-3


def summary_of(report: LoadReport) -> str:
    """What it holds, in a few words."""
    count = sum(each.requests for each in report.levels)
    wrong = f", {report.wrong_answers} answers with wrong scores" if report.wrong_answers else ""
    return f"{len(report.levels)} levels, {count} requests{wrong}"


def problems(report: LoadReport) -> list[str]:
    """What is wrong with a load report whose schema holds."""
    found = [*_head(report)]
    for at, stated in enumerate(report.levels):
        found += [f"levels[{at}]: {text}" for text in _level(stated, report)]
    return found or [*_recomputed(report)]  # figures of what are no requests are none


def _head(report: LoadReport) -> Iterator[str]:
    if not report.levels:
        yield "levels: there is none"
    for name in ("duration_sec", "timeout_sec", "latency_objective_ms"):
        if not 0 < getattr(report, name) < math.inf:
            yield f"{name} is {getattr(report, name):g}; expected a number above 0"
    if not report.items_per_request or min(report.items_per_request) < 1:
        yield f"items_per_request is {report.items_per_request!r:.80}; expected numbers of items"
    judged = report.scores
    if judged is not None:
        yield from differs("scores.limit", judged.limit, placed_limit(judged.dtype), "that of its precision is")
        apart = judged.max_difference
        if judged.problem is None and apart is not None and not 0 <= apart <= judged.limit:
            yield f"scores.max_difference is {apart:.6g}, beyond the limit {judged.limit:g}, and there is no problem"
        for name in ("answers", "rows", "asked", "wrong_warm_ups"):
            if getattr(judged, name) < 0:
                yield f"scores.{name} is {getattr(judged, name)}"


def _level(stated: Level, report: LoadReport) -> Iterator[str]:
    """What keeps a level's requests from being counted."""
    load = stated.concurrency if stated.mode == "closed" else stated.offered_rate
    other = stated.offered_rate if stated.mode == "closed" else stated.concurrency
    if load is None or not 0 < load < math.inf or other is not None:
        yield f"it is {stated.mode}, of concurrency {stated.concurrency} and {stated.offered_rate} requests/s"
    if stated.duration_sec != report.duration_sec:
        yield f"duration_sec is {stated.duration_sec:g}, that of the measurement {report.duration_sec:g}"
    if not 0 < stated.elapsed_sec < math.inf:
        yield f"elapsed_sec is {stated.elapsed_sec:g}; expected a number above 0"
    if stated.generator_busy is not None and not 0 <= stated.generator_busy < math.inf:
        yield f"generator_busy is {stated.generator_busy:g}"
    if len(stated.records) != stated.requests:
        yield f"requests is {stated.requests}, but there are {len(stated.records)} records"
    sizes = report.items_per_request
    for at, record in enumerate(stated.records):
        problem = next(_request(record, stated, sizes[at % len(sizes)] if sizes else 0), None)
        if problem is not None:
            yield f"records[{at}] {problem}"
            return


def _request(record: LoadRecord, stated: Level, items: int) -> Iterator[str]:
    """Whether a request was sent, and ended, as its state says."""
    times = [time for time in (record.due_sec, record.started_sec, record.finished_sec) if time is not None]
    in_order = [0.0, *times, stated.elapsed_sec]
    if any(later < earlier - _TIMER for earlier, later in pairwise(in_order)):
        yield f"was due, sent and over at {times} s, of {stated.elapsed_sec:g} s"
    if record.items != items:
        yield f"has {record.items} items; in its turn it has {items}"
    good, failed = record.state == "successful", record.state == "errored"
    failure = (record.failure_kind, record.failure_message, record.http_status)
    if good != (record.latency_ms is not None) or (good and failure != (None, None, None)):
        yield f"is {record.state}, its latency is {record.latency_ms} and its failure {record.failure_kind}"
    elif failed != (record.failure_kind is not None):
        yield f"is {record.state}, but its failure is {record.failure_kind}"
    elif (record.finished_sec is not None) != (good or (failed and record.started_sec is not None)):
        yield f"is {record.state}, but was over at {record.finished_sec}"
    elif good and (record.started_sec is None or record.finished_sec is None):
        yield "is successful, but was never sent"
    elif good and record.finished_sec is not None:
        waited = 1000 * (record.finished_sec - record.due_sec)
        yield from differs("has a latency_ms that", record.latency_ms, waited, "from due to over it is")


def _recomputed(report: LoadReport) -> Iterator[str]:
    levels = [_again(stated, report) for stated in report.levels]
    saturate(levels)
    again = msgspec.structs.replace(report, levels=levels, **msgspec.structs.asdict(summary(levels)))
    for _, text in contradictions(_figures(report), _figures(again), "its requests give"):
        yield text


def _figures(report: LoadReport) -> Any:
    """All of a report but for its requests, and for what is said in words."""
    levels = [msgspec.structs.replace(each, records=[], saturation=None) for each in report.levels]
    return msgspec.to_builtins(msgspec.structs.replace(report, levels=levels, server_info=None))


def _again(stated: Level, report: LoadReport) -> Level:
    return level(
        stated.records,
        mode=stated.mode,
        concurrency=stated.concurrency,
        offered_rate=stated.offered_rate,
        duration_sec=stated.duration_sec,
        elapsed_sec=stated.elapsed_sec,
        objective_ms=report.latency_objective_ms,
        generator_busy=stated.generator_busy,
        ended_early=stated.ended_early,
    )
