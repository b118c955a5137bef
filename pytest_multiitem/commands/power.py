"""``multiitem power``: the kill matrix without pytest."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType
from typing import Any

import typer


def power(context: typer.Context) -> None:
    """Prove that the gates can fail: measure them on builds with every known fault, on both embedded backends.

    Takes the options of a run: --backend pytorch, --power-faults NAME[=STRENGTH],…, --results-dir DIR, …
    Exit status 0: every healthy build passes and every fault is killed. 1: not so, or not complete. What is
    measured is on disk at once, and stays when the command is interrupted.
    """
    from pytest_multiitem.adapters.arguments import settings_from
    from pytest_multiitem.power.runner import PowerRun
    from pytest_multiitem.power.summary import verdict
    from pytest_multiitem.progress import ProgressBar
    from pytest_multiitem.reports.power import power_lines, render, result
    from pytest_multiitem.results.store import new_run_id, write_atomically

    settings = settings_from(context.args, None)
    run_id = new_run_id()
    directory = Path.cwd() / settings.results_dir.expanduser() / "power" / run_id
    signal.signal(signal.SIGTERM, _end)
    run = PowerRun(settings, directory, run_id)
    interrupted = False
    with ProgressBar() as bar:
        bar.set_total(len(run.plan))
        for backend, reason in run.matrix.missing.items():
            bar.print(f"NOT_RUN {backend}: {reason}")
        try:
            with run:
                for planned, record in run.as_measured():
                    by = ", ".join(record.killed_by)
                    bar.print(f"{planned.backend:<8} {planned.label:<28} {result(record)}{': ' if by else ''}{by}")
                    bar.advance(1)
        except KeyboardInterrupt:
            interrupted = True
    for line in power_lines(run.matrix):
        typer.echo(line)
    write_atomically(directory / "report.md", render(run.matrix).encode())
    shown_path = run.path.relative_to(Path.cwd()) if run.path.is_relative_to(Path.cwd()) else run.path
    typer.echo(f"results: {shown_path}, {shown_path.parent / 'report.md'}")
    status, problems = verdict(run.matrix)
    for problem in problems:
        typer.echo(f"multiitem: {problem}", err=True)
    if interrupted:
        typer.echo("multiitem: interrupted; what was measured is kept", err=True)
    raise typer.Exit(130 if interrupted else status)


def _end(number: int, frame: FrameType | None) -> Any:
    """SIGTERM ends the measurement as Ctrl-C does."""
    raise KeyboardInterrupt
