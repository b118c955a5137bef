"""Whether a matrix's figures follow from its runs, and its recommendations from its rows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np

from pytest_multiitem.comparison.decision import guardrail
from pytest_multiitem.comparison.files import Artefact
from pytest_multiitem.comparison.records import Row, RunRecord, ScoreMatrix, WorkloadRequest
from pytest_multiitem.validation.linked_workload import linked

#: Relative: what figures may be off from those of the samples.
_EXACT = 1e-6
#: Other tools round a share to a few digits.
_RATE = 5e-4
#: Each score row's sum may be this far from 1.
_SUM = 1e-3
#: The requests of a run may add up to this much more than the run: both are rounded, call by call.
_CALLS, _CALLS_MS = 1.001, 1.0


@dataclass(frozen=True)
class Measured:
    """What was measured, None where it is not known. ``softmax``: whether scores are probabilities."""

    num_items: int | None
    num_labels: int | None
    softmax: bool


def summary(matrix: ScoreMatrix) -> str:
    """What it holds, in a few words."""
    sizes = ", ".join(str(row.client_chunk_size) for row in matrix.results)
    confirmed = f", {len(matrix.confirm_results)} confirmed" if matrix.confirm_results else ""
    return f"{matrix.backend} {matrix.evaluation_view}, chunk sizes {sizes or '-'}{confirmed}"


def problems(artefact: Artefact[ScoreMatrix]) -> list[str]:
    """What is wrong with a matrix whose schema holds."""
    matrix, content = artefact.record, artefact.content
    request, found = linked(artefact.path, matrix.workload_ref)
    measured = _measured(matrix, request)
    for name, rows in (("results", matrix.results), ("confirm_results", matrix.confirm_results)):
        found += twice(name, [row.client_chunk_size for row in rows])
        for row, raw in zip(rows, content.get(name, ()), strict=True):
            found += [f"{name}, chunk size {row.client_chunk_size}: {text}" for text in _row(row, raw, measured)]
    return [*found, *_recommendations(matrix, content)]


def twice(where: str, sizes: Sequence[int]) -> list[str]:
    """A line for every chunk size that more than one row has."""
    return [f"{where}: chunk size {size} stands in {n} rows" for size, n in Counter(sizes).items() if n > 1]


def _measured(matrix: ScoreMatrix, request: WorkloadRequest | None) -> Measured:
    if request is not None:
        return Measured(len(request.items_token_ids), len(request.label_token_ids), request.apply_softmax)
    head = matrix.workload if isinstance(matrix.workload, dict) else {}
    count, labels = head.get("num_items"), head.get("label_token_ids")
    return Measured(
        count if isinstance(count, int) and not isinstance(count, bool) and count > 0 else None,
        len(labels) if isinstance(labels, list) else None,
        head.get("apply_softmax") is not False,
    )


def _row(row: Row, raw: dict[str, Any], measured: Measured) -> Iterator[str]:
    runs = row.run_records if "run_records" in raw else None
    if row.client_chunk_size < 1:
        yield "expected at least 1 item a request"
    elif measured.num_items is not None:
        wanted = math.ceil(measured.num_items / row.client_chunk_size)
        if row.num_chunks is not None and row.num_chunks != wanted:
            yield f"num_chunks is {row.num_chunks}, but {measured.num_items} items make {wanted}"
    yield from _counts(row, raw, runs)
    for index, run in enumerate(runs or ()):
        timed = "total_e2e_ms" in raw["run_records"][index]
        yield from (f"run {index} {text}" for text in _run(run, row.num_chunks, timed=timed))
    p50, p95 = row.p50_total_e2e_ms, row.p95_total_e2e_ms
    if runs is not None:
        yield from _times(row, runs, measured.num_items)
    elif p50 is not None and p95 is not None and p95 < p50 * (1 - _EXACT):
        yield f"p95_total_e2e_ms is {p95:g}, below p50_total_e2e_ms, {p50:g}"
    if row.reference_scores is not None:
        yield from _scores(row.reference_scores, measured)


def _counts(row: Row, raw: dict[str, Any], runs: list[RunRecord] | None) -> Iterator[str]:
    """Whether counts, rate, status and failures add up: to the runs where they are there, else to each other."""
    timed, good = row.timed_runs, row.successful_runs
    if runs is not None:
        timed, good = len(runs), sum(run.status == "ok" for run in runs)
        for name, counted in (("timed_runs", timed), ("successful_runs", good)):
            stated = getattr(row, name)
            if stated is not None and stated != counted:
                yield f"{name} is {stated}, but run_records hold {counted}"
    if timed is None or good is None:
        return
    if not 0 <= good <= timed:
        yield f"successful_runs is {good}, of {timed} timed_runs"
        return
    rate = good / timed if timed else 0.0
    if row.success_rate is not None and abs(row.success_rate - rate) > _RATE:
        yield f"success_rate is {row.success_rate:g}, but {good} of {timed} runs succeeded"
    status = "failed" if good == 0 else "ok" if good == timed else "partial_failure"
    if row.status != status:
        yield f"status is {row.status}, but {good} of {timed} runs succeeded: {status}"
    if "failure_reason_counts" in raw:
        yield from _failures(row, timed - good, runs)


def _failures(row: Row, failed: int, runs: list[RunRecord] | None) -> Iterator[str]:
    stated = {kind: count for kind, count in row.failure_reason_counts.items() if count}
    reasons = [run.failure_reason for run in runs or () if run.status == "failed"]
    counted = Counter(reason for reason in reasons if reason is not None)
    if sum(stated.values()) != failed:
        yield f"failure_reason_counts add up to {sum(stated.values())}, but {failed} runs failed"
    elif runs is not None and None not in reasons and stated != counted:
        yield f"failure_reason_counts are {stated}, but the runs failed by {dict(counted)}"


def _run(run: RunRecord, num_chunks: int | None, *, timed: bool) -> Iterator[str]:
    """``timed``: its file has the run's time, be it null."""
    total, calls = run.total_e2e_ms, run.chunk_call_ms
    if run.status == "ok" and total is None and timed:
        yield "is ok, but has no total_e2e_ms"
    if run.status == "ok" and run.failure_reason is not None:
        yield f"is ok, but has the failure_reason {run.failure_reason!r}"
    shortest = min((time for time in (total, *calls) if time is not None), default=None)
    if shortest is not None and (shortest < 0 or total == 0):
        yield f"takes {shortest:g} ms"
    elif total is not None and sum(calls) > total * _CALLS + _CALLS_MS:
        yield f"takes {total:g} ms, but its requests {sum(calls):g} ms"
    if num_chunks is not None and (len(calls) > num_chunks or (run.status == "ok" and 0 < len(calls) < num_chunks)):
        yield f"has {len(calls)} chunk_call_ms, but num_chunks is {num_chunks}"


def _times(row: Row, runs: list[RunRecord], num_items: int | None) -> Iterator[str]:
    totals = [time for run in runs if run.status == "ok" and _usable(time := run.total_e2e_ms)]
    calls = [time for run in runs for time in run.chunk_call_ms if _usable(time)]
    good = sum(run.status == "ok" for run in runs)
    if good == 0:
        for name in ("p50_total_e2e_ms", "p95_total_e2e_ms", "mean_total_e2e_ms", "throughput_items_sec"):
            if (value := getattr(row, name)) is not None:
                yield f"{name} is {value:g}, but no run succeeded"
        return
    if len(totals) == good:
        median, mean, largest = float(np.median(totals)), float(np.mean(totals)), max(totals)
        what = f"of its {len(totals)} successful runs"
        yield from _outside(row, "p50_total_e2e_ms", (median, median), f"the median {what}")
        yield from _outside(row, "p95_total_e2e_ms", (median, largest), f"from the median to the maximum {what}")
        yield from _outside(row, "mean_total_e2e_ms", (mean, mean), f"the mean {what}")
        if num_items is not None:
            rates = 1000 * num_items / largest, 1000 * num_items / min(totals)
            yield from _outside(row, "throughput_items_sec", rates, f"by the slowest and the fastest {what}")
    if calls:
        for name in ("mean_chunk_call_ms", "p95_chunk_call_ms"):
            yield from _outside(row, name, (min(calls), max(calls)), f"the range of its {len(calls)} requests")


def _outside(row: Row, name: str, span: tuple[float, float], what: str) -> Iterator[str]:
    value, (low, high) = getattr(row, name), span
    if value is not None and not low * (1 - _EXACT) <= value <= high * (1 + _EXACT) and math.isfinite(value):
        wanted = f"{low:.9g}" if low == high else f"{low:.9g} to {high:.9g}"
        yield f"{name} is {value:.9g}; expected {wanted}, {what}"


def _scores(scores: list[list[float]], measured: Measured) -> Iterator[str]:
    if measured.num_items is not None and len(scores) != measured.num_items:
        yield f"reference_scores has {len(scores)} rows, but there are {measured.num_items} items"
    width = measured.num_labels if measured.num_labels is not None or not scores else len(scores[0])
    other = next((i for i, row in enumerate(scores) if len(row) != width), None)
    if other is not None:
        yield f"reference_scores/{other} has {len(scores[other])} scores, expected {width}"
    elif measured.softmax:
        off = [i for i, row in enumerate(scores) if abs(sum(row) - 1) > _SUM]
        if off:
            more = f"; so do {len(off) - 1} more rows" if off[1:] else ""
            yield f"reference_scores/{off[0]} adds up to {sum(scores[off[0]]):.6g}, expected 1 after softmax{more}"


def _recommendations(matrix: ScoreMatrix, content: dict[str, Any]) -> Iterator[str]:
    recommended = matrix.summary
    again = {row.client_chunk_size for row in matrix.confirm_results}
    last = matrix.confirm_results if recommended.final_recommendation in again else matrix.results
    for name, rows in (
        ("sweep_recommendation", matrix.results),
        ("confirm_recommendation", matrix.confirm_results),
        ("final_recommendation", last),
    ):
        size = getattr(recommended, name)
        if size is not None and (rows or "confirm_results" in content):
            for text in _recommended(size, rows, recommended.guardrail_ratio):
                yield f"summary: {name} is {size}, {text}"


def _recommended(size: int, rows: Sequence[Row], ratio: float | None) -> Iterator[str]:
    row = next((row for row in rows if row.client_chunk_size == size), None)
    if row is None:
        yield "which was not measured"
        return
    rate, why = guardrail.success_rate(row), guardrail.why_not(row)
    unknown = None in (rate, row.p95_total_e2e_ms, row.throughput_items_sec)
    if why is not None and (rate not in (None, 1.0) or not unknown):
        yield f"which may not win: {why}"
        return
    candidates = [found for row in rows if (found := guardrail.candidate_of(row, None)) is not None]
    limit = None if ratio is None else guardrail.guardrail(candidates, ratio)
    if limit is not None and row.p95_total_e2e_ms is not None and row.p95_total_e2e_ms > limit * (1 + _EXACT):
        yield f"whose p95 of {row.p95_total_e2e_ms:.9g} ms exceeds the guardrail, {limit:.9g} ms"


def _usable(time: float | None) -> TypeGuard[float]:
    return time is not None and math.isfinite(time) and time > 0
