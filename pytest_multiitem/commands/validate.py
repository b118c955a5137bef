"""``multiitem validate``: whether artefacts are what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pytest_multiitem.errors import UsageError


def validate(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="Workloads, matrices, comparisons, runs.")],
) -> None:
    """Validate artefacts: their schema, and whether what they say of themselves is so.

    Exit status 0: all are valid. 1: one has a problem. 2: one cannot be read, or is of no known schema.
    """
    from pytest_multiitem.validation.validate import examine

    status = 0
    for file in files:
        try:
            examined = examine(file)
        except UsageError as error:
            typer.echo(f"multiitem: {error}", err=True)
            status = 2
            continue
        for problem in examined.problems:
            typer.echo(f"{file}: {problem}")
        if examined.problems:
            status = max(status, 1)
        else:
            typer.echo(f"{file}: valid {examined.schema}{examined.summary and f', {examined.summary}'}")
    raise typer.Exit(status)
