"""The report of a two-step evaluation."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import UNSET

from pytest_multiitem.evaluation.records import Combined
from pytest_multiitem.reports.blocks import terminal_table
from pytest_multiitem.reports.table import bound, number
from pytest_multiitem.results.records import GateRecord


def table(records: Sequence[GateRecord]) -> list[str]:
    """A heading, and one line a gate: verdict, gate, value, limit, reason."""
    rows = [(r.verdict.value, r.gate, _value(r), bound(r), r.reason) for r in records]
    return terminal_table(("verdict", "gate", "value", "limit", "reason"), rows)


def reported(combined: Combined) -> list[str]:
    """What was measured beside the gates, and what a reader of the verdicts should know."""
    lines = []
    if combined.equivalence is not UNSET and isinstance(combined.equivalence.max_abs_diff, float):
        lines.append(f"packed vs query + item: {number(combined.equivalence.max_abs_diff)}")
    for field, words in (
        ("max_abs_diff_jax_multi_vs_torch_multi_semantic", "packed vs torch, same context"),
        ("max_abs_diff_jax_multi_vs_torch_serial", "packed vs torch, query + item"),
    ):
        value = getattr(combined, field)
        if isinstance(value, float):
            lines.append(f"{words}: {number(value)}")
    if combined.performance is not UNSET:
        points = {n: p.speedup_vs_serial_p50 for n, p in combined.performance.items()}
        curve = [f"N={n} {value:.2f}x" for n, value in points.items() if isinstance(value, float)]
        if curve:
            lines.append(f"speed-up: {', '.join(curve)}")
    return [*lines, *combined.notes]


def _value(record: GateRecord) -> str:
    """A gate's value; digits enough to tell it from its limit."""
    text = number(record.value)
    if record.value is not None and record.limit is not None and record.value > record.limit >= float(text):
        return repr(record.value)
    return text
