"""The formats of a run's report: those that modules here define, and those that a project adds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from pytest_multiitem import reports
from pytest_multiitem.registry import Registry, modules_of
from pytest_multiitem.results.records import Matrix


@dataclass(frozen=True)
class ReportFormat:
    """``file_name``: in the run's directory; ``render``: its text, from the records of the run alone."""

    name: str
    file_name: str
    render: Callable[[Matrix], str]


def _shipped() -> Iterator[ReportFormat]:
    for module in modules_of(reports):
        report_format = getattr(module, "FORMAT", None)
        if isinstance(report_format, ReportFormat):
            yield report_format


FORMATS = Registry("report format", _shipped)


def report_formats() -> Mapping[str, ReportFormat]:
    """Every format by its name. Each run writes them all."""
    return FORMATS.all()
