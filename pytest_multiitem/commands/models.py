"""``multiitem models``: a matrix of models from a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from pytest_multiitem.commands.options import takes_run_options
from pytest_multiitem.commands.output import say


@takes_run_options
def models(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The models, in TOML or JSON.")],
    allow_now_passes: Annotated[
        bool, typer.Option("--allow-now-passes", help="An expected failure that passes does not fail.")
    ] = False,
    *,
    given: Mapping[str, str | None],
) -> None:
    """Run a quick contract for every model, backend and mask of a file, on this machine or on a Ray cluster.

    Takes the options of a run: --backend jax, --executor ray, --results-dir DIR, …; they go before the file's.
    Exit status 0: everything measured passes, or fails as the file expects. 1: not so, an expected failure passes,
    nothing was measured, or a required gate was not run. 2: the file or an option cannot be used.
    """
    from pytest_multiitem.models.file import read_models
    from pytest_multiitem.models.runner import ModelsRun
    from pytest_multiitem.models.summary import verdict
    from pytest_multiitem.progress import ProgressBar
    from pytest_multiitem.reports.html.chapters import page_of
    from pytest_multiitem.reports.models import models_lines, render, state
    from pytest_multiitem.results.store import PAGE, REPORT, new_run_id, write_atomically
    from pytest_multiitem.settings.project_file import project_settings
    from pytest_multiitem.settings.resolve import resolve
    from pytest_multiitem.traffic.loading import fitted

    settings = fitted(resolve(given, {}, project=project_settings(Path.cwd())))
    content = read_models(file)
    run_id = new_run_id()
    directory = Path.cwd() / settings.results_dir.expanduser() / "models" / run_id
    run = ModelsRun(content, file, settings, directory, run_id)
    ended: BaseException | None = None
    with ProgressBar() as bar:
        bar.set_total(len(run.plan))
        try:
            for cell in run.measure():
                bar.print(f"{cell.model:<20} {cell.backend:<8} {cell.mask:<8} {state(cell)}")
                bar.advance(1)
        except BaseException as error:
            ended = error
            raise
        finally:
            run.close(None if ended is None else str(ended) or type(ended).__name__)
            if ended is not None:
                say("multiitem: what was measured is kept", err=True)
                say(f"results: {_shown(run.path)}")
    for line in models_lines(run.matrix):
        say(line)
    write_atomically(directory / REPORT, render(run.matrix).encode())
    write_atomically(directory / PAGE, page_of([run.matrix]).encode())
    status, problems = verdict(
        run.matrix,
        allow_inconclusive=settings.allow_inconclusive,
        allow_now_passes=allow_now_passes,
        required=content.gates if settings.require == ("all",) else settings.require,
    )
    for problem in problems:
        say(f"multiitem: {problem}", err=True)
    say(f"results: {_shown(run.path.parent / PAGE)}, {REPORT}, {run.path.name}")
    raise typer.Exit(status)


def _shown(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
