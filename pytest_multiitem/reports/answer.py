"""The answer of an acceptance, as lines for the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_multiitem.acceptance.words import factor, small
from pytest_multiitem.reports.blocks import Rows, terminal_table
from pytest_multiitem.results.answer import Answer, ChunkFigures
from pytest_multiitem.results.verdict import Verdict

#: What further reasons stand under.
_TITLES = {"NO": "further against it", "UNDECIDED": "further open"}


def lines(answer: Answer) -> Iterator[str]:
    """The sentence; then the gates, the client chunk sizes and why the others are not it, and what is not known."""
    yield answer.sentence
    yield ""
    yield from terminal_table(*gates(answer))
    yield from terminal_table(*curve(answer))
    for figures in answer.curve:
        if figures.client_chunk_size is not None and figures.why_not is not None:
            yield f"not {figures.client_chunk_size} a request: {figures.why_not}"
    for title, texts in ((_TITLES.get(answer.answer), answer.reasons[1:]), ("not measured", answer.not_measured)):
        if title is not None and texts:
            yield f"{title}:"
            yield from (f"- {text}" for text in texts)


def gates(answer: Answer) -> Rows:
    """Header and rows: a gate a row, those that passed too."""
    rows = [
        [line.verdict, line.gate, "-" if line.value is None else small(line.value)]
        for line in answer.gates
        if line.needed or line.verdict != Verdict.NOT_RUN
    ]
    return ["verdict", "gate", "value"], rows


def curve(answer: Answer) -> Rows:
    """Header and rows: a client chunk size a row, the serial side first."""
    return ["items a request", "items/s", "p50 ms", "p95 ms", "times as fast", ""], [
        _row(f, answer) for f in answer.curve
    ]


def _row(figures: ChunkFigures, answer: Answer) -> list[str]:
    interval = figures.interval_95
    bounds = "" if interval is None else f" ({factor(interval[0])} to {factor(interval[1])})"
    serial = figures.client_chunk_size is None
    size = "1, serial" if serial else str(figures.client_chunk_size)
    mark = "*" if figures.p95_interpolated else ""
    note = "deploy" if not serial and figures.client_chunk_size == answer.deploy else ""
    return [
        size,
        "-" if figures.items_per_sec is None else f"{figures.items_per_sec:,.1f}",
        "-" if figures.p50_ms is None else f"{figures.p50_ms:,.1f}",
        "-" if figures.p95_ms is None else f"{figures.p95_ms:,.1f}{mark}",
        "-" if figures.times_as_fast is None else f"{factor(figures.times_as_fast)}{bounds}",
        note,
    ]
