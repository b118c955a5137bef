"""``report.html``: a run for people who would rather look than read; one file, no network, no script."""

from __future__ import annotations

from pathlib import Path

from pytest_multiitem.reports.formats import ReportFormat
from pytest_multiitem.reports.html.beside import belonging
from pytest_multiitem.reports.html.chapters import page_of
from pytest_multiitem.results.records import Matrix
from pytest_multiitem.results.store import PAGE


def render(matrix: Matrix) -> str:
    """The page of a run, from its matrix alone."""
    return page_of([matrix])


def render_in(matrix: Matrix, directory: Path) -> str:
    """The page of a run with what its options measured beside it."""
    return page_of([matrix], {0: belonging(matrix, directory)})


FORMAT = ReportFormat("html", PAGE, render, render_in)
