"""``multiitem report``: the report of a finished run, or of a comparison, rendered again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pytest_multiitem.errors import UsageError


def report(
    run: Annotated[
        Path,
        typer.Argument(help="A run's directory or its matrix.json, or a comparison.json, of the public scripts too."),
    ] = Path("multiitem-results/latest"),
    output: Annotated[Path | None, typer.Option(help="Write here instead of to the terminal.")] = None,
    name: Annotated[str, typer.Option("--format", help="A format of the report, or one of a plugin.")] = "markdown",
    title_date: Annotated[
        str | None, typer.Option(metavar="DATE", help="Of a comparison: stands in the title of the final report.")
    ] = None,
) -> None:
    """Render the report of a finished run again, from its matrix.json alone; or the final report of a comparison, from
    its comparison.json and the matrices that it names."""
    from pytest_multiitem.comparison.records import COMPARISON_SCHEMA
    from pytest_multiitem.inputs import read_json
    from pytest_multiitem.reports.formats import rendered
    from pytest_multiitem.results.store import matrix_file, read_matrix, write_atomically
    from pytest_multiitem.validation.validate import refuse_contradictions

    found = read_json(run) if run.is_file() else None
    is_comparison = isinstance(found, dict) and found.get("schema_version") == COMPARISON_SCHEMA
    if is_comparison and name != "markdown":
        raise UsageError(f"--format {name}: the final report of a comparison is rendered as markdown alone")
    if title_date is not None and not is_comparison:
        raise UsageError("--title-date: only the final report of a comparison has one; name a comparison.json")
    if is_comparison:
        content = _final_report(run, title_date).encode()
    else:
        matrix = read_matrix(run)
        refuse_contradictions(matrix_file(run))
        content = rendered(matrix, name)
    if output is None:
        typer.echo(content, nl=False)
        return
    write_atomically(output, content)


def _final_report(path: Path, title_date: str | None) -> str:
    """Of a comparison, with what those of its matrices hold that lie where it says, or beside it."""
    from pytest_multiitem.comparison import files as artefacts
    from pytest_multiitem.comparison.decision.from_public import from_public
    from pytest_multiitem.comparison.records import Comparison, ScoreMatrix
    from pytest_multiitem.reports.comparison import final_report
    from pytest_multiitem.validation.validate import refuse_contradictions

    refuse_contradictions(path)
    comparison = artefacts.read(path, Comparison).record
    if not comparison.views:
        comparison = from_public(comparison)
    matrices = []
    for side in comparison.sides:
        named = [] if side.path is None else [path.parent / side.path, path.parent / Path(side.path).name]
        there = next((file for file in named if file.is_file()), None)
        if there is not None:
            refuse_contradictions(there)
            matrices.append(artefacts.read(there, ScoreMatrix).record)
    return final_report(comparison, matrices, title_date)
