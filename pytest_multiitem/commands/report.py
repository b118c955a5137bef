"""``multiitem report``: the report of a finished run, rendered again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pytest_multiitem.errors import UsageError


def report(
    run: Annotated[Path, typer.Argument(help="A run's directory, or its matrix.json.")] = Path(
        "multiitem-results/latest"
    ),
    output: Annotated[Path | None, typer.Option(help="Write here instead of to the terminal.")] = None,
    name: Annotated[str, typer.Option("--format", help="A format of the report, or one of a plugin.")] = "markdown",
) -> None:
    """Render the report of a finished run again, from its matrix.json alone."""
    from pytest_multiitem.reports.formats import rendered
    from pytest_multiitem.results.store import matrix_file, read_matrix, write_atomically
    from pytest_multiitem.validation.validate import refuse_contradictions

    matrix = read_matrix(run)
    refuse_contradictions(matrix_file(run))
    content = rendered(matrix, name)
    if output is None:
        typer.echo(content, nl=False)
        return
    try:
        write_atomically(output, content)
    except OSError as error:
        raise UsageError(f"cannot write {output}: {error.strerror}") from None
