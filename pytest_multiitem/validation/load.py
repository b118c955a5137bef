"""Whether a load report's figures follow from its requests."""

from __future__ import annotations

from collections import Counter

from pytest_multiitem.bench.load import Level, LoadReport


def problems(report: LoadReport) -> list[str]:
    """What is wrong with a load report whose schema holds."""
    found = [f"{level.label}: {text}" for level in report.levels for text in _level(level)]
    best = max((level.goodput_items_per_sec for level in report.levels), default=0.0)
    stated = report.max_goodput_items_per_sec
    if abs(stated - best) > 1e-6 * max(best, 1.0):
        found.append(f"max_goodput_items_per_sec is {stated:g}, but the best level has {best:g}")
    return found


def _level(level: Level) -> list[str]:
    found = []
    counts = {name: getattr(level, name) for name in ("successful", "errored", "incomplete")}
    if sum(counts.values()) != level.requests:
        counted = ", ".join(f"{count} {name}" for name, count in counts.items())
        found.append(f"requests is {level.requests}, but {counted}")
    if sum(level.errors_by_kind.values()) != level.errored:
        found.append(f"errors_by_kind are {level.errors_by_kind}, but {level.errored} requests errored")
    if level.goodput_items_per_sec > level.items_per_sec * (1 + 1e-9):
        found.append(f"goodput is {level.goodput_items_per_sec:g} items/s, above items/s, {level.items_per_sec:g}")
    for record in level.records:
        if record.state == "successful" and (record.failure_kind is not None or record.latency_ms is None):
            failure, latency = record.failure_kind, record.latency_ms
            found.append(f"a request is successful, but its failure is {failure}, its latency {latency}")
            break
    kinds = Counter[str](record.failure_kind for record in level.records if record.failure_kind is not None)
    if level.records and kinds != Counter(level.errors_by_kind):
        found.append(f"errors_by_kind are {level.errors_by_kind}, but records hold {dict(kinds)}")
    states = Counter[str](record.state for record in level.records)
    for name, count in counts.items() if level.records else ():
        if states[name] != count:
            found.append(f"{name} is {count}, but records hold {states[name]}")
    return found
