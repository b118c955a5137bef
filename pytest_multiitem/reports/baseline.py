"""The table of a run's timings against a saved baseline; the terminal, the Markdown report and the command show it."""

from __future__ import annotations

from collections.abc import Iterable

from pytest_multiitem.reports.blocks import Rows
from pytest_multiitem.results.details import AgainstBaseline, TimingVerdict
from pytest_multiitem.results.records import GateRecord


def baseline(records: Iterable[GateRecord]) -> Rows:
    """Header and rows: every timing of the baseline by every condition, with ratio, interval and verdict."""
    header = ["timing", "condition", "new/baseline", "95 % interval", "runs", "verdict", ""]
    details = [record.details for record in records if isinstance(record.details, AgainstBaseline)]
    return header, [row for each in details for cell in each.cells for row in _rows(cell)]


def _rows(cell: TimingVerdict) -> list[list[str]]:
    old, new = cell.runs
    if not cell.ratios:
        return [[cell.key, "-", "-", "-", f"{old}, {new}", cell.verdict.value, cell.reason]]
    return [
        [cell.key, ratio.condition, f"{ratio.ratio:.3g}",
         "-" if ratio.interval is None else f"{ratio.interval[0]:.3g} to {ratio.interval[1]:.3g}",
         f"{old}, {new}", ratio.verdict.value, cell.doubt or ratio.note or ""]
        for ratio in cell.ratios
    ]  # fmt: skip
