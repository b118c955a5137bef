"""``multiitem ab``: two servers that differ in one thing, in interleaved runs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pytest_multiitem.commands.options import takes_run_options
from pytest_multiitem.commands.output import say
from pytest_multiitem.storage import writing


class AbMode(StrEnum):
    """The benchmarks that an A/B pair can be of."""

    PACKED = "packed"
    PREFILL_EXTEND = "prefill_extend"
    SERIAL = "serial"


_WHAT = (
    "url=URL of a server that runs already, python=PATH of an interpreter, checkout=DIR of the engine's sources, or an "
    "environment variable of a setting; repeatable."
)


@takes_run_options
def ab(
    a: Annotated[list[str], typer.Option("--a", metavar="NAME=VALUE", help=f"What makes arm A: {_WHAT}")],
    b: Annotated[list[str], typer.Option("--b", metavar="NAME=VALUE", help=f"What makes arm B: {_WHAT}")],
    mode: Annotated[
        AbMode, typer.Option("--benchmark", help="Which benchmark: packed, prefill_extend or serial.")
    ] = AbMode.PACKED,
    output_json: Annotated[Path | None, typer.Option(help="Write all samples and the result here.")] = None,
    *,
    given: Mapping[str, str | None],
) -> None:
    """Compare two servers, old (A) against new (B), in interleaved runs: how far their scores are apart, and which is
    faster. They differ by address (url=), interpreter (python=), checkout (checkout=) or environment variables.

    Further options are those of a run, for both arms: --backend pytorch, --workload FILE,
    --multiitem-bench-timed-runs 9, …

    Exit status 0: both arms ran as asked and score alike. 1: a run failed, scores are wrong or not alike, or another
    path ran than the one asked for. 2: what is given makes no pair.
    """
    from pytest_multiitem.comparison.measuring import arms
    from pytest_multiitem.evaluation.records import check_writable
    from pytest_multiitem.progress import ProgressBar
    from pytest_multiitem.reports.blocks import terminal_table
    from pytest_multiitem.results.store import new_run_id, write_record

    pair = arms.arms_of(a, b, given, mode.value)
    directory = Path.cwd() / pair[0].side.settings.results_dir.expanduser() / "ab" / new_run_id()
    if output_json is not None:
        check_writable(output_json)
    made = [path for path in (directory, *directory.parents) if not path.exists()]
    with writing(directory, advice="choose another place with --results-dir DIR"):
        directory.mkdir(parents=True, exist_ok=True)
    try:
        with ProgressBar() as bar:
            measured = arms.measure(pair, directory, bar)
    except BaseException:
        _remove_empty(directory, made)
        raise
    for line in [*terminal_table(*arms.table(measured)), *arms.lines(measured)]:
        say(line)
    for path in (directory / "ab.json", output_json):
        if path is not None:
            write_record(path, measured.record)
    say(f"results: {os.path.relpath(directory / 'ab.json')}")
    wrong = arms.problems(measured)
    for problem in wrong:
        say(f"multiitem: {problem}", err=True)
    raise typer.Exit(1 if wrong else 0)


def _remove_empty(directory: Path, made: Sequence[Path]) -> None:
    """Take away what is empty of a pair that came to nothing: of its directory, and of those ``made`` for it, the
    innermost first."""
    inside = sorted((path for path in directory.rglob("*") if path.is_dir()), reverse=True)
    for path in (*inside, *made):
        with suppress(OSError):
            path.rmdir()
