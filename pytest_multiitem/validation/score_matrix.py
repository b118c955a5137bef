"""Whether a matrix's figures follow from its runs, and its recommendations from its rows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import msgspec
import numpy as np

from pytest_multiitem.bench.load_records import LOAD_SCHEMA, LoadReport
from pytest_multiitem.bench.statistics import ratio_interval
from pytest_multiitem.comparison import row_figures
from pytest_multiitem.comparison.decision import guardrail
from pytest_multiitem.comparison.decision.guardrail import GUARDRAIL_RATIO
from pytest_multiitem.comparison.decision.speed import MIN_RUNS
from pytest_multiitem.comparison.files import Artefact
from pytest_multiitem.comparison.records import (
    Choice,
    Row,
    RunRecord,
    ScoreMatrix,
    SelfComparison,
    WorkloadRequest,
)
from pytest_multiitem.results.figures import differs, is_rounded
from pytest_multiitem.validation import load
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
    """What was measured, None where it is not known. ``softmax``: whether scores are probabilities.
    ``request_items``: of each request, where the workload is at hand."""

    num_items: int | None
    num_labels: int | None
    softmax: bool
    request_items: tuple[int, ...] = ()


def summary(matrix: ScoreMatrix) -> str:
    """What it holds, in a few words."""
    sizes = ", ".join(str(row.client_chunk_size) for row in matrix.results)
    confirmed = f", {len(matrix.confirm_results)} confirmed" if matrix.confirm_results else ""
    rows = [*matrix.results, *matrix.confirm_results]
    floor = "" if any(row.noise_floor is not None for row in rows) else ", no noise floor: compared, INCONCLUSIVE"
    if rows and not any(row.run_records for row in rows):
        floor += ", no records of runs: its figures were not computed again"
    return f"{matrix.backend} {matrix.evaluation_view}, chunk sizes {sizes or '-'}{confirmed}{floor}"


def problems(artefact: Artefact[ScoreMatrix]) -> list[str]:
    """What is wrong with a matrix whose schema holds."""
    matrix, content = artefact.record, artefact.content
    requests, found = linked(artefact.path, matrix.workload_ref)
    measured = _measured(matrix, requests)
    for name, rows in (("results", matrix.results), ("confirm_results", matrix.confirm_results)):
        found += twice(name, [row.client_chunk_size for row in rows])
        for row, raw in zip(rows, content.get(name, ()), strict=True):
            found += [
                f"{name}, chunk size {row.client_chunk_size}: {text}" for text in row_problems(row, raw, measured)
            ]
    if matrix.self_comparison is not None:
        found += [f"self_comparison: {text}" for text in _self_comparison(matrix.self_comparison)]
    if matrix.load is not None:
        found += [f"load: {text}" for text in _load(matrix.load)]
    return [*found, *_recommendations(matrix, is_confirmed="confirm_results" in content)]


def _self_comparison(found: SelfComparison) -> Iterator[str]:
    """Whether A/A says what its runs do; where one of them failed, the blocks that both have are not known."""
    first, second = found.first_ms, found.second_ms
    if not (first and len(first) == len(second) and all(map(is_usable, [*first, *second]))):
        return
    yield from differs("ratio_p50", found.ratio_p50, float(np.median(first) / np.median(second)), "its runs give")
    interval = ratio_interval(first, second) if len(first) >= MIN_RUNS else None
    for at, bound in enumerate(found.ratio_interval_95 or ()):
        yield from differs(f"ratio_interval_95[{at}]", bound, interval[at] if interval else None, "its runs give")


def _load(content: dict[str, Any]) -> Iterator[str]:
    try:
        report = msgspec.convert(content, LoadReport)
    except msgspec.ValidationError as error:
        yield f"it is no {LOAD_SCHEMA} document: {error}"
    else:
        yield from load.problems(report)


def twice(where: str, sizes: Sequence[int]) -> list[str]:
    """A line for every chunk size that more than one row has."""
    return [f"{where}: chunk size {size} stands in {n} rows" for size, n in Counter(sizes).items() if n > 1]


def _measured(matrix: ScoreMatrix, requests: Sequence[WorkloadRequest]) -> Measured:
    if requests:
        items = tuple(len(request.items_token_ids) for request in requests)
        softmax = all(request.apply_softmax for request in requests)
        return Measured(sum(items), len(requests[0].label_token_ids), softmax, items)
    head = matrix.workload if isinstance(matrix.workload, dict) else {}
    count, labels = head.get("num_items"), head.get("label_token_ids")
    return Measured(
        count if isinstance(count, int) and not isinstance(count, bool) and count > 0 else None,
        len(labels) if isinstance(labels, list) else None,
        head.get("apply_softmax") is not False,
    )


def row_problems(row: Row, raw: dict[str, Any], measured: Measured) -> list[str]:
    """Where a row contradicts itself; ``raw``: as it stands in its file."""
    scored = len(row.reference_scores) if row.reference_scores else None
    items = scored if measured.num_items is None else measured.num_items
    return [*_row(row, raw, measured, items)] or [*row_figures.contradictions(row, items)]


def _row(row: Row, raw: dict[str, Any], measured: Measured, items: int | None) -> Iterator[str]:
    runs = row.run_records if "run_records" in raw else None
    if row.client_chunk_size < 1:
        yield "expected at least 1 item a request"
    elif measured.num_items is not None:
        items_of = row.request_items or [measured.num_items]
        known = [*measured.request_items]
        if sum(items_of) != measured.num_items or (known[1:] and known != items_of):
            yield f"request_items are {items_of}, but the workload has {measured.num_items} items"
        wanted = sum(math.ceil(items / row.client_chunk_size) for items in items_of)
        if row.num_chunks is not None and row.num_chunks != wanted:
            yield f"num_chunks is {row.num_chunks}, but {measured.num_items} items make {wanted}"
    yield from _counts(row, raw, runs)
    for index, run in enumerate(runs or ()):
        timed = "total_e2e_ms" in raw["run_records"][index]
        yield from (f"run {index} {text}" for text in _run(run, row.num_chunks, timed=timed))
    p50, p95 = row.p50_total_e2e_ms, row.p95_total_e2e_ms
    if runs is not None:
        yield from _times(row, runs, items)
    elif p50 is not None and p95 is not None and p95 < p50 * (1 - _EXACT):
        yield f"p95_total_e2e_ms is {p95:g}, below p50_total_e2e_ms, {p50:g}"
    if row.reference_scores is not None:
        yield from _scores(row.reference_scores, measured)


def _counts(row: Row, raw: dict[str, Any], runs: list[RunRecord] | None) -> Iterator[str]:
    """Whether counts, rate, status and failures add up: to the runs where they are there, else to each other."""
    timed, good = row.timed_runs, row.successful_runs
    if runs is not None:
        timed, good = len(runs), sum(run.ok for run in runs)
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
    reasons = [run.failure_reason for run in runs or () if not run.ok]
    counted = Counter(reason for reason in reasons if reason is not None)
    if sum(stated.values()) != failed:
        yield f"failure_reason_counts add up to {sum(stated.values())}, but {failed} runs failed"
    elif runs is not None and None not in reasons and stated != counted:
        yield f"failure_reason_counts are {stated}, but the runs failed by {dict(counted)}"


def _run(run: RunRecord, num_chunks: int | None, *, timed: bool) -> Iterator[str]:
    """``timed``: its file has the run's time, be it null."""
    total, calls = run.total_e2e_ms, run.call_latencies_ms
    if run.ok and total is None and timed:
        yield "is ok, but has no total_e2e_ms"
    if run.ok and run.failure_reason is not None:
        yield f"is ok, but has the failure_reason {run.failure_reason!r}"
    shortest = min((time for time in (total, *calls) if time is not None), default=None)
    if shortest is not None and (shortest < 0 or total == 0):
        yield f"takes {shortest:g} ms"
    elif total is not None and sum(calls) > total * _CALLS + _CALLS_MS:
        yield f"takes {total:g} ms, but its requests {sum(calls):g} ms"
    if num_chunks is not None and (len(calls) > num_chunks or (run.ok and 0 < len(calls) < num_chunks)):
        yield f"has {len(calls)} call_latencies_ms, but num_chunks is {num_chunks}"


def _times(row: Row, runs: list[RunRecord], num_items: int | None) -> Iterator[str]:
    totals = [time for run in runs if run.ok and is_usable(time := run.total_e2e_ms)]
    calls = [time for run in runs for time in run.call_latencies_ms if is_usable(time)]
    good = sum(run.ok for run in runs)
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
        if num_items is not None and not is_rounded(row.throughput_items_sec, rate := 1000 * num_items / mean):
            yield from _outside(row, "throughput_items_sec", (rate, rate), f"N over the mean {what}")
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


def _recommendations(matrix: ScoreMatrix, *, is_confirmed: bool) -> Iterator[str]:
    """Whether the recommendations are those of the guardrail rule, of a ratio that the file may choose.
    ``is_confirmed``: its file holds confirmed rows, be it none."""
    stated, swept = matrix.summary, matrix.results
    ratio = GUARDRAIL_RATIO if stated.guardrail_ratio is None else stated.guardrail_ratio
    if not 1 <= ratio < math.inf:
        yield f"summary: guardrail_ratio is {ratio:g}; expected 1 or more"
        return
    again = guardrail.summary_of(matrix, ratio)
    confirmed, final = matrix.confirm_results, stated.final_recommendation
    yield from _chosen("sweep_recommendation", stated.sweep_recommendation, again.sweep_recommendation, swept)
    if not is_confirmed:
        return
    yield from _chosen("confirm_recommendation", stated.confirm_recommendation, again.confirm_recommendation, confirmed)
    sizes = {row.client_chunk_size for row in confirmed}
    rows = confirmed if stated.final_chunk_size in sizes else swept
    problems = [*_chosen("final_recommendation", final, again.final_recommendation, rows)]
    if problems and matrix.package_version is None and guardrail.recommend(confirmed, ratio) is None:
        problems = [*_chosen("final_recommendation", final, again.sweep_recommendation, swept)]  # others keep it
    yield from problems
    again_sizes = stated.confirm_chunk_sizes
    if again_sizes and not sizes <= {1, *again_sizes}:
        yield f"summary: confirm_chunk_sizes are {again_sizes}, but confirm_results are of {sorted(sizes)}"


def _chosen(name: str, stated: Choice | None, wanted: Choice | None, rows: Sequence[Row]) -> Iterator[str]:
    """Where a recommendation is not the one that its rows give."""
    if stated is None or wanted is None:
        return
    mine, other = stated.selected, wanted.selected
    size, best = (None if chosen is None else chosen.client_chunk_size for chosen in (mine, other))
    unknown = [row for row in rows if guardrail.success_rate(row) is None or _is_bare(row)]
    if size is not None and (why := _may_not(size, rows, wanted.guardrail_p95_ms)) is not None:
        yield f"summary: {name} is {size}, {why}"
    elif not unknown and size != best:
        yield f"summary: {name} is {size or 'none'}; its rows give {best or 'none'}"
    elif not unknown:
        for field in ("eligible_count", "guardrail_ratio", "guardrail_p95_ms"):
            yield from differs(f"summary: {name}.{field}", getattr(stated, field), getattr(wanted, field), "rows give")
        if mine is not None and other is not None:
            for field in ("throughput_items_sec", "p95_total_e2e_ms", "success_rate"):
                what = f"summary: {name}.selected.{field}"
                yield from differs(what, getattr(mine, field), getattr(other, field), "its row has")


def _is_bare(row: Row) -> bool:
    """Whether a row that succeeded does not say how fast it was."""
    return guardrail.success_rate(row) == 1.0 and None in (row.p95_total_e2e_ms, row.throughput_items_sec)


def _may_not(size: int, rows: Sequence[Row], limit: float | None) -> str | None:
    """What is against a row that is recommended."""
    row = next((row for row in rows if row.client_chunk_size == size), None)
    if row is None:
        return "which was not measured"
    rate, why = guardrail.success_rate(row), guardrail.why_not(row)
    if why is not None and (rate not in (None, 1.0) or not _is_bare(row)) and rate is not None:
        return f"which may not win: {why}"
    if limit is not None and row.p95_total_e2e_ms is not None and row.p95_total_e2e_ms > limit * (1 + _EXACT):
        return f"whose p95 of {row.p95_total_e2e_ms:.9g} ms exceeds the guardrail, {limit:.9g} ms"
    return None


def is_usable(time: float | None) -> TypeGuard[float]:
    """Whether it is a finite number above 0."""
    return time is not None and math.isfinite(time) and time > 0
