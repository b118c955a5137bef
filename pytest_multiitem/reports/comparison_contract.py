"""The sections of a final report that say what was compared: scope, segment mask, workload and runs, files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import PurePath

from pytest_multiitem.comparison.decision.recommendation import display_name
from pytest_multiitem.comparison.files import FILES
from pytest_multiitem.comparison.records import Comparison, Row, ScoreMatrix
from pytest_multiitem.reports.blocks import bullets, cell, code, markdown_table, paragraphs

_VIEWS = {
    "portable": "the same client contract on both sides, which JAX's server does not split again",
    "best_native": "each backend's server with the settings it runs best with, at its own best client chunk size",
}
_BASELINE = "pytorch"
_SEGMENT = "segment"


def scope(comparison: Comparison) -> str:
    """What is compared with what, in which views."""
    backends = dict.fromkeys(side.backend for side in comparison.sides)
    named = [
        f"{display_name(b)} ({', '.join(engines)})"
        if (engines := list(dict.fromkeys(s.engine for s in comparison.sides if s.backend == b and s.engine)))
        else display_name(b)
        for b in backends
    ]
    lines = [f"Compares multi-item scoring of {' with '.join(named)}."]
    if _BASELINE in backends and len(backends) > 1:
        lines.append(f"{display_name(_BASELINE)} is the baseline, measured as it stands: deltas are relative to it.")
    lines += [f"{view.view}: {_VIEWS.get(view.view, 'a view of its own')}." for view in comparison.views]
    return bullets(lines)


def limitation(comparison: Comparison, matrices: Sequence[ScoreMatrix]) -> str:
    """What is known of the segment mask on the accelerator: from the run's own gates, and from the sides' rows."""
    gates = [f"{check.verdict} {check.gate}: {check.reason}" for check in comparison.limitations]
    masks = []
    for matrix in matrices:
        rows = [*matrix.results, *matrix.confirm_results]
        executed = list(dict.fromkeys(row.mask_attested for row in rows if row.mask_attested))
        problems = dict.fromkeys(p for row in rows if (p := row.attestation_problem) and _SEGMENT in p)
        side = f"{display_name(matrix.backend)} {matrix.evaluation_view}"
        if matrix.mask_requested or executed:
            done = ", ".join(executed) or "not attested"
            masks.append(f"{side}: mask requested: {matrix.mask_requested or '-'}; executed: {done}.")
        masks += [f"{side}: {problem}." for problem in problems]
        failed = [
            str(row.client_chunk_size)
            for row in rows
            if row.status != "ok" and _SEGMENT in (matrix.mask_requested, row.mask_attested)
        ]
        if failed:
            masks.append(f"{side}: with the segment mask, client chunk size {', '.join(failed)} failed.")
    unknown = "No NOT_RUN and no FAIL of a run's segment gates is known to this report."
    return paragraphs(bullets(gates) or unknown, bullets(masks))


def runs(comparison: Comparison, matrices: Sequence[ScoreMatrix]) -> str:
    """Client chunk sizes, and how often they were run."""
    table = []
    for matrix in matrices:
        warm = max((len(row.warmup_ms) for row in matrix.results), default=0)
        table.append(
            [
                f"{display_name(matrix.backend)} {matrix.evaluation_view}",
                ", ".join(str(row.client_chunk_size) for row in matrix.results) or "-",
                _counts(matrix.results),
                ", ".join(str(row.client_chunk_size) for row in matrix.confirm_results) or "-",
                _counts(matrix.confirm_results),
                str(warm) if warm else "-",
            ]
        )
    header = [
        "side",
        "client chunk sizes",
        "timed runs",
        "confirmed",
        "timed runs of these",
        "warm-up requests, at most",
    ]
    limits = None if comparison.correctness is None else comparison.correctness.thresholds
    said = ""
    if limits is not None:
        said = f"Scores of both sides: at most {limits.max_abs_diff:g} apart, {limits.mean_abs_diff:g} on average."
    return paragraphs(markdown_table(header, table), said)


def _counts(rows: Iterable[Row]) -> str:
    return ", ".join(dict.fromkeys(cell(row.timed_runs) for row in rows)) or "-"


def locations(comparison: Comparison) -> str:
    """Where what this rests on lies, as the sides name it."""
    files = [comparison.workload_ref.path, *(side.path for side in comparison.sides)]
    reports = [str(PurePath(side.path).with_suffix(".md")) for side in comparison.sides if side.path]
    return bullets(code(name) for name in dict.fromkeys([*files, *reports, *FILES]) if name)
