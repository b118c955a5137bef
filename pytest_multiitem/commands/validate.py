"""``multiitem validate``: whether artefacts are what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pytest_multiitem.commands.output import say
from pytest_multiitem.errors import UsageError


def validate(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE…", help="Files of any kind that this package writes, or the public scripts."),
    ],
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
            say(f"multiitem: {error}", err=True)
            status = 2
            continue
        for problem in examined.problems:
            say(f"{file}: {problem}")
        if examined.problems:
            status = max(status, 1)
        else:
            foreign = ", written by another tool" if examined.is_foreign else ""
            say(f"{file}: valid {examined.schema}{foreign}{examined.summary and f', {examined.summary}'}")
    raise typer.Exit(status)
