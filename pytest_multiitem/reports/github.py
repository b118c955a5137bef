"""A run on GitHub: the summary of a step, in Markdown, and annotations, which are commands in its log.

https://docs.github.com/actions/reference/workflow-commands-for-github-actions has both forms and their limits.
"""

from __future__ import annotations

from collections import Counter

from pytest_multiitem.reports import table
from pytest_multiitem.reports.baseline import baseline
from pytest_multiitem.reports.blocks import Markdown, markdown, markdown_table, paragraphs, section
from pytest_multiitem.results.records import Matrix, Verdict
from pytest_multiitem.results.verdict import worst
from pytest_multiitem.untrusted.words import plain

_LEVEL = {
    Verdict.FAIL: "error",
    Verdict.ERROR: "error",
    Verdict.INCONCLUSIVE: "warning",
    Verdict.NOT_RUN: "notice",
}
_LIGHT = {
    Verdict.PASS: "🟢",
    Verdict.FAIL: "🔴",
    Verdict.ERROR: "🔴",
    Verdict.INCONCLUSIVE: "🟡",
    Verdict.NOT_RUN: "⚪",
}
#: Annotations of one level that a step shows; and bytes of its summary.
_MOST, _MOST_BYTES = 10, 1_000_000
#: Characters of a reason that are still read where it is shown.
_LONGEST = 500


def step_summary(matrix: Matrix) -> str:
    """What a run came to: a light, every reason that is not PASS, the gates, the speed-up, the timings."""
    verdict = worst((record.verdict for record in matrix.gates), of_none=Verdict.NOT_RUN)
    counts = ", ".join(f"{count} {name}" for name, count in matrix.summary.items() if count) or "no gate was measured"
    ended = "" if matrix.complete else f"; incomplete: {matrix.interrupted_by or 'the run ended early'}"
    parts = [
        section(f"{_LIGHT[verdict]} Multi-item scoring: {counts}", f"exit status {matrix.exit_status}{ended}"),
        _titled("What is not a PASS", *_reasons(matrix)),
        _titled("Gates", *table.pivot(matrix.gates)),
        _titled("Between backends, or of one alone", *table.others(matrix.gates)),
        _titled("Speed-up over serial", *table.curves(matrix)),
        _titled("Benchmarks", *table.benchmarks(matrix)),
        _titled("Against the baseline", *baseline(matrix.gates)),
    ]
    kept, size = [], 0
    for part in parts:  # whole ones: half a table is none
        size += len(part.encode()) + 2
        kept += [part] if size <= _MOST_BYTES else [markdown("More is in the report of the run.")]
        if size > _MOST_BYTES:
            break
    return f"{paragraphs(*kept)}\n"


def _titled(title: str, header: list[str], rows: list[list[str]]) -> Markdown:
    content = markdown_table(header, rows)
    return Markdown(f"### {title}\n\n{content}" if content else "")


def _reasons(matrix: Matrix) -> tuple[list[str], list[list[str]]]:
    rows = [
        [f"{_LIGHT[record.verdict]} {record.verdict}", record.gate, table.where(record), _first_line(record.reason)]
        for record in table.not_passed(matrix.gates)
    ]
    return ["verdict", "gate", "for", "why"], rows


def log_commands(matrix: Matrix) -> list[str]:
    """A command for each reason that is not PASS, the worst first, as many as GitHub shows; words in it are data."""
    found = Counter((record.verdict, record.gate, record.reason) for record in table.not_passed(matrix.gates))
    lines: list[str] = []
    told: Counter[str] = Counter()
    for (verdict, gate, reason), count in found.items():
        level = _LEVEL[verdict]
        told[level] += 1
        times = f" ({count} tests)" if count > 1 else ""
        if told[level] < _MOST or (told[level] == _MOST and _of_level(found, level) == _MOST):
            lines.append(_command(level, f"{verdict} {gate}{times}", _first_line(reason)))
    for level, count in told.items():
        if count > _MOST:
            lines.append(_command(level, f"{count - _MOST + 1} more", "they are in the report of the run"))
    return lines


def _of_level(found: Counter[tuple[Verdict, str, str]], level: str) -> int:
    return sum(_LEVEL[verdict] == level for verdict, _, _ in found)


def _command(level: str, title: str, message: str) -> str:
    name = _data(title).replace(":", "%3A").replace(",", "%2C")
    return f"::{level} title={name}::{_data(message)}"


def _data(text: str) -> str:
    return plain(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _first_line(reason: str) -> str:
    line = reason.partition("\n")[0]
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"
