"""Pictures of speed: a speed-up over the number of items, with its interval and its ceiling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pytest_multiitem.reports.html.page import Block, Figure, slug
from pytest_multiitem.reports.html.plots import Lines, Point, Series, lines
from pytest_multiitem.reports.html.svg import COLOURS
from pytest_multiitem.reports.table import number, where
from pytest_multiitem.results.details import SpeedPoint, Speedup
from pytest_multiitem.results.records import GateRecord


def speedups(records: Sequence[GateRecord]) -> list[Block]:
    """The curves of a run, and those against a baseline that is tuned for serial calls; a figure for a few servers."""
    measured = [(where(record), record.details) for record in records if isinstance(record.details, Speedup)]
    plain = [(name, found.performance, found) for name, found in measured if found.performance]
    tuned = [(name, found.performance_vs_tuned_serial, found) for name, found in measured]
    blocks: list[Block] = []
    for title, of in (
        ("Speed-up over serial requests", plain),
        ("Speed-up over a tuned serial baseline", [(n, points, f) for n, points, f in tuned if points]),
    ):
        for at in range(0, len(of), COLOURS):
            blocks.append(
                _curves(title, at, [(name, points or {}, found) for name, points, found in of[at : at + COLOURS]])
            )
    return blocks


def _curves(title: str, at: int, measured: Sequence[tuple[str, Mapping[str, SpeedPoint], Speedup]]) -> Figure:
    series, rows, ceilings = [], [], dict[tuple[Point, ...], None]()
    for name, points, found in measured:
        known = sorted((int(n), p) for n, p in points.items() if n.isdecimal() and _usable(p.speedup_vs_serial_p50))
        series.append(
            Series(name, [(n, p.speedup_vs_serial_p50 or 0) for n, p in known], [_interval(p) for _, p in known])
        )
        if len(bound := tuple((n, p.ceiling) for n, p in known if p.ceiling is not None)) > 1:
            ceilings[bound] = None
        for n, p in known:
            sure = _interval(p)
            rows.append([
                name, str(n), number(p.speedup_vs_serial_p50), "-" if sure is None else " to ".join(map(number, sure)),
                number(p.ceiling), f"{1000 * (p.multi.p50_sec or 0):.1f}", f"{1000 * (p.serial.p50_sec or 0):.1f}",
            ])  # fmt: skip
        rows += [[name, n, f"refused: {why}", "-", "-", "-", "-"] for n, why in found.refused.items()]
    remarks = dict.fromkeys(remark for _, _, found in measured for remark in found.remarks)
    levels: list[tuple[str, float | Sequence[Point]]] = [("ceiling", bound) for bound in ceilings]
    picture = lines(
        slug("speed-up", title, str(at)), title,
        f"{title} by the number of items, for {', '.join(name for name, *_ in measured)}.",
        series, Lines("items in one request", "times as fast", True, True, [*levels, ("as fast as alone", 1.0)]),
    )  # fmt: skip
    header = ["server", "items", "times as fast", "95 % interval", "ceiling", "packed p50 ms", "serial p50 ms"]
    basis = next((found.ceiling_basis for *_, found in measured if found.ceiling_basis), None)
    notes = [f"Dashed: what the number of operations alone allows ({basis})."] if ceilings and basis else []
    caption = f"{title}, medians; a bar is the 95 % interval."
    return Figure(picture, caption, (header, rows), [*notes, *list(remarks)[:4]])


def _usable(value: float | None) -> bool:
    return value is not None and value > 0


def _interval(point: SpeedPoint) -> Point | None:
    low, high = point.speedup_interval_95 or (None, None)
    return None if low is None or high is None or low <= 0 else (low, high)
