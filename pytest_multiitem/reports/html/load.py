"""A measurement under load on a page: goodput over what was offered, and how long answers take."""

from __future__ import annotations

from pytest_multiitem.bench.load_records import Level, LoadReport
from pytest_multiitem.reports.html.page import Block, Chapter, Figure, Section, Table, Texts
from pytest_multiitem.reports.html.plots import Lines, Series, boxes, lines
from pytest_multiitem.reports.html.quantiles import five_of
from pytest_multiitem.reports.load import HEADER, remarks, table
from pytest_multiitem.reports.sentence import of_load


def chapter(report: LoadReport, title: str | None = None) -> Chapter:
    """One server under load."""
    made = Chapter(title or f"Load on {report.url}", of_load(report))
    made.facts = [
        ("server", report.url), ("each level", f"{report.duration_sec:g} s"),
        ("objective", f"{report.latency_objective_ms:g} ms a request"), ("measured", report.generated_at_utc or "-"),
        ("items of the requests", ", ".join(map(str, report.items_per_request[:16]))),
    ]  # fmt: skip
    content = ([*HEADER], table(report.levels))
    figures: list[Block] = []
    for mode, x_name in (("closed", "senders at a time"), ("open", "requests offered a second")):
        levels = [level for level in report.levels if level.mode == mode]
        figures += _goodput(mode, x_name, levels, content) if levels else []
    times = [
        (level.label, five)
        for level in report.levels
        if (five := five_of([r.latency_ms for r in level.records if r.latency_ms is not None])) is not None
    ]
    latencies: list[Block] = []
    if times:
        rows = [[name, *(f"{value:.1f}" for value in five)] for name, five in times]
        picture = boxes(
            "latencies", "How long answers take", "By level: the middle half, and from the 5th to the 95th percentile.",
            times, "ms, from due to the last byte", ("objective", report.latency_objective_ms),
        )  # fmt: skip
        caption = "Box: the middle half of the answers. Line: 5 % to 95 %. Dashed: the objective."
        latencies.append(Figure(picture, caption, (["load", "5 %", "25 %", "50 %", "75 %", "95 %"], rows)))
    made.sections = [
        Section(
            "Goodput",
            figures,
            "Items a second that were answered within the objective, over the load that was offered.",
        ),
        Section("Latency", latencies),
        Section("Levels", [Table("", content)]),
        Section("Remarks", [Texts(remarks(report))]),
    ]
    return made


def _goodput(mode: str, x_name: str, levels: list[Level], content: tuple[list[str], list[list[str]]]) -> list[Block]:
    def at(level: Level) -> float:
        return float(level.concurrency or 0) if mode == "closed" else float(level.offered_rate or 0)

    levels = sorted(levels, key=at)
    series = [
        Series("within the objective", [(at(level), level.goodput_items_per_sec) for level in levels]),
        Series("all that succeeded", [(at(level), level.items_per_sec) for level in levels]),
    ]
    title = "Goodput by concurrency" if mode == "closed" else "Goodput by arrival rate"
    saturated = next((level for level in levels if level.saturated), None)
    rings = [] if saturated is None else [(at(saturated), saturated.goodput_items_per_sec, "saturated from here")]
    picture = lines(
        f"goodput-{mode}", title, f"Items a second over {x_name}.", series,
        Lines(x_name, "items a second", log_x=len(levels) > 2 and at(levels[0]) > 0, rings=rings),
    )  # fmt: skip
    return [Figure(picture, f"{title}: items a second within the objective, and all.", content)]
