"""``multiitem power``: the kill matrix without pytest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import typer

from pytest_multiitem.commands.options import takes_run_options
from pytest_multiitem.commands.output import say
from pytest_multiitem.errors import MultiItemError, StorageError


@takes_run_options
def power(given: Mapping[str, str | None]) -> None:
    """Prove that the gates can fail: measure them on builds with every known fault, on both embedded backends.

    Takes the options of a run: --backend pytorch, --power-faults NAME[=STRENGTH],…, --results-dir DIR, …
    Exit status 0: every healthy build passes and every fault is killed. 1: not so, or not complete. What is
    measured is on disk at once, and stays when the command is interrupted. --executor ray measures on the nodes of a
    Ray cluster.
    """
    from pytest_multiitem.adapters.embedded import ENGINE as EMBEDDED
    from pytest_multiitem.execution.driver import CellFailed
    from pytest_multiitem.power.plan import check_settings
    from pytest_multiitem.power.runner import PowerRun
    from pytest_multiitem.power.summary import verdict
    from pytest_multiitem.progress import ProgressBar
    from pytest_multiitem.reports.html.chapters import page_of
    from pytest_multiitem.reports.power import power_lines, render, result
    from pytest_multiitem.results.store import PAGE, REPORT, new_run_id, write_atomically
    from pytest_multiitem.servers.errors import ServerError
    from pytest_multiitem.settings.project_file import project_settings
    from pytest_multiitem.settings.resolve import resolve
    from pytest_multiitem.traffic.loading import fitted

    settings = fitted(resolve(given, {}, project=project_settings(Path.cwd())))
    check_settings(settings)
    settings = EMBEDDED.fit(settings)
    run_id = new_run_id()
    directory = Path.cwd() / settings.results_dir.expanduser() / "power" / run_id
    run = PowerRun(settings, directory, run_id)
    interrupted = False
    ended_by: MultiItemError | None = None
    with ProgressBar() as bar:
        bar.set_total(len(run.plan))
        for backend, reason in run.matrix.missing.items():
            bar.print(f"NOT_RUN {backend}: {reason}")
        try:
            with run:
                for planned, record in run.as_measured():
                    bar.advance(1)
                    if isinstance(record, CellFailed):
                        bar.print(f"{planned.backend:<8} {planned.label:<28} ERROR: {record}")
                        continue
                    by = ", ".join(record.killed_by)
                    bar.print(f"{planned.backend:<8} {planned.label:<28} {result(record)}{': ' if by else ''}{by}")
        except KeyboardInterrupt:
            interrupted = True
        except (StorageError, ServerError) as error:
            ended_by = error
    for line in power_lines(run.matrix):
        say(line)
    if ended_by is not None:
        raise ended_by
    write_atomically(directory / REPORT, render(run.matrix).encode())
    write_atomically(directory / PAGE, page_of([run.matrix]).encode())
    shown_path = run.path.relative_to(Path.cwd()) if run.path.is_relative_to(Path.cwd()) else run.path
    status, problems = verdict(run.matrix)
    for problem in problems:
        say(f"multiitem: {problem}", err=True)
    if interrupted:
        say("multiitem: interrupted; what was measured is kept", err=True)
    say(f"results: {shown_path.parent / PAGE}, {REPORT}, {shown_path.name}")
    raise typer.Exit(130 if interrupted else status)
