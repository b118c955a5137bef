"""Tables of runs over time."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_multiitem.reports.blocks import Rows
from pytest_multiitem.results.history import History, HistoryRow, series

_BARS = "▁▂▃▄▅▆▇█"
#: Gates that are named in a row.
_NAMED = 2


def runs(found: History) -> Rows:
    """Header and rows: a run each, the last one last."""
    header = [
        "run",
        "started (UTC)",
        "answer",
        "exit",
        "gates",
        "engine",
        "speed-up",
        "largest difference",
        "what failed",
    ]
    return header, [_row(row) for row in found.runs]


def gate(found: History, name: str) -> Rows:
    """Header and rows: one gate over time, a place each, with its values from the first run to the last."""
    header = [name, "runs", "first", "last", "lowest", "highest", "over time", "verdicts"]
    rows = []
    for place, points in series(found, name).items():
        values = [point.value for _, point in points if point.value is not None]
        figures = [values[0], values[-1], min(values), max(values)] if values else [None] * 4
        verdicts = [point.verdict.value for _, point in points]
        shown = ", ".join(f"{verdicts.count(word)} {word}" for word in dict.fromkeys(verdicts))
        rows.append([place or "-", str(len(points)), *map(_figure, figures), sparkline(values), shown])
    return header, rows


def sparkline(values: Sequence[float]) -> str:
    """Values as bars of text, from the lowest to the highest of them."""
    if not values:
        return "-"
    low, high = min(values), max(values)
    steps = len(_BARS) - 1
    return "".join(_BARS[round(steps * (value - low) / (high - low)) if high > low else 0] for value in values)


def _row(row: HistoryRow) -> list[str]:
    if row.problem is not None:
        return [row.run_id, "-", "-", "-", "-", "-", "-", "-", f"unreadable: {row.problem}"]
    counts = ", ".join(f"{count} {verdict}" for verdict, count in row.summary.items() if count) or "none"
    engines = ", ".join(f"{name} {version or '-'}" for name, version in row.engines.items()) or "-"
    speed = [each.value for each in row.gates if each.gate.startswith("speedup_") and each.value is not None]
    apart = [
        each.value for each in row.gates if each.gate == "delimiter_aligned_equiv_le_0p02" and each.value is not None
    ]
    speeds = "-" if not speed else f"{min(speed):.3g}" + (f" to {max(speed):.3g}" if len(speed) > 1 else "")
    more = f" and {len(row.failed) - _NAMED} more" if len(row.failed) > _NAMED else ""
    failed = ", ".join(row.failed[:_NAMED]) + more if row.failed else "-" if row.complete else "incomplete"
    return [
        row.run_id, (row.started_at_utc or "-")[:19], row.answer or "-", str(row.exit_status), counts, engines, speeds,
        _figure(max(apart, default=None)), failed,
    ]  # fmt: skip


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
