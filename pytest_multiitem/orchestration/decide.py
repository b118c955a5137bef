"""From the matrices that were brought back to one comparison, whole or partial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pytest_multiitem.comparison import files
from pytest_multiitem.comparison.decision.compare import compare
from pytest_multiitem.comparison.records import Comparison, ScoreMatrix
from pytest_multiitem.orchestration.artefacts import kept
from pytest_multiitem.orchestration.records import BACKEND_OF, Plan, SideName
from pytest_multiitem.reports.comparison import write
from pytest_multiitem.reports.score_matrix import write_beside
from pytest_multiitem.results.records import Verdict
from pytest_multiitem.results.verdict import failing


def compare_kept(directory: Path, blockers: Mapping[SideName, str], notes: Sequence[str]) -> Comparison | None:
    """Compare what is here, and write comparison and reports, one a matrix too; None where nothing is here.

    ``notes``: for the reports.
    """
    paths = kept(directory, list(BACKEND_OF.values()))
    if not paths:
        return None
    matrices = [(path, files.read(path, ScoreMatrix).record) for path in paths]
    blocker = "; ".join(f"{side.upper()}: {reason}" for side, reason in blockers.items()) or None
    alone = {backend: f"{side.upper()}-only partial" for side, backend in BACKEND_OF.items()}
    comparison = compare([(Path(path.name), matrix) for path, matrix in matrices], blocker=blocker, alone=alone)
    comparison.notes += notes
    for path, matrix in matrices:
        write_beside(path, matrix)
    write(directory, comparison, [matrix for _, matrix in matrices])
    return comparison


def in_short(comparison: Comparison | None, blockers: Mapping[SideName, str], failure: str | None) -> str:
    """What came of a run, in one sentence or two."""
    reasons = "; ".join(dict.fromkeys([*blockers.values(), *([failure] if failure else [])]))
    if comparison is None:
        return f"nothing was measured: {reasons or 'no step was begun'}"
    if comparison.status != "complete":
        return comparison.summary or f"partial: {reasons}"
    return (comparison.summary or "complete") + (f" But: {reasons}" if reasons else "")


def problems(comparison: Comparison | None, plan: Plan) -> list[str]:
    """What in a comparison keeps the run from being a success, beyond what is missing from it."""
    if comparison is None:
        return ["nothing was measured"]
    bad = failing(allow_inconclusive=plan.allow_inconclusive)
    across = [(view.view, check) for view in comparison.views for row in view.rows for check in row.checks]
    own = [(f"{side.backend} {side.view}", check) for side in comparison.sides for check in side.own_reference_checks]
    found = [f"{check.verdict} {check.gate}: {where}: {check.reason}" for where, check in (*across, *own)
             if Verdict(check.verdict) in bad]  # fmt: skip
    if comparison.status == "complete" and not across:
        found.append("no client chunk size was measured on both sides")
    return list(dict.fromkeys(found))
