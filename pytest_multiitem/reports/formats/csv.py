"""``gates.csv``: a verdict a line, for spreadsheets."""

from __future__ import annotations

import csv
import io

from pytest_multiitem.reports.formats import ReportFormat
from pytest_multiitem.reports.notebook import gate_row
from pytest_multiitem.results.records import GateRecord, Matrix, Verdict
from pytest_multiitem.untrusted.words import plain

#: What a spreadsheet takes for a formula where a cell begins with it.
_FORMULA = ("=", "+", "-", "@")


def render(matrix: Matrix) -> str:
    """A header, and a line a verdict; an empty field where nothing was measured."""
    out = io.StringIO()
    rows = [gate_row(record) for record in matrix.gates]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_HEADER)
    writer.writerows([_field(row[name]) for name in _HEADER] for row in rows)
    return out.getvalue()


def _field(value: object) -> object:
    """A value as a spreadsheet may have it: words are data there too, and no formula."""
    if not isinstance(value, str):
        return value
    text = plain(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


_HEADER = tuple(gate_row(GateRecord(gate="", verdict=Verdict.NOT_RUN, reason="", relation="holds")))
FORMAT = ReportFormat("csv", "gates.csv", render)
