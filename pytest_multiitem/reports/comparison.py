"""The reports of a comparison: ``comparison.md``, ``final_report.md``, and a summary for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pytest_multiitem.comparison import files as artefacts
from pytest_multiitem.comparison.decision.guardrail import GUARDRAIL_RATIO
from pytest_multiitem.comparison.decision.recommendation import display_name
from pytest_multiitem.comparison.decision.speed import delta_percent
from pytest_multiitem.comparison.files import FILES
from pytest_multiitem.comparison.records import Comparison, Outcome, ScoreMatrix
from pytest_multiitem.reports import comparison_contract as contract
from pytest_multiitem.reports import comparison_evidence as evidence
from pytest_multiitem.reports import comparison_tables as tables
from pytest_multiitem.reports import score_matrix
from pytest_multiitem.reports.blocks import terminal_table
from pytest_multiitem.reports.html.chapters import page_of
from pytest_multiitem.reports.page import page
from pytest_multiitem.results.published import PUBLISHED_THROUGHPUT, THROUGHPUT_SHAPE
from pytest_multiitem.results.store import write_atomically


def comparison_markdown(comparison: Comparison) -> str:
    """``comparison.md``: a table a view, the winners, and the notes."""
    return page("comparison", comparison=comparison, tables=tables, guardrail=f"{GUARDRAIL_RATIO:g}")


def final_report(comparison: Comparison, matrices: Sequence[ScoreMatrix], title_date: str | None = None) -> str:
    """``final_report.md``: everything that the decision rests on. ``matrices``: those that were compared.
    ``title_date``: stands in the title."""
    return page(
        "final_report",
        comparison=comparison,
        matrices=matrices,
        title=_title(title_date),
        tables=tables,
        contract=contract,
        evidence=evidence,
        guardrail=f"{GUARDRAIL_RATIO:g}",
        relative=delta_percent,
        findings=_findings(comparison),
        published=PUBLISHED_THROUGHPUT,
        published_shape=THROUGHPUT_SHAPE,
        shape=evidence.shape(comparison),
    )


def _title(date: str | None) -> str:
    return "Multi-item scoring: final report" + (f" ({date})" if date else "")


def comparison_lines(comparison: Comparison) -> list[str]:
    """A summary for the terminal: a table a view, what is not a PASS, and the decision."""
    lines = []
    for view in comparison.views:
        lines += terminal_table(*tables.in_short(view))
    lines += [
        f"{check.verdict} {check.gate}: {where}: {check.reason}" for where, check in tables.not_passed(comparison)
    ]
    if comparison.summary:
        lines.append(comparison.summary)
    recommendation = comparison.recommendation
    if recommendation is not None and recommendation.confidence != "none":
        lines += [f"  {reason}" for reason in recommendation.reasons]
    return [" ".join(line.splitlines()) if "\n" in line else line for line in lines]


def _findings(comparison: Comparison) -> list[str]:
    """Where each side is better, by how much, and at which client chunk size."""
    findings = []
    for view in comparison.views:
        if len(view.backends) < 2:
            continue
        for mine, other, verdict in zip(view.backends, view.backends[::-1], ("a_faster", "b_faster"), strict=True):
            for name, words, better in (("throughput_items_sec", "more items/s", 1), ("p95_ms", "a lower p95", -1)):
                cells = []
                for row in view.rows:
                    delta = delta_percent(*(getattr(row.sides.get(backend), name, None) for backend in (mine, other)))
                    seen = ", shown by the interval" if row.speed_verdict == verdict else ", not shown"
                    if delta is not None and better * delta > 0:
                        cells.append(f"{row.client_chunk_size} ({tables.percent(delta)}{seen if better == 1 else ''})")
                if cells:
                    findings.append(
                        f"{view.view}: {display_name(mine)} has {words} than {display_name(other)} at client chunk "
                        f"size {', '.join(cells)}."
                    )
        same = [str(row.client_chunk_size) for row in view.rows if row.speed_verdict == "no_difference_shown"]
        if same:
            findings.append(f"{view.view}: no difference in speed is shown at client chunk size {', '.join(same)}.")
    for winner in comparison.winners_by_backend.values():
        findings.append(
            f"{display_name(winner.backend)}'s best is client chunk size {winner.client_chunk_size} in {winner.view}: "
            f"{tables.plain(winner.throughput_items_sec)} items/s."
        )
        elsewhere = [view.winners_by_backend.get(winner.backend) for view in comparison.views]
        best = max((w for w in elsewhere if w is not None), key=lambda w: w.throughput_items_sec, default=winner)
        if best.throughput_items_sec > winner.throughput_items_sec:
            more = tables.percent(delta_percent(best.throughput_items_sec, winner.throughput_items_sec))
            findings.append(
                f"{display_name(winner.backend)} has more items/s in {best.view} ({more}, client chunk size "
                f"{best.client_chunk_size}): its {winner.view} settings are not its best here."
            )
    return findings


def publish(outcome: Outcome) -> list[Path]:
    """Write what a run of the comparison decided beside what it measured, and a report of each matrix."""
    reports = [score_matrix.write_beside(outcome.directory / path, matrix) for path, matrix in outcome.matrices]
    return reports + write(outcome.directory, outcome.comparison, [matrix for _, matrix in outcome.matrices])


def write(
    directory: Path, comparison: Comparison, matrices: Sequence[ScoreMatrix], title_date: str | None = None
) -> list[Path]:
    """Write a comparison and its reports; gives their paths. Raises StorageError where that fails."""
    paths = [directory / name for name in FILES]
    artefacts.write(paths[0], comparison)
    texts = (
        comparison_markdown(comparison),
        final_report(comparison, matrices, title_date),
        page_of([comparison], {0: matrices}, _title(title_date)),
    )
    for path, text in zip(paths[1:], texts, strict=True):
        write_atomically(path, text.encode())
    return paths
