"""Rows → the one that wins: highest throughput among those whose p95 is within the guardrail."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from pytest_multiitem.bench.statistics import P95_SAMPLES
from pytest_multiitem.comparison.records import Choice, MatrixSummary, Row, ScoreMatrix, Selected, Thresholds
from pytest_multiitem.gates.parity import CROSS_BACKEND_MAX_ABS, CROSS_BACKEND_MEAN_ABS

#: A winner's p95 may be this many times the lowest eligible one.
GUARDRAIL_RATIO: Final = 1.25

T = TypeVar("T")


@dataclass(frozen=True)
class Candidate(Generic[T]):
    """What may win: its p95 in milliseconds, its items per second, its client chunk size, and what it is."""

    p95_ms: float
    throughput: float
    chunk_size: int
    what: T


def guardrail(candidates: Iterable[Candidate[T]], ratio: float = GUARDRAIL_RATIO) -> float | None:
    """The p95 in milliseconds that a winner must not exceed; None where nothing may win."""
    lowest = min((candidate.p95_ms for candidate in candidates), default=None)
    return None if lowest is None else ratio * lowest


def choose(candidates: Sequence[Candidate[T]], ratio: float = GUARDRAIL_RATIO) -> Candidate[T] | None:
    """The candidate with the highest throughput within the guardrail.

    Ties go to the smaller chunk, then to the lower p95, then to the one that was named first.
    """
    limit = guardrail(candidates, ratio)
    if limit is None:
        return None
    return min(
        (candidate for candidate in candidates if candidate.p95_ms <= limit),
        key=lambda candidate: (-candidate.throughput, candidate.chunk_size, candidate.p95_ms),
    )


def why_not(row: Row) -> str | None:
    """What keeps a row from winning, whatever other rows say; None where nothing does.

    An unstable row, or one in which something was compiled, may win: with less confidence.
    """
    rate = success_rate(row)
    if rate is None:
        return "its success rate is not known"
    if row.status != "ok" or rate != 1.0:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(row.failure_reason_counts.items()) if count)
        return f"its success rate is {rate:.3g} ({kinds or f'status {row.status}'})"
    for problem in (row.attestation_problem, row.score_problem):
        if problem is not None:
            return problem
    for value, name in ((row.p95_total_e2e_ms, "p95"), (row.throughput_items_sec, "throughput")):
        if value is None:
            return f"it has no {name}"
        if not (math.isfinite(value) and value > 0):
            return f"its {name} is no finite number above 0"
    return None


def success_rate(row: Row) -> float | None:
    """The share of successful runs: the lowest of what the row says and what its counts and its runs say."""
    stated = row.success_rate
    rates = [stated] if stated is not None and math.isfinite(stated) else []
    if row.successful_runs is not None and row.timed_runs:
        rates.append(row.successful_runs / row.timed_runs)
    if row.timed_runs == 0:
        rates.append(0.0)
    if row.run_records:
        rates.append(sum(run.ok for run in row.run_records) / len(row.run_records))
    return min(rates, default=None)


def p95_interpolated(row: Row) -> bool | None:
    """Whether too few runs stand behind the p95; None where nothing says how many did."""
    if row.p95_interpolated is None and row.successful_runs is not None:
        return row.successful_runs < P95_SAMPLES
    return row.p95_interpolated


def candidate_of(row: Row, what: T) -> Candidate[T] | None:
    """The row as a candidate; None where it may not win."""
    if why_not(row) is not None or row.p95_total_e2e_ms is None or row.throughput_items_sec is None:
        return None
    return Candidate(row.p95_total_e2e_ms, row.throughput_items_sec, row.client_chunk_size, what)


def choice(rows: Sequence[Row], ratio: float = GUARDRAIL_RATIO) -> Choice:
    """What wins among rows of one server."""
    candidates = [c for row in rows if (c := candidate_of(row, row)) is not None]
    chosen = choose(candidates, ratio)
    return Choice(
        selected=None
        if chosen is None
        else Selected(
            client_chunk_size=chosen.chunk_size,
            throughput_items_sec=chosen.throughput,
            p95_total_e2e_ms=chosen.p95_ms,
            success_rate=success_rate(chosen.what),
        ),
        eligible_count=len(candidates),
        guardrail_ratio=ratio,
        guardrail_p95_ms=guardrail(candidates, ratio),
        notes=[] if candidates else ["no row may win"],
    )


def recommend(rows: Sequence[Row], ratio: float = GUARDRAIL_RATIO) -> int | None:
    """The client chunk size that wins among rows of one server; None where no row may win."""
    selected = choice(rows, ratio).selected
    return None if selected is None else selected.client_chunk_size


def thresholds() -> Thresholds:
    """The limits of the gates on the scores of two sides."""
    largest, mean = CROSS_BACKEND_MAX_ABS.limit, CROSS_BACKEND_MEAN_ABS.limit
    assert largest is not None
    assert mean is not None
    return Thresholds(max_abs_diff=largest, mean_abs_diff=mean)


def confirm_chunk_sizes(chunk_sizes: Sequence[int], choice: int | None) -> list[int]:
    """What is measured again after a sweep: chunk size 1, the sweep's choice and its two neighbours, ascending.

    Only of the sizes that were swept; nothing where the sweep chose none.
    """
    sizes = sorted(set(chunk_sizes))
    if choice not in sizes:
        return []
    at = sizes.index(choice)
    return sorted({size for size in sizes if size == 1} | {*sizes[max(at - 1, 0) : at + 2]})


def summary_of(matrix: ScoreMatrix, ratio: float = GUARDRAIL_RATIO) -> MatrixSummary:
    """Which chunk size a matrix recommends: the confirmed choice, else the sweep's unless confirming refuted it."""
    swept, confirmed = choice(matrix.results, ratio), choice(matrix.confirm_results, ratio)
    size = None if swept.selected is None else swept.selected.client_chunk_size
    refuted = any(row.client_chunk_size == size for row in matrix.confirm_results)
    return MatrixSummary(
        guardrail_ratio=ratio,
        sweep_recommendation=swept,
        confirm_chunk_sizes=confirm_chunk_sizes([row.client_chunk_size for row in matrix.results], size),
        confirm_recommendation=confirmed,
        final_recommendation=confirmed if confirmed.selected is not None or refuted else swept,
        correctness_thresholds=thresholds(),
    )
