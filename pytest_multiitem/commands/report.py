"""``multiitem report``: the report of a run, of a comparison, or of any measurements, rendered again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pytest_multiitem.errors import UsageError

#: Formats of anything but one run, or one comparison.
_PAGE = "html"


def report(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FILE]…",
            show_default="multiitem-results/latest",
            help="Runs' directories, or files: a run, an answer, a comparison (of the public scripts too), a matrix, a "
            "kill matrix, load, models, evaluations. Several become one page.",
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write here instead of to the terminal.")] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--format",
            show_default="markdown of one run or comparison, else html",
            help="A format of the report: markdown, html, csv, or one of a plugin.",
        ),
    ] = None,
    title_date: Annotated[
        str | None, typer.Option(metavar="DATE", help="Of a comparison: stands in the title of the final report.")
    ] = None,
) -> None:
    """Render the report of a finished run again, from its matrix.json; the final report of a comparison, from its
    comparison.json and the matrices that it names; or one page of several measurements."""
    from pytest_multiitem.comparison.records import COMPARISON_SCHEMA, Comparison
    from pytest_multiitem.reports.formats import rendered
    from pytest_multiitem.results.records import Matrix
    from pytest_multiitem.results.store import write_atomically

    named = files or [Path("multiitem-results/latest")]
    if title_date is not None and (named[1:] or _schema(named[0]) != COMPARISON_SCHEMA):
        raise UsageError("--title-date: only the final report of a comparison has one; name a comparison.json")
    records = [_read(path) for path in named]
    first, _ = records[0]
    alone = len(records) == 1 and isinstance(first, Matrix | Comparison)
    is_page = output is not None and output.suffix == ".html"
    chosen = name or (_PAGE if is_page or not alone else "markdown")
    if chosen == _PAGE:
        content = _page([_with_answer(path, each) for path, each in zip(named, records, strict=True)], title_date)
    elif not alone:
        raise UsageError(f"--format {chosen}: one run or one comparison has it; several files, or others, become html")
    elif isinstance(first, Comparison):
        if chosen != "markdown":
            raise UsageError(f"--format {chosen}: the final report of a comparison is rendered as markdown or html")
        content = _final_report(named[0], title_date).encode()
    else:
        assert isinstance(first, Matrix)
        content = rendered(first, chosen)
    if output is None:
        typer.echo(content, nl=False)
        return
    write_atomically(output, content)


def _read(path: Path) -> tuple[object, list[object]]:
    """The record in a file, and what belongs to it. Raises UsageError for one that cannot stand in a report, or that
    contradicts itself."""
    from pytest_multiitem.comparison.records import COMPARISON_SCHEMA
    from pytest_multiitem.reports.html.beside import belonging, comparison_of, run_of
    from pytest_multiitem.reports.html.chapters import has_chapter
    from pytest_multiitem.results.answer import ANSWER, Answer
    from pytest_multiitem.results.records import SCHEMA_VERSION
    from pytest_multiitem.results.store import matrix_file, read_matrix, read_record
    from pytest_multiitem.validation.schemas import KINDS
    from pytest_multiitem.validation.validate import refuse_contradictions

    if path.is_dir() and not matrix_file(path).is_file() and (path / ANSWER).is_file():
        path = path / ANSWER  # of an acceptance that was ended before its gates had any results
    schema = _schema(path)
    if schema == COMPARISON_SCHEMA:
        comparison, matrices = comparison_of(path, refuse_contradictions)
        return comparison, [*matrices]
    if isinstance(schema, str) and schema in KINDS and schema != SCHEMA_VERSION:
        kind = KINDS[schema].record
        if not has_chapter(kind):
            raise UsageError(f"{path} is a {schema} file, of which there is no report; name a run or a measurement")
        record, _ = read_record(path, kind, schema, "name a file that multiitem validate accepts")
        refuse_contradictions(path)
        return record, run_of(record, path.parent) if isinstance(record, Answer) else []
    matrix = read_matrix(path)
    refuse_contradictions(matrix_file(path))
    return matrix, belonging(matrix, matrix_file(path).parent, refuse_contradictions)


def _with_answer(path: Path, read: tuple[object, list[object]]) -> tuple[object, list[object]]:
    """What was read of a path; of a run's directory that has an answer, the answer with its run."""
    from pytest_multiitem.results.answer import ANSWER

    return _read(path / ANSWER) if path.is_dir() and (path / ANSWER).is_file() else read


def _schema(path: Path) -> object:
    """What a file says that it is; None of a directory, and of one that says nothing."""
    from pytest_multiitem.inputs import read_json

    content = read_json(path) if path.is_file() else None
    return content.get("schema_version") if isinstance(content, dict) else None


def _page(records: list[tuple[object, list[object]]], title_date: str | None) -> bytes:
    from pytest_multiitem.reports.html.chapters import page_of
    from pytest_multiitem.results.answer import Answer
    from pytest_multiitem.results.records import Matrix

    answered = {each.run_id for record, of in records if isinstance(record, Answer) for each in of
                if isinstance(each, Matrix)}  # fmt: skip
    records = [(r, of) for r, of in records if not (isinstance(r, Matrix) and r.run_id in answered)]
    title = None if title_date is None else f"Multi-item scoring: final report ({title_date})"
    return page_of([record for record, _ in records], {at: of for at, (_, of) in enumerate(records)}, title).encode()


def _final_report(path: Path, title_date: str | None) -> str:
    """Of a comparison, with what those of its matrices hold that lie where it says, or beside it."""
    from pytest_multiitem.reports.comparison import final_report
    from pytest_multiitem.reports.html.beside import comparison_of

    return final_report(*comparison_of(path), title_date)
