"""The report of one matrix: every client chunk size as it was swept and confirmed, and what the matrix recommends."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pytest_multiitem.comparison.decision.guardrail import p95_interpolated
from pytest_multiitem.comparison.records import Row, ScoreMatrix
from pytest_multiitem.reports import comparison_evidence as evidence
from pytest_multiitem.reports.blocks import Rows
from pytest_multiitem.reports.comparison_tables import INTERPOLATED, plain
from pytest_multiitem.reports.page import page
from pytest_multiitem.results.store import write_atomically


def score_matrix_markdown(matrix: ScoreMatrix) -> str:
    """One ``score_matrix_v1`` as Markdown."""
    size = matrix.summary.final_chunk_size
    measured = [*matrix.confirm_results, *matrix.results]
    return page(
        "score_matrix",
        matrix=matrix,
        sweep=_rows(matrix.results),
        confirmation=_rows(matrix.confirm_results),
        chosen=next((row for row in measured if row.client_chunk_size == size), None),
        workload=evidence.matrix_workload(matrix),
        plain=plain,
        interpolated=INTERPOLATED,
        evidence=evidence,
    )


def markdown_path(path: Path) -> Path:
    """Where the report of a matrix lies: beside it."""
    return path.with_suffix(".md")


def write_beside(path: Path, matrix: ScoreMatrix) -> Path:
    """Write the report of the matrix in the file ``path`` beside it; gives its path. Raises StorageError."""
    report = markdown_path(path)
    write_atomically(report, score_matrix_markdown(matrix).encode())
    return report


def _rows(rows: Iterable[Row]) -> Rows:
    """A client chunk size a row."""
    header = ["client chunk size", "requests a run", "status", "successful runs", "p50 ms", "p95 ms", "mean ms",
              "mean request ms", "items/s", "items per USD", "failures"]  # fmt: skip
    return header, [
        [
            str(row.client_chunk_size),
            plain(row.num_chunks, 0),
            row.status.replace("_", " "),
            f"{plain(row.successful_runs, 0)} of {plain(row.timed_runs, 0)}",
            plain(row.p50_total_e2e_ms),
            ("≈" if row.p95_total_e2e_ms is not None and p95_interpolated(row) else "") + plain(row.p95_total_e2e_ms),
            plain(row.mean_total_e2e_ms),
            plain(row.mean_chunk_call_ms),
            plain(row.throughput_items_sec),
            plain(row.items_per_usd, 0),
            ", ".join(f"{count} {kind}" for kind, count in row.failure_reason_counts.items() if count) or "-",
        ]
        for row in rows
    ]
