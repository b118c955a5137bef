"""``multiitem …``: the package's functions without pytest."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from pytest_multiitem import __version__
from pytest_multiitem.commands import artefacts
from pytest_multiitem.commands import baseline as baselines
from pytest_multiitem.commands import compare_run as comparison
from pytest_multiitem.commands import evaluate as evaluation
from pytest_multiitem.commands.compare_files import compare_files
from pytest_multiitem.commands.load import load
from pytest_multiitem.commands.power import power
from pytest_multiitem.commands.replay import replay
from pytest_multiitem.commands.tpu_check import tpu_check
from pytest_multiitem.errors import MultiItemError

app = typer.Typer(
    name="multiitem",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Validation of multi-item scoring servers. The suites themselves run with pytest.",
)

#: Of a command whose further options are those of a run.
_OPTIONS_OF_A_RUN = {"allow_extra_args": True, "ignore_unknown_options": True}


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"pytest-multiitem {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Multi-item scoring validation."""


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    help="Serve a Qwen3 checkpoint with the embedded engine; takes sgl-jax's flags (multiitem serve --help).",
)
def serve(context: typer.Context) -> None:
    """Serve a checkpoint; see `engine.serve`."""
    from pytest_multiitem.engine.serve import serve as run

    raise typer.Exit(run(context.args))


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    help="Put faults of the wire before any scoring server: --upstream URL --fault NAME (multiitem proxy --help).",
)
def proxy(context: typer.Context) -> None:
    """A faulty server out of a good one; see `faults.proxy`."""
    from pytest_multiitem.faults.proxy import proxy as run

    raise typer.Exit(run(context.args))


@app.command()
def faults() -> None:
    """List the faults that multiitem serve and multiitem proxy can have."""
    from pytest_multiitem.faults.catalogue import catalogue
    from pytest_multiitem.reports.faults import listing

    print(listing(catalogue()), end="")


@app.command()
def checkpoint(
    directory: Annotated[Path, typer.Argument(help="Where to write; must not exist, or be empty.")],
    hidden_size: int = 128,
    intermediate_size: int = 384,
    num_hidden_layers: int = 3,
    num_attention_heads: int = 4,
    num_key_value_heads: int = 2,
    head_dim: int = 32,
    vocab_size: int = 151_936,
    seed: int = 20_260_101,
    full_tokenizer: Annotated[
        bool, typer.Option("--full-tokenizer", help="Name every id; sglang refuses label ids that have no name.")
    ] = False,
) -> None:
    """Write a Qwen3 checkpoint of random weights whose scores discriminate (config, weights, tokenizer)."""
    from pytest_multiitem.engine.checkpoint import CheckpointSpec, write_checkpoint

    spec = CheckpointSpec(
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=num_attention_heads,
        num_key_value_heads=num_key_value_heads,
        head_dim=head_dim,
        vocab_size=vocab_size,
        seed=seed,
    )
    write_checkpoint(directory, spec, full_tokenizer=full_tokenizer)
    size = sum(path.stat().st_size for path in directory.iterdir()) / 2**20
    print(f"wrote {directory} ({size:.1f} MiB); serve it with: multiitem serve --model-path {directory}")


@app.command(
    context_settings=_OPTIONS_OF_A_RUN,
    help="Start a server from a launch profile in the foreground, or print its command line; without a name, list "
    "the profiles. Further options are those of a run: --model DIR, --engine-python PATH, --multiitem-delimiter ID, …",
)
def launch(
    context: typer.Context,
    profile: Annotated[str | None, typer.Argument(help="A launch profile's name.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the command line and start nothing.")] = False,
) -> None:
    """See `commands.launch`."""
    from pytest_multiitem.adapters.arguments import settings_from
    from pytest_multiitem.commands import launch as launch_command

    settings = settings_from(context.args, profile)
    if profile is None:
        print(launch_command.listing(settings), end="")
        return
    spec = launch_command.spec_of(profile, settings)
    if dry_run:
        print(launch_command.shell_line(spec))
        return
    launch_command.run(spec)


for command in (
    evaluation.evaluate,
    evaluation.combine,
    evaluation.check,
    artefacts.workload,
    artefacts.validate,
    artefacts.report,
    load,
    replay,
    tpu_check,
):
    app.command()(command)
for command_of_a_run in (comparison.ab, power):
    app.command(context_settings=_OPTIONS_OF_A_RUN)(command_of_a_run)


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
compare.command(context_settings=_OPTIONS_OF_A_RUN)(comparison.run)
compare.command("files")(compare_files)
app.add_typer(compare, name="compare")

baseline = typer.Typer(no_args_is_help=True, help="Saved timings, and whether later ones are slower.")
for name, saved in (
    ("save", baselines.baseline_save),
    ("check", baselines.baseline_check),
    ("list", baselines.baseline_list),
):
    baseline.command(name)(saved)
app.add_typer(baseline, name="baseline")


def main() -> None:
    """The console script. An expected error is one line on stderr and exit status 2."""
    try:
        app()
    except MultiItemError as error:
        print(f"multiitem: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
