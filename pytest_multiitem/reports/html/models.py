"""A matrix of models on a page."""

from __future__ import annotations

from pytest_multiitem.models.records import ModelCell, ModelMatrix
from pytest_multiitem.reports import models
from pytest_multiitem.reports.html.page import Block, Cell, Chapter, Grid, Section, Table, Texts, css_of
from pytest_multiitem.reports.power import short
from pytest_multiitem.reports.sentence import of_models
from pytest_multiitem.reports.table import cell as verdict_and_value

_STATES = {"fail": "v-fail", "error": "v-error", "now_passes": "v-inconclusive", "inconclusive": "v-inconclusive",
           "expected_failure": "v-not_run", "not_run": "v-not_run", "pass": "v-pass"}  # fmt: skip


def chapter(matrix: ModelMatrix, title: str | None = None) -> Chapter:
    """Every model on every backend with every mask."""
    made = Chapter(title or f"Models, run {matrix.run_id}", of_models(matrix))
    made.facts = [
        ("measured", f"{matrix.started_at_utc} to {matrix.finished_at_utc or '-'}"),
        ("file", matrix.file or "-"),
    ]
    header = ["model", "engine", "backend", "mask", "result", *map(short, matrix.gates), "items/s"]
    grid: list[Block] = [Grid("Models and gates", header, [_row(matrix, cell) for cell in matrix.cells], heads=1)]
    notes = models.notes(matrix)
    made.sections = [
        Section("Models", grid if matrix.cells else []),
        Section("What is no plain pass", [Texts(notes)] if notes else []),
        Section("Beside published throughput", [Table("", models.published(matrix))]),
    ]
    return made


def _row(matrix: ModelMatrix, cell: ModelCell) -> list[Cell]:
    by_gate = {record.gate: record for record in cell.gates}
    verdicts = [
        Cell("-") if (record := by_gate.get(gate)) is None
        else Cell(verdict_and_value(record), css_of(record.verdict.value), hint=record.reason)
        for gate in matrix.gates
    ]  # fmt: skip
    speed = "-" if cell.speed is None else f"{cell.speed.items_per_sec:.1f}"
    return [
        Cell(cell.model, hint=cell.source), Cell(cell.engine), Cell(cell.backend), Cell(cell.mask),
        Cell(models.state(cell), _STATES[cell.state], hint=cell.reason or ""), *verdicts, Cell(speed),
    ]  # fmt: skip
