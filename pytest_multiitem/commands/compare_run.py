"""``multiitem compare run``: a comparison, measured without pytest."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path

import typer

from pytest_multiitem.commands.options import takes_run_options


@takes_run_options
def run(given: Mapping[str, str | None]) -> None:
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
    shown_directory = outcome.directory
    if outcome.directory.is_relative_to(Path.cwd()):
        shown_directory = outcome.directory.relative_to(Path.cwd())
    typer.echo(f"results: {shown_directory}/")
    status, reasons = exit_status(outcome, settings)
    for reason in reasons:
        typer.echo(f"multiitem: {reason}", err=True)
    raise typer.Exit(status)
