"""The formats that a run's report can have, found in the modules of `formats`; a project adds its own."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

import pytest_multiitem.reports.formats as package
from pytest_multiitem.errors import UsageError, did_you_mean
from pytest_multiitem.results.records import Matrix
from pytest_multiitem.results.store import write_atomically

_added: dict[str, ReportFormat] = {}


@dataclass(frozen=True)
class ReportFormat:
    """A format by its name. ``file_name``: of the report in a run's directory. ``render``: a finished run's report."""

    name: str
    file_name: str
    render: Callable[[Matrix], str | bytes]


@cache
def _shipped() -> Mapping[str, ReportFormat]:
    modules = sorted(pkgutil.iter_modules(package.__path__), key=lambda module: module.name)
    found = [importlib.import_module(f"{package.__name__}.{module.name}").FORMAT for module in modules]
    return {each.name: each for each in found}


def report_formats() -> Mapping[str, ReportFormat]:
    """Every format by its name: those of the package, then a project's own."""
    return MappingProxyType({**_shipped(), **_added})


def extend(formats: Iterable[ReportFormat]) -> Callable[[], None]:
    """Add a project's own formats; returns what takes them out again.

    Raises UsageError, and adds none, where a name or a file is taken.
    """
    new: dict[str, ReportFormat] = {}
    for each in formats:
        for known in (*report_formats().values(), *new.values()):
            if each.name == known.name or each.file_name == known.file_name:
                raise UsageError(
                    f"the report format {each.name!r} ({each.file_name}) is there already: {known.name!r} "
                    f"({known.file_name}); give it a name and a file of its own"
                )
        new[each.name] = each
    _added.update(new)

    def undo() -> None:
        for name in new:
            _added.pop(name, None)

    return undo


def report_format(name: str) -> ReportFormat:
    """The format of a name. Raises UsageError where there is none."""
    known = report_formats()
    if name not in known:
        raise UsageError(
            f"there is no report format {name!r}; expected one of {', '.join(known)}{did_you_mean(name, known)}"
        )
    return known[name]


def rendered(matrix: Matrix, name: str) -> bytes:
    """A run's report in one format. Raises UsageError for a name that is none."""
    content = report_format(name).render(matrix)
    return content.encode() if isinstance(content, str) else content


def write_reports(matrix: Matrix, directory: Path, names: Iterable[str] = ("markdown",)) -> list[Path]:
    """Write a run's report in these formats, each whole or not at all; gives their paths. Raises UsageError."""
    contents = {directory / report_format(name).file_name: rendered(matrix, name) for name in names}
    for path, content in contents.items():
        write_atomically(path, content)
    return list(contents)
