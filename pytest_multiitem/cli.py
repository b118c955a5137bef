"""``multiitem …``: the package's functions without pytest, put together from `commands`."""

from __future__ import annotations

import sys
from collections.abc import Callable
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
from pytest_multiitem.commands.launch import launch
from pytest_multiitem.commands.load import load
from pytest_multiitem.commands.matrix import matrix
from pytest_multiitem.commands.models import models
from pytest_multiitem.commands.options import RunCommand, plugin_modules
from pytest_multiitem.commands.orchestrate import orchestrate
from pytest_multiitem.commands.power import power
from pytest_multiitem.commands.replay import replay
from pytest_multiitem.commands.report import report
from pytest_multiitem.commands.serve import faults, proxy, serve
from pytest_multiitem.commands.tpu_check import tpu_check
from pytest_multiitem.commands.validate import validate
from pytest_multiitem.commands.workload import workload
from pytest_multiitem.errors import MultiItemError
from pytest_multiitem.extensions.loading import PLUGINS, load_modules
from pytest_multiitem.signals import Interruptions, exit_status
from pytest_multiitem.storage import storage_problem

app = typer.Typer(
    name="multiitem",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Validation of multi-item scoring servers. The suites themselves run with pytest.",
)


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
            help=f"Load a module with hooks of this package, as pytest -p does; repeatable. [env {PLUGINS}=MODULE,…]",
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Multi-item scoring validation."""
    context.call_on_close(load_modules(plugin_modules(context)))


command: Callable[..., None]
#: Of a command that reads its words itself, --help included.
_RAW = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
for command in (serve, proxy):
    app.command(context_settings=_RAW)(command)
for command in (faults, checkpoint):
    app.command()(command)
app.command(cls=RunCommand)(launch)
for command in (report, evaluate, combine, check, workload, matrix, validate, load, replay, tpu_check, orchestrate):
    app.command()(command)
for command in (accept, ab, power, models):
    app.command(cls=RunCommand)(command)


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
compare.command("files")(compare_files)
app.add_typer(compare, name="compare")

baseline = typer.Typer(no_args_is_help=True, help="Saved timings, and whether later ones are slower.")
for name, command in (("save", baseline_save), ("check", baseline_check), ("list", baseline_list)):
    baseline.command(name)(command)
app.add_typer(baseline, name="baseline")


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
        app()
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
