"""``multiitem accept``: one answer about a server that packs, and the client chunk size to deploy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from pytest_multiitem.acceptance.other_runs import OTHER_RUNS
from pytest_multiitem.commands.options import plugin_modules, run_options
from pytest_multiitem.commands.output import say
from pytest_multiitem.errors import UsageError

_PANEL = "This acceptance"
#: What is asked for first: which servers, what they are sent, how much of it, and where it is written.
_FIRST = (
    "multi_url", "serial_url", "backend", "mask_impl", "workload", "tokenizer", "labels", "delimiter", "effort",
    "compare_chunk_sizes", "model", "engine", "api_key_env", "results_dir",
)  # fmt: skip


@run_options(_FIRST, _PANEL, without=OTHER_RUNS)
def accept(
    context: typer.Context,
    url: Annotated[
        str | None,
        typer.Option(
            "--url",
            metavar="URL",
            help="One server for both sides: serially it is asked for one item each.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    *,
    given: Mapping[str, str | None],
) -> None:
    """Say in one sentence whether packing is safe on a server, how much it saves, and how many items a request to send.

    Of two servers that run (--multi-url, --serial-url), of one (--url), or of a pair that is started here (--backend
    NAME); on your own requests with --workload FILE.

    Exit status 0: YES. 1: NO. 2: it could not begin. 5: UNDECIDED. Ctrl-C ends it with what is measured so far.
    """
    from pytest_multiitem.acceptance.runner import Acceptance, fitted
    from pytest_multiitem.adapters.base import check_backends, choose_engine
    from pytest_multiitem.progress import ProgressBar
    from pytest_multiitem.reports.answer import lines
    from pytest_multiitem.reports.html.beside import run_of
    from pytest_multiitem.reports.html.chapters import page_of
    from pytest_multiitem.reports.summary import results_line
    from pytest_multiitem.results import store
    from pytest_multiitem.settings.project_file import project_settings
    from pytest_multiitem.settings.resolve import resolve
    from pytest_multiitem.traffic import loading

    settings = resolve(_both_sides(url, given), {}, project=project_settings(Path.cwd()))
    check_backends(settings)
    engine = choose_engine(settings.engine)
    settings = fitted(loading.fitted(settings), engine)
    here = Path.cwd()
    directory = here / settings.results_dir.expanduser() / store.new_run_id()
    interruption: KeyboardInterrupt | None = None
    with ProgressBar() as bar:
        acceptance = Acceptance(settings, engine, directory, bar, plugin_modules(context))
        try:
            acceptance.measure()
        except KeyboardInterrupt as error:
            interruption = error
    by = None if interruption is None else str(interruption) or "Ctrl-C"
    answer = acceptance.answer(by)
    for line in lines(answer):
        say(line)
    acceptance.write(answer)
    page = page_of([answer], {0: run_of(answer, directory)})
    store.write_atomically(directory / store.PAGE, page.encode())
    say(results_line(directory, here))
    if interruption is not None:
        raise interruption
    raise typer.Exit(answer.exit_status)


def _both_sides(url: str | None, given: Mapping[str, str | None]) -> Mapping[str, str | None]:
    """The options of a run, with one server's address in its place. Raises UsageError where there are others."""
    if url is None:
        return given
    others = [
        flag for name, flag in (("multi", "--multi-url"), ("serial", "--serial-url")) if given[f"multiitem_{name}_url"]
    ]
    if others:
        raise UsageError(f"--url is of one server for both sides, and {others[0]} names another; give one or the other")
    return {**given, "multiitem_multi_url": url, "multiitem_one_server": "1"}
