"""``multiitem check``: the release gates, judged from combined results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pytest_multiitem.commands.options import AllowInconclusive
from pytest_multiitem.errors import UsageError, did_you_mean


def check(
    combined: Annotated[list[Path], typer.Argument(help="Combined results; several files are laid together.")],
    allow_inconclusive: AllowInconclusive = False,
    require: Annotated[
        str | None, typer.Option(metavar="GATE,…", help="Gates for which NOT_RUN fails, or all.")
    ] = None,
) -> None:
    """Judge the five release gates from combined results.

    Exit status 0: every measured gate passes. 1: one is FAIL or INCONCLUSIVE, or nothing was measured. 2: the file
    cannot be used.
    """
    from pytest_multiitem.evaluation import check as judging
    from pytest_multiitem.evaluation import records
    from pytest_multiitem.reports.evaluation import reported, table

    required = _required(require, [gate.name for gate in judging.RELEASE_GATES])
    content = records.read_combined(combined)
    verdicts = judging.judge(content)
    for line in table(verdicts):
        typer.echo(line)
    for line in reported(content):
        typer.echo(f"not gated: {line}")
    status = judging.exit_status(verdicts, allow_inconclusive=allow_inconclusive, required=required)
    raise typer.Exit(status)


def _required(text: str | None, known: list[str]) -> list[str]:
    words = [] if text is None else [word.strip() for word in text.split(",")]
    if words == ["all"]:
        return known
    for word in words:
        if word not in known:
            hint = did_you_mean(word, known)
            raise UsageError(f"--require {word!r} is no release gate; expected {', '.join(known)} or all{hint}")
    return words
