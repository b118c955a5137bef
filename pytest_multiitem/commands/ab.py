"""``multiitem ab``: two settings of one server, in interleaved runs."""

from __future__ import annotations

from collections.abc import Mapping
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


@takes_run_options
def ab(
    a: Annotated[list[str], typer.Option("--a", metavar="NAME=VALUE", help="A variable of arm A; repeatable.")],
    b: Annotated[list[str], typer.Option("--b", metavar="NAME=VALUE", help="A variable of arm B; repeatable.")],
    mode: Annotated[
        AbMode, typer.Option("--benchmark", help="Which benchmark: packed, prefill_extend or serial.")
    ] = AbMode.PACKED,
    output_json: Annotated[Path | None, typer.Option(help="Write all samples and the result here.")] = None,
    *,
    given: Mapping[str, str | None],
) -> None:
    """Compare two settings of one server by environment variables, in interleaved runs of the benchmark's request.

    Further options are those of a run, for both arms: --backend pytorch, --multiitem-bench-timed-runs 9, …

    Exit status 0: both arms ran as asked. 1: a run failed, its scores are wrong, or another path ran than the one asked
    for.
    """
    from pytest_multiitem.comparison.measuring import arms
    from pytest_multiitem.evaluation.records import check_writable
    from pytest_multiitem.reports.blocks import terminal_table
    from pytest_multiitem.results.store import new_run_id, write_record

    pair = arms.arms_of(a, b, given, mode.value)
    directory = Path.cwd() / pair[0].side.settings.results_dir.expanduser() / "ab" / new_run_id()
    if output_json is not None:
        check_writable(output_json)
    with writing(directory, advice="choose another place with --results-dir DIR"):
        directory.mkdir(parents=True, exist_ok=True)
    measured = arms.measure(pair, directory)
    for line in [*terminal_table(*arms.table(measured)), *arms.lines(measured)]:
        say(line)
    if output_json is not None:
        write_record(output_json, measured.record)
    wrong = arms.problems(measured)
    for problem in wrong:
        say(f"multiitem: {problem}", err=True)
    raise typer.Exit(1 if wrong else 0)
