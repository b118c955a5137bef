"""A row's runs → its figures; written, and checked, by this alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

import msgspec
import numpy as np

from pytest_multiitem.bench import statistics
from pytest_multiitem.comparison.records import Row
from pytest_multiitem.gates.evidence import score_spread
from pytest_multiitem.results import figures

#: What does not follow from a row's runs and scores, and what is said in words.
_NO_FIGURES = (
    "client_chunk_size", "request_items", "run_records", "session", "warmup_ms", "measured_at_utc", "reference_scores",
    "mask_attested", "attestation_problem", "score_problem", "noise_floor", "usd_per_run", "items_per_usd",
)  # fmt: skip
_WORDS = ("unstable", "recompilation")


def fill(row: Row, num_items: int) -> None:
    """Fill in what follows from the runs, over ``num_items`` items each, and from the scores of a row that has no other
    figures yet."""
    good = [run for run in row.run_records if run.ok]
    row.status = "failed" if not good else "ok" if len(good) == len(row.run_records) else "partial_failure"
    row.num_chunks = sum(-(-items // row.client_chunk_size) for items in row.request_items or [num_items])
    row.timed_runs, row.successful_runs = len(row.run_records), len(good)
    row.success_rate = len(good) / len(row.run_records) if row.run_records else None
    row.failure_reason_counts = dict(Counter(run.failure_reason for run in row.run_records if run.failure_reason))
    if row.reference_scores:
        row.score_spread = score_spread([np.array(row.reference_scores)])
    total = [run.total_e2e_ms for run in good if run.total_e2e_ms is not None]
    calls = [call for run in good for call in run.call_latencies_ms]
    if not total:
        return
    row.p50_total_e2e_ms, row.p95_total_e2e_ms = statistics.p50(total), statistics.p95(total)
    row.mean_total_e2e_ms = float(np.mean(total))
    row.mean_chunk_call_ms, row.p95_chunk_call_ms = float(np.mean(calls)), statistics.p95(calls)
    row.throughput_items_sec = 1000 * num_items / row.mean_total_e2e_ms
    row.first_run_penalty_ratio = total[0] / float(np.mean(total[1:])) if total[1:] else None
    times = {"total_e2e_ms": total, "chunk_call_ms": calls}
    row.percentiles = {name: statistics.percentiles(values) for name, values in times.items()}
    row.p95_interpolated = len(total) < statistics.P95_SAMPLES
    row.unstable = statistics.instability(total)
    row.recompilation = statistics.recompilation(total, [run.call_latencies_ms for run in good])


def contradictions(row: Row, num_items: int | None = None) -> Iterator[str]:
    """Where a row has other figures than its runs and scores give; what is not stated is no contradiction.

    Of rows that time every request of every run. ``num_items``: of the workload (default: as many as there are scores).
    Another tool, which does not say how its p95 came about, may have rounded what its runs give. What is no finite
    number is no contradiction either: it is no figure at all.
    """
    items = num_items or len(row.reference_scores or ())
    others = row.p95_interpolated is None
    good = [run for run in row.run_records if run.ok]
    untimed = any(not run.call_latencies_ms or (others and run.total_e2e_ms is None) for run in good)
    if not row.run_records or untimed or not items or row.client_chunk_size < 1:
        return
    again = Row(status="failed", **{name: getattr(row, name) for name in _NO_FIGURES})
    try:
        fill(again, items)
    except ValueError:  # rows of scores of different lengths
        yield "its reference_scores are no scores of items and labels"
        return
    stated = {name: value for name, value in msgspec.to_builtins(row).items() if value not in (None, {}, [])}
    wanted = {name: value for name, value in msgspec.to_builtins(again).items() if name in stated}
    mine, other = dict(figures.leaves(stated)), dict(figures.leaves(wanted))
    for path, text in figures.contradictions(stated, wanted, "its runs give"):
        value = mine.get(path)
        rounded = others and figures.is_rounded(value, other.get(path))
        if path[0] not in _WORDS and not rounded and not (isinstance(value, float) and not math.isfinite(value)):
            yield text
