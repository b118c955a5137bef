"""A kill matrix on a page: planted faults and gates as a heat map."""

from __future__ import annotations

from pytest_multiitem.power.records import KillMatrix
from pytest_multiitem.reports import power
from pytest_multiitem.reports.html.page import Block, Cell, Chapter, Grid, Section, Table, Texts
from pytest_multiitem.reports.sentence import of_power
from pytest_multiitem.results.details import BuildRecord
from pytest_multiitem.results.verdict import Verdict

#: How a cell of the heat map looks, by what the gate says of a build with a fault: seen is what is wanted.
_FAULTY = {Verdict.FAIL: "v-pass", Verdict.ERROR: "v-error", Verdict.INCONCLUSIVE: "v-inconclusive",
           Verdict.NOT_RUN: "v-not_run"}  # fmt: skip
_HEALTHY = {**_FAULTY, Verdict.FAIL: "v-fail"}


def chapter(matrix: KillMatrix) -> Chapter:
    """A kill matrix of its own."""
    made = Chapter(f"Power of the gates, run {matrix.run_id}", of_power(matrix))
    made.facts = [
        ("measured", f"{matrix.started_at_utc} to {matrix.finished_at_utc or '-'}"),
        ("executor", matrix.executor),
    ]
    made.sections = sections(matrix)
    return made


def sections(matrix: KillMatrix) -> list[Section]:
    """The heat map of each backend, and what it comes to."""
    tables = power.tables(matrix)
    heat: list[Block] = [_heat(matrix, backend) for backend in matrix.killed]
    unique, graded = power.unique_table(matrix), power.sensitivity_table(matrix)
    further: list[Block] = [
        Table(caption, content, folded=True)
        for caption, content in (
            ("Faults that only one gate sees", unique),
            ("The smallest strength that is seen", graded),
            ("What the faults do", tables["faults"]),
            ("Gates that were not measured", tables["not_measured"]),
        )
        if isinstance(content, tuple) and content[1]
    ]
    lines = power.summary_lines(matrix)
    told: list[Block] = [Texts(lines)] if lines else []
    intro = (
        "A row is a build with a planted fault, a column a gate. Green: the gate fails on it, and so sees the fault."
    )
    return [Section("Kill matrix", [*told, *heat, *further], f"{intro} {power.LEGEND}.")]


def _heat(matrix: KillMatrix, backend: str) -> Grid:
    header, rows = power.kill_table(matrix, backend)
    builds = {build.label: build for build in matrix.builds if build.backend == backend}
    content = []
    for number, label, result, *cells in rows:
        build = builds[label]
        by_gate = _verdicts(build)
        marks = _HEALTHY if build.fault is None else _FAULTY
        result_css = (
            {True: "v-pass", False: "v-fail"}.get(build.as_expected, "") if build.as_expected is not None else ""
        )
        content.append([
            Cell(number or "-"), Cell(label), Cell(result, result_css),
            *(Cell(text, marks.get(by_gate[gate], "h0") if gate in by_gate else "", hint=gate)
              for gate, text in zip(matrix.gates, cells, strict=True)),
        ])  # fmt: skip
    named = ["no.", "build", "result", *header[3:]]
    return Grid(f"{backend}: planted faults and what each gate says", named, content, heads=3, narrow=True)


def _verdicts(build: BuildRecord) -> dict[str, Verdict]:
    return {cell.gate if cell.place is None else f"{cell.gate}[{cell.place}]": cell.verdict for cell in build.cells}
