"""``multiitem compare``: matrices that were measured, here or elsewhere, compared again from their files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pytest_multiitem.errors import UsageError


def compare_files(
    matrices: Annotated[
        list[Path], typer.Argument(metavar="MATRIX…", help="score_matrix_v1 files, one a side and view.")
    ],
    output_dir: Annotated[Path, typer.Option(metavar="DIR", help="Where the comparison and its reports go.")] = Path(),
    blocker: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Why a side is missing, for the reports: quota, capacity, …")
    ] = None,
    allow_inconclusive: Annotated[
        bool, typer.Option("--allow-inconclusive", help="INCONCLUSIVE does not fail.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a comparison that is there.")] = False,
) -> None:
    """Compare measured matrices; write comparison.json, comparison.md and final_report.md.

    Deltas are of the backend whose file is named first. Exit status 0: the comparison is complete and every
    correctness check is a PASS. 1: one is FAIL or INCONCLUSIVE, or a side is missing. 2: a file cannot be used.
    """
    from pytest_multiitem.comparison import files as artefacts
    from pytest_multiitem.comparison.decision.compare import compare, exit_status
    from pytest_multiitem.comparison.records import ScoreMatrix
    from pytest_multiitem.reports.comparison import FILES, comparison_lines, write

    read = [(path, artefacts.read(path, ScoreMatrix).record) for path in matrices]
    there = [str(output_dir / name) for name in FILES if (output_dir / name).exists()]
    if there and not force:
        raise UsageError(f"{', '.join(there)} exists; give another --output-dir, or --force to overwrite")
    comparison = compare(read, blocker=blocker)
    written = write(output_dir, comparison, [matrix for _, matrix in read])
    for line in comparison_lines(comparison):
        typer.echo(line)
    typer.echo(f"wrote {', '.join(map(str, written))}")
    raise typer.Exit(exit_status(comparison, allow_inconclusive=allow_inconclusive))
