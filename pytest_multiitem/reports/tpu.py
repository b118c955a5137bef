"""What the TPU compile gate found, as rows of text and as lines for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from pytest_multiitem.reports.blocks import Rows, terminal_table
from pytest_multiitem.results.details import SegmentPath
from pytest_multiitem.results.records import Matrix, Verdict
from pytest_multiitem.tpu.records import Check, Report

_HEADER = ["TPU kernel", "tier", "chip", "verdict", "seconds", "arguments", "output", "temporary"]


def _rows(kernel: str, checks: Iterable[Check]) -> list[list[str]]:
    """A row a case, chip and tier: verdict, time, and device memory in MiB as the compiler's analysis says."""
    rows = []
    for check in (each for each in checks if each.role != "control"):
        memory = check.memory
        sizes = [None] * 3 if memory is None else [memory.argument, memory.output, memory.temp]
        seconds = "-" if check.seconds is None else f"{check.seconds:.2f}"
        mebibytes = ["-" if size is None else f"{size / 2**20:.2f} MiB" for size in sizes]
        name = f"{kernel.rpartition(':')[2]} {check.name}"
        rows.append([name, check.tier, check.chip, check.verdict.value, seconds, *mebibytes])
    return rows


def checks_table(matrix: Matrix) -> Rows:
    """Header and rows of every kernel that a run has put through the compile gate; controls are left out."""
    paths = [record.details for record in matrix.gates if isinstance(record.details, SegmentPath)]
    reports = [msgspec.convert(path.tpu, Report) for path in paths if path.tpu is not None]
    return _HEADER, [row for report in reports for row in _rows(report.kernel, report.checks)]


def report_lines(report: Report) -> list[str]:
    """A report for the terminal."""
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items()) or "JAX was not imported"
    lines = [f"{report.kernel} for {', '.join(report.chips)}; {versions}; {report.seconds:.1f} s", ""]
    lines += terminal_table(_HEADER, _rows(report.kernel, report.checks))
    lines.append(_controls([check for check in report.checks if check.role == "control"]))
    lines += [f"{tier.tier} {tier.verdict.value}: {tier.reason}" for tier in report.tiers]
    reason = f": {report.reason}" if report.verdict is Verdict.PASS else ""  # else the lines above have said it
    return [*lines, f"{report.verdict.value}: {report.kernel}{reason}"]


def _controls(controls: Sequence[Check]) -> str:
    """How many controls did what they have to, and what the first of those says that did not."""
    counts = [(verdict, [c for c in controls if c.verdict is verdict]) for verdict in Verdict]
    text = f"controls: {', '.join(f'{len(found)} {verdict.value}' for verdict, found in counts if found)}"
    wrong = [c for c in controls if c.verdict not in (Verdict.PASS, Verdict.NOT_RUN)]
    return text + "".join(f"; {c.name} ({c.tier}, {c.chip}): {c.reason}" for c in wrong[:1])
