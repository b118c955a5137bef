"""Which runs may become a baseline: only those that found nothing wrong."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_multiitem.baselines.timings import Timings, row_problem
from pytest_multiitem.comparison.records import ScoreMatrix
from pytest_multiitem.results.records import Matrix
from pytest_multiitem.results.verdict import failing


def refusal(run: Matrix | None, matrices: Sequence[ScoreMatrix], timings: Timings) -> str | None:
    """Why a run, a comparison's matrices, or both must not become a baseline; None where they may."""
    if run is not None and (found := found_wrong(run)) is not None:
        return found
    for matrix in matrices:
        side = f"the comparison's {matrix.backend} side ({matrix.evaluation_view})"
        if matrix.complete is False or matrix.blocker is not None:
            return f"{side} is incomplete" + (f": {matrix.blocker}" if matrix.blocker else "")
        for row in (*matrix.results, *matrix.confirm_results):
            if (problem := row_problem(row)) is not None:
                return f"{side}, chunk size {row.client_chunk_size}: {problem}"
    return None if timings.cells else "no timing was measured"


def found_wrong(run: Matrix) -> str | None:
    """Why nothing of a run may become what later ones are compared with; None where it may."""
    if run.exit_status != 0:
        return f"the run failed (exit status {run.exit_status})"
    if not run.complete:
        return f"the run is incomplete ({run.interrupted_by or 'it ended before every test was reached'})"
    bad = [gate for gate in run.gates if gate.verdict in failing(allow_inconclusive=False)]
    if bad:
        return f"{bad[0].gate} is {bad[0].verdict.value}"
    return None
