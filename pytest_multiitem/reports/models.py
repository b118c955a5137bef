"""A matrix of models for people: a line a model, backend and mask, and its throughput beside what was published."""

from __future__ import annotations

from pytest_multiitem.models.records import ModelCell, ModelMatrix
from pytest_multiitem.models.summary import expectation, key_of, state_of_gate
from pytest_multiitem.reports.blocks import Rows, terminal_table
from pytest_multiitem.reports.page import page
from pytest_multiitem.reports.power import short
from pytest_multiitem.reports.table import cell as verdict_and_value
from pytest_multiitem.results.published import PUBLISHED_THROUGHPUT, THROUGHPUT_SHAPE
from pytest_multiitem.results.verdict import Verdict

#: States as a table shows them; those that somebody must look at stand out.
_WORDS = {
    "fail": "FAIL",
    "error": "ERROR",
    "now_passes": "NOW PASSES",
    "inconclusive": "INCONCLUSIVE",
    "expected_failure": "fails as expected",
    "not_run": "not run",
    "pass": "passes",
}


def state(cell: ModelCell) -> str:
    """What a cell comes to, in a word or two."""
    return "incompatible" if cell.incompatible else _WORDS[cell.state]


def table(matrix: ModelMatrix) -> Rows:
    """Header and rows: a model on a backend with a mask a row, a gate a column."""
    rows = []
    for cell in matrix.cells:
        by_gate = {record.gate: verdict_and_value(record) for record in cell.gates}
        speed = "-" if cell.speed is None else f"{cell.speed.items_per_sec:.1f}"
        verdicts = [by_gate.get(gate, "-") for gate in matrix.gates]
        rows.append([cell.model, cell.engine, cell.backend, cell.mask, state(cell), *verdicts, speed])
    return ["model", "engine", "backend", "mask", "", *map(short, matrix.gates), "items/s"], rows


def published(matrix: ModelMatrix) -> Rows:
    """Header and rows: the published throughput, and that of the matrix."""
    rows = [
        ["published", each.engine, each.hardware, each.how,
         f"{each.items_per_sec:.2f}" + (f" to {each.highest:.2f}" if each.highest else ""), THROUGHPUT_SHAPE]
        for each in PUBLISHED_THROUGHPUT
    ]  # fmt: skip
    for cell in matrix.cells:
        if cell.speed is not None:
            speed = cell.speed
            shape = f"{speed.query_tokens} query tokens, {speed.num_items} items of {speed.item_tokens} tokens"
            hardware = f"{cell.hardware.get('processor', '-')} ({cell.hardware.get('device', '-')})"
            rows.append([cell.model, cell.engine, hardware, f"{cell.backend}, {cell.mask} mask",
                         f"{speed.items_per_sec:.2f}", shape])  # fmt: skip
    return ["", "engine", "hardware", "how", "items/s", "shape"], rows


def notes(matrix: ModelMatrix) -> list[str]:
    """Everything that is no plain pass, with its reason, and what was measured again."""
    lines = []
    for cell in matrix.cells:
        if cell.reason is not None:
            lines.append(f"{key_of(cell)}: {state(cell)}: {cell.reason}")
        for record in cell.gates:
            known = expectation(record.gate, cell.expected)
            if known is not None:
                words = _WORDS[state_of_gate(record, cell.expected)]
                why = f", {known.reason}" if known.reason else ""
                lines.append(f"{key_of(cell)}: {record.gate}: {words} ({known.issue}{why})")
            elif record.verdict is not Verdict.PASS:
                lines.append(f"{key_of(cell)}: {record.gate} {record.verdict}: {record.reason}")
        lines += [f"{key_of(cell)} was measured again: {reason}" for reason in cell.retried]
    lines += [f"measured twice, and not the same: {text}" for text in matrix.disagreements]
    return [" ".join(line.split()) for line in lines]


def models_lines(matrix: ModelMatrix) -> list[str]:
    """The matrix for a terminal."""
    lines = [*terminal_table(*table(matrix)), *notes(matrix)]
    return [*lines, "", *terminal_table(*published(matrix)), counts(matrix)]


def counts(matrix: ModelMatrix) -> str:
    """How many cells there are of each state."""
    told = ", ".join(f"{count} {_WORDS[name]}" for name, count in matrix.counts.items())
    return f"{len(matrix.cells)} of {len(matrix.planned)} combinations: {told or 'none measured'}"


def render(matrix: ModelMatrix) -> str:
    """The matrix as a Markdown page."""
    return page(
        "models", matrix=matrix, counts=counts(matrix), table=table(matrix), notes=notes(matrix),
        published=published(matrix),
    )  # fmt: skip
