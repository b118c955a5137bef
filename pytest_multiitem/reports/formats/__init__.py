"""The formats of a run's report, one a file: a module here defines ``FORMAT``; a project adds its own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pytest_multiitem.registry import Registry, modules_of
from pytest_multiitem.results.records import Matrix
from pytest_multiitem.results.store import write_atomically


@dataclass(frozen=True)
class ReportFormat:
    """``file_name``: in the run's directory; ``render``: its content, from the records of the run alone. ``render_in``:
    the same for a run whose directory is known, with the files that the run names as its further artefacts."""

    name: str
    file_name: str
    render: Callable[[Matrix], str | bytes]
    render_in: Callable[[Matrix, Path], str | bytes] | None = None


FORMATS = Registry("report format", lambda: (module.FORMAT for module in modules_of(sys.modules[__name__])))


def rendered(matrix: Matrix, name: str, directory: Path | None = None) -> bytes:
    """A run's report in one format. ``directory``: the run's, where it is at hand. Raises UsageError for a name that is
    none."""
    chosen = FORMATS.choose(name)
    whole = None if directory is None else chosen.render_in
    content = chosen.render(matrix) if whole is None or directory is None else whole(matrix, directory)
    return content.encode() if isinstance(content, str) else content


def write_reports(matrix: Matrix, directory: Path) -> None:
    """Write a run's report in every format, each whole or not at all. Raises StorageError."""
    for name, report_format in FORMATS.all().items():
        write_atomically(directory / report_format.file_name, rendered(matrix, name, directory))
