"""A load measurement on the terminal: a row a level, and what it comes to."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_multiitem.bench.load_records import Level, LoadReport
from pytest_multiitem.reports.blocks import cell

HEADER = (
    "load", "requests", "ok", "errors", "incomplete", "p50 ms", "p95 ms", "mean ms", "items/s", "goodput",
    "in time", "late ms", "saturated",
)  # fmt: skip


def table(levels: Sequence[Level]) -> list[list[str]]:
    """One row a level, under :data:`HEADER`."""
    return [
        [level.label, *map(str, (level.requests, level.successful, level.errored, level.incomplete)),
         *map(_tenths, (level.latency_ms["p50"], level.latency_ms["p95"], level.mean_latency_ms)),
         _tenths(level.items_per_sec), _tenths(level.goodput_items_per_sec),
         "-" if level.share_within_objective is None else f"{level.share_within_objective:.0%}",
         _tenths(level.lateness_ms_p50), cell(level.saturated)]
        for level in levels
    ]  # fmt: skip


def _tenths(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def remarks(report: LoadReport) -> list[str]:
    """What the table has no room for, and what it comes to."""
    lines = []
    scores = report.scores
    if scores is not None:
        if scores.problem is not None:
            lines.append(f"without load: {' '.join(scores.problem.split())}")
        if scores.wrong_warm_ups:
            lines.append(f"before the levels: answers with wrong scores: {scores.wrong_warm_ups}")
        if scores.doubt is not None:
            lines.append(f"not judged: {' '.join(scores.doubt.split())}")
    for level in report.levels:
        if level.saturation is not None:
            lines.append(f"{level.label}: {level.saturation}")
        if level.ended_early is not None and level.ended_early != level.saturation:
            lines.append(f"{level.label}: ended {level.ended_early}")
        for kind, count in level.errors_by_kind.items():
            first = next(record.failure_message for record in level.records if record.failure_kind == kind)
            lines.append(f"{level.label}: {count} failed by {kind}; the first: {' '.join((first or '').split())}")
    found = [f"concurrency {report.saturation_concurrency}"] if report.saturation_concurrency is not None else []
    found += [f"{report.saturation_rate:g} requests/s"] if report.saturation_rate is not None else []
    goodput = f"{report.max_goodput_items_per_sec:.1f} items/s within {report.latency_objective_ms:g} ms a request"
    return [*lines, f"best goodput: {goodput}; saturated from: {', '.join(found) or 'no level that was measured'}"]
