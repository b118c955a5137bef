"""What a compile gate found, as rows of text and as lines for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from pytest_multiitem.compile_gates.judge import by_cause
from pytest_multiitem.compile_gates.records import Check, GpuReport, Report, TpuReport
from pytest_multiitem.reports.blocks import Rows, terminal_table
from pytest_multiitem.results.details import SegmentPath
from pytest_multiitem.results.records import Matrix, Verdict

_COMMON = ["tier", "chip", "verdict", "seconds"]
_TPU_HEADER = ["TPU kernel", *_COMMON, "arguments", "output", "temporary"]
_GPU_HEADER = ["GPU kernel", *_COMMON, "shared", "registers", "spilled", "from reference"]


def _rows(report: Report) -> list[list[str]]:
    """A row a case, chip and tier: verdict, time, and what it takes of the chip."""
    taken = _of_gpu if isinstance(report, GpuReport) else _of_tpu
    return [_row(report.kernel, check, taken) for check in report.checks if check.role != "control"]


def _row(kernel: str, check: Check, taken: Callable[[Check], list[str]]) -> list[str]:
    seconds = "-" if check.seconds is None else f"{check.seconds:.2f}"
    name = f"{kernel.rpartition(':')[2]} {check.name}"
    return [name, check.tier, check.chip, check.verdict.value, seconds, *taken(check)]


def _of_tpu(check: Check) -> list[str]:
    """Device memory in MiB, as the compiler's analysis says."""
    memory = check.memory
    sizes = [] if memory is None else [memory.argument, memory.output, memory.temp]
    return [f"{size / 2**20:.2f} MiB" for size in sizes] or ["-"] * 3


def _of_gpu(check: Check) -> list[str]:
    """Shared memory of a block in KiB, registers and bytes of spills of a thread; how far from the reference."""
    resources, numbers = check.resources, check.numbers
    cells = ["-"] * 3
    if resources is not None:
        shared, spilled = resources.shared / 1024, resources.spill_stores + resources.spill_loads
        cells = [f"{shared:.1f} of {resources.shared_limit / 1024:g} KiB", str(resources.registers), f"{spilled} B"]
    if numbers is None:
        return [*cells, "-"]
    return [*cells, "NaN or inf" if numbers.difference is None else f"{numbers.difference:.3g}"]


def _header(report: Report) -> list[str]:
    return _GPU_HEADER if isinstance(report, GpuReport) else _TPU_HEADER


def checks_table(matrix: Matrix) -> Rows:
    """Header and rows of every TPU kernel that a run has put through the compile gate; controls are left out."""
    return _table(matrix, "tpu", TpuReport, _TPU_HEADER)


def gpu_checks_table(matrix: Matrix) -> Rows:
    """The same of GPU kernels."""
    return _table(matrix, "gpu", GpuReport, _GPU_HEADER)


def _table(matrix: Matrix, which: str, kind: type[Report], header: list[str]) -> Rows:
    paths = [record.details for record in matrix.gates if isinstance(record.details, SegmentPath)]
    documents = [getattr(path, which) for path in paths]
    reports = [msgspec.convert(document, kind) for document in documents if document is not None]
    return header, [row for report in reports for row in _rows(report)]


def _told(header: list[str], rows: list[list[str]]) -> Rows:
    """A table without the columns in which no row says anything, which make it wider than the terminal."""
    kept = [at for at in range(len(header)) if any(row[at] != "-" for row in rows)]
    return [header[at] for at in kept], [[row[at] for at in kept] for row in rows]


def report_lines(report: Report) -> list[str]:
    """A report for the terminal."""
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items()) or "no compiler was imported"
    lines = [f"{report.kernel} for {', '.join(report.chips)}; {versions}; {report.seconds:.1f} s", ""]
    lines += terminal_table(*_told(_header(report), _rows(report)))
    lines.append(_controls([check for check in report.checks if check.role == "control"]))
    lines += [f"{names} {verdict.value}: {reason}" for names, verdict, reason in by_cause(report.tiers)]
    reason = f": {report.reason}" if report.verdict is Verdict.PASS else ""  # else the lines above have said it
    return [*lines, f"{report.verdict.value}: {report.kernel}{reason}"]


def _controls(controls: Sequence[Check]) -> str:
    """How many controls did what they have to, and what the first of those says that did not."""
    counts = [(verdict, [c for c in controls if c.verdict is verdict]) for verdict in Verdict]
    text = f"controls: {', '.join(f'{len(found)} {verdict.value}' for verdict, found in counts if found)}"
    wrong = [c for c in controls if c.verdict not in (Verdict.PASS, Verdict.NOT_RUN)]
    return text + "".join(f"; {c.name} ({c.tier}, {c.chip}): {c.reason}" for c in wrong[:1])
