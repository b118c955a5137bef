"""Several runs on a page, over time: every gate's verdict, and the speed-up of each server."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_multiitem.gates.speedup import SPEEDUP_N32
from pytest_multiitem.reports.html.page import Block, Cell, Figure, Grid, Section, css_of
from pytest_multiitem.reports.html.plots import Lines, Point, Series, lines
from pytest_multiitem.reports.html.svg import COLOURS
from pytest_multiitem.reports.table import cell, number, where, worst_first
from pytest_multiitem.results.records import Matrix


def section(runs: Sequence[Matrix]) -> Section:
    """Runs in the order of their time, a column each; nothing of one alone."""
    runs = sorted(runs, key=lambda run: (run.started_at_utc, run.run_id))
    if len(runs) < 2:
        return Section("History", [])
    named = dict.fromkeys((r.gate, where(r)) for run in runs for r in run.gates)
    by_run = [{(r.gate, where(r)): r for r in reversed(worst_first(run.gates))} for run in runs]
    rows = []
    for key in named:
        found = [records.get(key) for records in by_run]
        verdicts = {record.verdict for record in found if record is not None}
        cells = [Cell("") if r is None else Cell(cell(r), css_of(r.verdict.value), hint=r.reason) for r in found]
        rows.append((len(verdicts) < 2, [Cell(key[0]), Cell(key[1]), *cells]))
    rows.sort(key=lambda row: row[0])  # what changed comes first
    names = [run.started_at_utc[:16].replace("T", " ") for run in runs]
    grid = Grid("Verdicts by run, those that changed first", ["gate", "for", *names], [row for _, row in rows], heads=2)
    return Section("History", [*_speeds(runs, names), grid], "From the oldest run to the newest.")


def _speeds(runs: Sequence[Matrix], names: Sequence[str]) -> list[Block]:
    points: dict[str, list[Point]] = {}
    spread: dict[str, list[Point | None]] = {}
    rows = []
    for at, run in enumerate(runs):
        for record in run.gates:
            if record.gate == SPEEDUP_N32.name and record.value is not None and record.value > 0:
                points.setdefault(where(record), []).append((at + 1.0, record.value))
                sure = record.interval if record.interval is not None and record.interval[0] > 0 else None
                spread.setdefault(where(record), []).append(sure)
                shown = "-" if sure is None else " to ".join(map(number, sure))
                rows.append([str(at + 1), names[at], where(record), number(record.value), shown])
    if not points:
        return []
    series = [Series(name, of, spread[name]) for name, of in [*points.items()][:COLOURS]]
    picture = lines("history-speed-up", "Speed-up over time", "Speed-up at the gated number of items, by run.", series,
                    Lines("run, from the oldest to the newest", "times as fast"))  # fmt: skip
    header = ["run", "started", "server", "times as fast", "95 % interval"]
    return [Figure(picture, "Speed-up at the gated number of items; a bar is the 95 % interval.", (header, rows))]
