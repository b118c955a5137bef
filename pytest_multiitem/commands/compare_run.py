"""``multiitem compare run`` and ``multiitem ab``: measuring comparisons without pytest."""

from __future__ import annotations

import signal
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from pytest_multiitem.errors import UsageError


class AbMode(StrEnum):
    """The benchmarks that an A/B pair can be of."""

    PACKED = "packed"
    PREFILL_EXTEND = "prefill_extend"
    SERIAL = "serial"


def run(context: typer.Context) -> None:
    """Measure the comparison and decide. Takes the options of a run: --backend, --model, --multiitem-views,
    --multiitem-compare-chunk-sizes all, --compare-dir, …

    Exit status 0: every side was measured and the scores agree. 1: a side is missing, a row failed, or correctness
    is not shown. 2: it could not begin. An interrupted comparison goes on when the command is typed again.
    """
    from pytest_multiitem.adapters.arguments import settings_from
    from pytest_multiitem.adapters.base import choose_engine
    from pytest_multiitem.comparison.measuring.runner import compare
    from pytest_multiitem.comparison.verdicts import exit_status
    from pytest_multiitem.progress import ProgressBar
    from pytest_multiitem.reports.comparison import comparison_lines, publish

    settings = settings_from(context.args, None)
    engine = choose_engine(settings.engine)
    signal.signal(signal.SIGTERM, _end)
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


def _end(number: int, frame: FrameType | None) -> Any:
    """SIGTERM ends a comparison as Ctrl-C does: servers are stopped, rows are kept."""
    raise KeyboardInterrupt


def ab(
    context: typer.Context,
    a: Annotated[list[str], typer.Option("--a", metavar="NAME=VALUE", help="A variable of arm A; repeatable.")],
    b: Annotated[list[str], typer.Option("--b", metavar="NAME=VALUE", help="A variable of arm B; repeatable.")],
    mode: Annotated[AbMode, typer.Option(help="Which benchmark: packed, prefill_extend or serial.")] = AbMode.PACKED,
    output_json: Annotated[Path | None, typer.Option(help="Write all samples and the result here.")] = None,
) -> None:
    """Compare two settings of one server by environment variables, in interleaved runs of the benchmark's request.

    Further options are those of a run, for both arms: --backend pytorch, --multiitem-bench-timed-runs 9, …

    Exit status 0: both arms ran as asked. 1: a run failed, or another path ran than the one asked for.
    """
    import msgspec

    from pytest_multiitem.comparison.measuring import arms
    from pytest_multiitem.reports.blocks import terminal_table
    from pytest_multiitem.results.store import new_run_id, write_atomically

    pair = arms.arms_of(a, b, context.args, mode.value)
    directory = Path.cwd() / pair[0].side.settings.results_dir.expanduser() / "ab" / new_run_id()
    directory.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, _end)
    found = arms.measure(pair, directory)
    for line in [*terminal_table(*arms.table(found)), *arms.lines(found)]:
        typer.echo(line)
    if output_json is not None:
        try:
            write_atomically(output_json, msgspec.json.format(msgspec.json.encode(arms.record(found)), indent=1))
        except OSError as error:
            raise UsageError(f"cannot write {output_json}: {error.strerror}") from None
    wrong = arms.problems(found)
    for problem in wrong:
        typer.echo(f"multiitem: {problem}", err=True)
    raise typer.Exit(1 if wrong else 0)
