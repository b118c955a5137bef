"""``multiitem …``: the package's functions without pytest, put together from `commands`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from signal import SIGINT, Signals
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from pytest_multiitem import __version__
from pytest_multiitem.commands.ab import ab
from pytest_multiitem.commands.accept import accept
from pytest_multiitem.commands.baseline import baseline_check, baseline_list, baseline_save
from pytest_multiitem.commands.checkpoint import checkpoint
from pytest_multiitem.commands.compare import compare_files, compare_run
from pytest_multiitem.commands.evaluate import check, combine, evaluate
from pytest_multiitem.commands.gpu_check import gpu_check
from pytest_multiitem.commands.history import history, prune
from pytest_multiitem.commands.kernel_check import kernel_check
from pytest_multiitem.commands.launch import launch
from pytest_multiitem.commands.load import load
from pytest_multiitem.commands.matrix import matrix
from pytest_multiitem.commands.models import models
from pytest_multiitem.commands.options import Command, RunCommand, plugin_modules
from pytest_multiitem.commands.orchestrate import orchestrate
from pytest_multiitem.commands.power import power
from pytest_multiitem.commands.project import defaults
from pytest_multiitem.commands.replay import replay
from pytest_multiitem.commands.report import report
from pytest_multiitem.commands.scores import scores_compare, scores_delete, scores_list, scores_show
from pytest_multiitem.commands.serve import faults, proxy, serve
from pytest_multiitem.commands.tpu_check import tpu_check
from pytest_multiitem.commands.validate import validate
from pytest_multiitem.commands.workload import workload
from pytest_multiitem.errors import MultiItemError
from pytest_multiitem.extensions.loading import PLUGINS, load_modules
from pytest_multiitem.settings.project_file import project_settings
from pytest_multiitem.signals import Interruptions, exit_status
from pytest_multiitem.storage import storage_problem

app = typer.Typer(
    name="multiitem",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Validation of multi-item scoring servers. The suites themselves run with pytest.",
)


#: Commands for which no project's settings hold: servers, whose flags are those of a server.
_UNSETTLED = ("serve", "proxy", "faults")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pytest-multiitem {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    plugins: Annotated[
        list[str] | None,
        typer.Option(
            "-p",
            metavar="MODULE",
            help=f"Load a module with hooks of this package, as pytest -p does; repeatable (also {PLUGINS}=MODULE,…).",
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Multi-item scoring validation."""
    context.call_on_close(load_modules(plugin_modules(context)))
    if context.invoked_subcommand not in (None, *_UNSETTLED):
        context.default_map = defaults(context.command, project_settings(Path.cwd()))


command: Callable[..., None]
#: Of a command that reads its words itself, --help included.
_RAW = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
#: What the help calls each group of commands, and its commands; the first question comes first.
_JUDGE, _COMPARE, _FILES, _SERVERS = "Is it right?", "How fast, and which?", "Files of results", "Servers to try it on"
for command, panel in (
    (evaluate, _JUDGE), (combine, _JUDGE), (check, _JUDGE), (replay, _JUDGE), (tpu_check, _JUDGE),
    (gpu_check, _JUDGE),
    (kernel_check, _JUDGE),
    (load, _COMPARE), (matrix, _COMPARE), (orchestrate, _COMPARE),
    (report, _FILES), (validate, _FILES), (workload, _FILES), (history, _FILES), (prune, _FILES),
    (faults, _SERVERS), (checkpoint, _SERVERS),
):  # fmt: skip
    app.command(cls=Command, rich_help_panel=panel)(command)
for command in (serve, proxy):
    app.command(rich_help_panel=_SERVERS, context_settings=_RAW)(command)
for command, panel in ((accept, _JUDGE), (power, _JUDGE), (models, _JUDGE), (ab, _COMPARE), (launch, _SERVERS)):
    app.command(cls=RunCommand, rich_help_panel=panel)(command)


class _FilesUnlessNamed(TyperGroup):
    """``multiitem compare A.json B.json``: words that begin with no subcommand are those of ``files``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "--help"):
            args = ["files", *args]
        return list(super().parse_args(ctx, args))


compare = typer.Typer(
    cls=_FilesUnlessNamed,
    no_args_is_help=True,
    help="Compare backends: `compare run` measures; `compare MATRIX.json …` compares what was measured.",
)
compare.command("run", cls=RunCommand)(compare_run)
compare.command("files", cls=Command)(compare_files)
app.add_typer(compare, name="compare", rich_help_panel=_COMPARE)

baseline = typer.Typer(no_args_is_help=True, help="Saved timings, and whether later ones are slower.")
for name, command in (("save", baseline_save), ("check", baseline_check), ("list", baseline_list)):
    baseline.command(name, cls=Command)(command)
app.add_typer(baseline, name="baseline", rich_help_panel=_COMPARE)

scores = typer.Typer(no_args_is_help=True, help="Saved scores, and which of later ones moved.")
for name, command in (
    ("list", scores_list),
    ("show", scores_show),
    ("compare", scores_compare),
    ("delete", scores_delete),
):
    scores.command(name, cls=Command)(command)
app.add_typer(scores, name="scores", rich_help_panel=_JUDGE)


def main() -> None:
    """The console script. An expected error is one line on stderr and exit status 2; what a signal ends, ends with the
    exit status that a shell knows for it: 130 for Ctrl-C, 143 for SIGTERM."""

    def interrupt(number: Signals) -> None:
        interruptions.hold()
        raise KeyboardInterrupt(*([] if number == SIGINT else [number.name]))

    interruptions = Interruptions(interrupt)
    status = _run()
    interruptions.end()
    if interruptions.caught is None:
        raise SystemExit(status)
    if interruptions.caught != SIGINT:
        print(f"multiitem: ended by {interruptions.caught.name}", file=sys.stderr)
    raise SystemExit(exit_status(interruptions.caught))


def _run() -> int | str | None:
    try:
        app(prog_name="multiitem")
    except MultiItemError as error:
        print(f"multiitem: {error}", file=sys.stderr)
    except OSError as error:
        problem = storage_problem(error)
        if problem is None:
            raise
        print(f"multiitem: {problem}", file=sys.stderr)
    except SystemExit as end:
        return end.code
    except KeyboardInterrupt:
        return 130
    return 2
