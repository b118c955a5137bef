"""The terminal summary, as lines with their markup; printing them is the caller's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pytest_multiitem.reports import table
from pytest_multiitem.reports.baseline import baseline
from pytest_multiitem.reports.blocks import terminal_table
from pytest_multiitem.reports.tpu import checks_table
from pytest_multiitem.results import store
from pytest_multiitem.results.records import Matrix, Verdict

Line = tuple[str, dict[str, bool]]
_MARKUP = {
    Verdict.PASS: {"green": True},
    Verdict.FAIL: {"red": True, "bold": True},
    Verdict.INCONCLUSIVE: {"yellow": True, "bold": True},
    Verdict.NOT_RUN: {"yellow": True},
}


def lines(matrix: Matrix | None, unmet: Sequence[str], written: Path | None, base: Path) -> list[Line]:
    """The table of gates, the benchmarks, every reason that is not PASS, and where the files are."""
    found: list[Line] = []
    if matrix is not None:
        pivot = terminal_table(*table.pivot(matrix.gates))
        text = [*pivot[:-1], f"cells: {table.LEGEND}", ""] if pivot else []
        contents = [table.others(matrix.gates), checks_table(matrix), table.curves(matrix)]
        contents += [table.benchmarks(matrix), baseline(matrix.gates)]
        if any(setting.name == "models" and setting.value != "-" for setting in matrix.settings):
            contents.append(table.contract(matrix))
        found += [(line, {}) for line in (*text, *(line for each in contents for line in terminal_table(*each)))]
        if not matrix.complete:
            found.append((f"incomplete: {matrix.interrupted_by or 'the run ended early'}", {"red": True}))
        for (verdict, gate, reason), count in _reasons(matrix).items():
            times = f" ({count} tests)" if count > 1 else ""
            found.append((f"{verdict.value} {gate}{times}: {_first_line(reason)}", _MARKUP[verdict]))
        for issue, count in _now_passing(matrix).items():
            found.append((f"NOW PASSES ({count} gates) although known not to: {issue}", {"green": True, "bold": True}))
        counts = ", ".join(f"{count} {verdict}" for verdict, count in matrix.summary.items() if count)
        worst = next((v for v in (Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.NOT_RUN) if matrix.summary[v]), None)
        found.append((f"gates: {counts or 'none'}", _MARKUP[worst or Verdict.PASS]))
    found += [(f"required gate not run: {name}", {"red": True, "bold": True}) for name in unmet]
    if written is not None:
        path = written.relative_to(base) if written.is_relative_to(base) else written
        found.append((f"results: {path / store.MATRIX}, {path / store.REPORT}", {}))
    return found


def _reasons(matrix: Matrix) -> dict[tuple[Verdict, str, str], int]:
    counted: dict[tuple[Verdict, str, str], int] = {}
    for record in table.not_passed(matrix.gates):
        key = (record.verdict, record.gate, record.reason)
        counted[key] = counted.get(key, 0) + 1
    return counted


def _now_passing(matrix: Matrix) -> Counter[str]:
    """Known incompatibilities that did not show, and how many gates passed in spite of them."""
    return Counter(record.now_passes for record in matrix.gates if record.now_passes is not None)


def _first_line(text: str) -> str:
    return text.partition("\n")[0][:240]
