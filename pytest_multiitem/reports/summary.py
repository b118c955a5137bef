"""The terminal summary, as lines with their markup; printing them is the caller's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pytest_multiitem.reports import table, variants
from pytest_multiitem.reports.baseline import baseline
from pytest_multiitem.reports.blocks import terminal_table
from pytest_multiitem.reports.compile_gates import checks_table, gpu_checks_table
from pytest_multiitem.reports.scores import scores
from pytest_multiitem.results import store
from pytest_multiitem.results.answer import ANSWER
from pytest_multiitem.results.records import Matrix
from pytest_multiitem.results.verdict import WORST_FIRST, Verdict
from pytest_multiitem.untrusted.words import plain

Line = tuple[str, dict[str, bool]]
_MARKUP = {
    Verdict.PASS: {"green": True},
    Verdict.FAIL: {"red": True, "bold": True},
    Verdict.ERROR: {"red": True, "bold": True},
    Verdict.INCONCLUSIVE: {"yellow": True, "bold": True},
    Verdict.NOT_RUN: {"yellow": True},
}


def lines(matrix: Matrix | None, unmet: Sequence[str]) -> list[Line]:
    """The table of gates, the benchmarks, and every reason that is not PASS."""
    shown: list[Line] = []
    if matrix is not None:
        records = variants.beside_variants(matrix.gates)
        pivot = terminal_table(*table.pivot(records))
        text = [*pivot[:-1], f"cells: {table.LEGEND}", ""] if pivot else []
        contents = [table.others(records), checks_table(matrix), gpu_checks_table(matrix), table.curves(matrix)]
        contents += [table.benchmarks(matrix), baseline(matrix.gates), scores(matrix.gates)]
        if any(setting.name == "models" and setting.value != "-" for setting in matrix.settings):
            contents.append(table.contract(matrix))
        contents.append(variants.table(matrix))
        shown += [(line, {}) for line in (*text, *(line for each in contents for line in terminal_table(*each)))]
        if not matrix.complete:
            shown.append((f"incomplete: {matrix.interrupted_by or 'the run ended early'}", {"red": True}))
        shown += [(text, _MARKUP.get(verdict, {}) if verdict else {}) for verdict, text in variants.notes(matrix)]
        reasons = Counter((r.verdict, r.gate, r.reason) for r in table.not_passed(records))
        for (verdict, gate, reason), count in reasons.items():
            times = f" ({count} tests)" if count > 1 else ""
            shown.append((f"{verdict.value} {gate}{times}: {reason.partition(chr(10))[0][:240]}", _MARKUP[verdict]))
        for issue, count in Counter(r.now_passes for r in matrix.gates if r.now_passes is not None).items():
            shown.append((f"NOW PASSES ({count} gates) although known not to: {issue}", {"green": True, "bold": True}))
        counts = ", ".join(f"{count} {verdict}" for verdict, count in matrix.summary.items() if count)
        worst = next((verdict for verdict in WORST_FIRST if matrix.summary.get(verdict)), None)
        shown.append((f"gates: {counts or 'none'}", _MARKUP[worst or Verdict.PASS]))
    shown += [(f"required gate not run: {name}", {"red": True, "bold": True}) for name in unmet]
    return [(plain(text), markup) for text, markup in shown]


def results_line(written: Path, base: Path) -> str:
    """Where a run's files are, for people first: from the directory ``base``, if they lie there."""
    path = written.relative_to(base) if written.is_relative_to(base) else written
    first, *others = [name for name in (store.PAGE, store.REPORT, ANSWER, store.MATRIX) if (written / name).is_file()]
    return plain(f"results: {', '.join([str(path / first), *others])}")
