"""The reports of a comparison: ``comparison.md``, ``final_report.md``, and a summary for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pytest_multiitem.comparison import files as artefacts
from pytest_multiitem.comparison.decision.guardrail import GUARDRAIL_RATIO
from pytest_multiitem.comparison.decision.recommendation import display_name
from pytest_multiitem.comparison.decision.speed import ratio_of
from pytest_multiitem.comparison.records import ComparedRow, ComparedView, Comparison, Outcome, ScoreMatrix
from pytest_multiitem.errors import UsageError
from pytest_multiitem.reports import comparison_evidence as evidence
from pytest_multiitem.reports import comparison_tables as tables
from pytest_multiitem.reports.blocks import markdown_table, terminal_table
from pytest_multiitem.reports.page import page
from pytest_multiitem.results.published import PUBLISHED_THROUGHPUT, THROUGHPUT_SHAPE
from pytest_multiitem.results.store import write_atomically


def comparison_markdown(comparison: Comparison) -> str:
    """``comparison.md``: a table a view, the winners, and the notes."""
    return page("comparison", comparison=comparison, tables=tables, guardrail=f"{GUARDRAIL_RATIO:g}")


def final_report(comparison: Comparison, matrices: Sequence[ScoreMatrix]) -> str:
    """``final_report.md``: everything that the decision rests on. ``matrices``: those that were compared."""
    return page(
        "final_report",
        comparison=comparison,
        matrices=matrices,
        tables=tables,
        evidence=evidence,
        guardrail=f"{GUARDRAIL_RATIO:g}",
        best_native=_best_native(comparison),
        findings=_findings(comparison),
        published=PUBLISHED_THROUGHPUT,
        published_shape=THROUGHPUT_SHAPE,
        shape=evidence.shape(comparison),
    )


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


# -- sections ----------------------------------------------------------------------------------


def _best_native(comparison: Comparison) -> str:
    view = next((view for view in comparison.views if view.view == "best_native"), None)
    if view is None:
        return "The view best_native was not measured."
    header = ["backend", "best client chunk size", "items/s", "p50 ms", "p95 ms", "engine", "mask", "items per USD"]
    rows = [row[2:] for row in tables.winners(comparison)[1] if row[0] == "best_native" and row[1] != "the view"]
    notes = []
    if len(view.winners_by_backend) == 2:
        ours, theirs = (view.winners_by_backend[backend] for backend in view.backends)
        deltas = [f"{tables.percent(_relative(ours.throughput_items_sec, theirs.throughput_items_sec))} items/s"]
        if (p95 := _relative(ours.p95_ms, theirs.p95_ms)) is not None:
            deltas.append(f"{tables.percent(p95)} p95")
        notes.append(
            f"{display_name(ours.backend)}'s best relative to {display_name(theirs.backend)}'s: {', '.join(deltas)}."
        )
    return "\n\n".join([markdown_table(header, rows) or "No row may win.", *notes])


def _findings(comparison: Comparison) -> list[str]:
    """Where each side is better, by how much, and at which client chunk size."""
    found = []
    for view in comparison.views:
        if len(view.backends) < 2:
            continue
        for mine, other in (view.backends, view.backends[::-1]):
            for name, words, better in (("throughput_items_sec", "more items/s", 1), ("p95_ms", "a lower p95", -1)):
                cells = [
                    f"{row.client_chunk_size} ({tables.percent(delta)}{_seen(view, row, mine) if better == 1 else ''})"
                    for row in view.rows
                    if (delta := _delta(row, mine, other, name)) is not None and better * delta > 0
                ]
                if cells:
                    found.append(
                        f"{view.view}: {display_name(mine)} has {words} than {display_name(other)} at client chunk "
                        f"size {', '.join(cells)}."
                    )
        same = [str(row.client_chunk_size) for row in view.rows if row.speed_verdict == "no_difference_shown"]
        if same:
            found.append(f"{view.view}: no difference in speed is shown at client chunk size {', '.join(same)}.")
    for winner in comparison.winners_by_backend.values():
        found.append(
            f"{display_name(winner.backend)}'s best is client chunk size {winner.client_chunk_size} in {winner.view}: "
            f"{tables.plain(winner.throughput_items_sec)} items/s."
        )
        elsewhere = [view.winners_by_backend.get(winner.backend) for view in comparison.views]
        best = max((w for w in elsewhere if w is not None), key=lambda w: w.throughput_items_sec, default=winner)
        if best.throughput_items_sec > winner.throughput_items_sec:
            found.append(
                f"{display_name(winner.backend)} has more items/s in {best.view} "
                f"({tables.percent(_relative(best.throughput_items_sec, winner.throughput_items_sec))}, client chunk "
                f"size {best.client_chunk_size}): its {winner.view} settings are not its best here."
            )
    return found


def _seen(view: ComparedView, row: ComparedRow, backend: str) -> str:
    """Whether the interval shows a backend's speed at a client chunk size."""
    verdict = "a_faster" if backend == view.backends[0] else "b_faster"
    return ", shown by the interval" if row.speed_verdict == verdict else ", not shown"


def _delta(row: ComparedRow, mine: str, other: str, name: str) -> float | None:
    """One backend relative to the other, in percent."""
    return _relative(*(getattr(row.sides.get(backend), name, None) for backend in (mine, other)))


def _relative(ours: float | None, theirs: float | None) -> float | None:
    """In percent."""
    ratio = ratio_of(ours, theirs)
    return None if ratio is None else 100 * (ratio - 1)


#: What a comparison writes: its record, its tables, and the report of all that it rests on.
FILES = ("comparison.json", "comparison.md", "final_report.md")


def publish(outcome: Outcome) -> list[Path]:
    """Write what a run of the comparison decided beside what it measured."""
    return write(outcome.directory, outcome.comparison, [matrix for _, matrix in outcome.matrices])


def write(directory: Path, comparison: Comparison, matrices: Sequence[ScoreMatrix]) -> list[Path]:
    """Write a comparison and its two reports; gives their paths. Raises UsageError where that fails."""
    paths = [directory / name for name in FILES]
    artefacts.write(paths[0], comparison)
    for path, text in zip(
        paths[1:], (comparison_markdown(comparison), final_report(comparison, matrices)), strict=True
    ):
        try:
            write_atomically(path, text.encode())
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror}") from None
    return paths
