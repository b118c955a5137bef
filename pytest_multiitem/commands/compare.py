"""``multiitem compare``: a comparison, measured without pytest, or compared again from its matrices."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from pytest_multiitem.commands.options import AllowInconclusive, takes_run_options
from pytest_multiitem.errors import UsageError


@takes_run_options
def compare_run(given: Mapping[str, str | None]) -> None:
    """Measure the comparison and decide. Takes the options of a run: --backend, --model, --multiitem-views,
    --multiitem-compare-chunk-sizes all, --compare-dir, …

    Exit status 0: every side was measured and the scores agree. 1: a side is missing, a row failed, or correctness
    is not shown. 2: it could not begin. An interrupted comparison goes on when the command is typed again.
    """
    from pytest_multiitem.adapters.base import check_backends, choose_engine
    from pytest_multiitem.comparison.gate_verdicts import exit_status
    from pytest_multiitem.comparison.measuring.runner import compare
    from pytest_multiitem.progress import ProgressBar
    from pytest_multiitem.reports.comparison import comparison_lines, publish
    from pytest_multiitem.settings.resolve import resolve

    settings = resolve(given, {})
    check_backends(settings)
    engine = choose_engine(settings.engine)
    settings = engine.with_own_names(settings)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # SIGTERM ends it as Ctrl-C does
    try:
        with ProgressBar() as bar:
            outcome = compare(settings, engine, Path.cwd(), bar, publish)
    except KeyboardInterrupt:
        typer.echo("interrupted; what is measured is kept: the same command goes on from there", err=True)
        raise
    for line in comparison_lines(outcome.comparison):
        typer.echo(line)
    directory, here = outcome.directory, Path.cwd()
    typer.echo(f"results: {directory.relative_to(here) if directory.is_relative_to(here) else directory}/")
    status, reasons = exit_status(outcome, settings)
    for reason in reasons:
        typer.echo(f"multiitem: {reason}", err=True)
    raise typer.Exit(status)


def compare_files(
    matrices: Annotated[
        list[Path], typer.Argument(metavar="MATRIX…", help="score_matrix_v1 files, one a side and view.")
    ],
    output_dir: Annotated[Path, typer.Option(metavar="DIR", help="Where the comparison and its reports go.")] = Path(),
    blocker: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Why a side is missing, for the reports: quota, capacity, …")
    ] = None,
    allow_inconclusive: AllowInconclusive = False,
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
    from pytest_multiitem.validation.validate import refuse_contradictions

    read = [(path, artefacts.read(path, ScoreMatrix).record) for path in matrices]
    for path in matrices:
        refuse_contradictions(path)
    there = [str(output_dir / name) for name in FILES if (output_dir / name).exists()]
    if there and not force:
        raise UsageError(f"{', '.join(there)} exists; give another --output-dir, or --force to overwrite")
    comparison = compare(read, blocker=blocker)
    written = write(output_dir, comparison, [matrix for _, matrix in read])
    for line in comparison_lines(comparison):
        typer.echo(line)
    typer.echo(f"wrote {', '.join(map(str, written))}")
    raise typer.Exit(exit_status(comparison, allow_inconclusive=allow_inconclusive))
