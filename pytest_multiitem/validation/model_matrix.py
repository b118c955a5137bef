"""Whether a matrix of models says what follows from its verdicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import msgspec

from pytest_multiitem.bench.statistics import p50
from pytest_multiitem.models.records import ModelCell, ModelMatrix
from pytest_multiitem.models.summary import key_of, state_of, summarise


def summary(matrix: ModelMatrix) -> str:
    """What it holds, in a few words."""
    counts = ", ".join(f"{count} {state.replace('_', ' ')}" for state, count in matrix.counts.items()) or "no cell"
    return f"{len(matrix.cells)} of {len(matrix.planned)} cells: {counts}"


def problems(matrix: ModelMatrix) -> list[str]:
    """What contradicts itself in a matrix whose schema holds."""
    found = [f"{key} stands there {n} times" for key, n in Counter(map(key_of, matrix.cells)).items() if n > 1]
    found += [f"{key_of(cell)} is not planned" for cell in matrix.cells if key_of(cell) not in matrix.planned]
    found += [f"{key_of(cell)}: {text}" for cell in matrix.cells for text in _of_cell(cell, matrix.gates)]
    again = msgspec.structs.replace(matrix)
    summarise(again)
    for name in ("complete", "counts"):
        stated, made = getattr(matrix, name), getattr(again, name)
        if stated != made:
            found.append(f"{name} is {stated}; the cells give {made}")
    return found


def _of_cell(cell: ModelCell, gates: list[str]) -> Iterator[str]:
    if not cell.gates:
        if cell.state not in ("error", "not_run") or cell.reason is None:
            yield f"it is {cell.state} without a verdict{'' if cell.reason else ' and without a reason'}"
        return
    names = [record.gate for record in cell.gates]
    if names != gates:
        yield f"it has verdicts of {', '.join(names)}; the contract is {', '.join(gates)}"
    made = state_of(cell.gates, cell.expected)
    if made != cell.state:
        yield f"state is {cell.state}; its verdicts give {made}"
    speed = cell.speed
    if speed is not None and (not speed.seconds or not min(speed.seconds) > 0):
        yield "it has a throughput without timed runs"
    elif speed is not None:
        middle = speed.num_items / p50(speed.seconds)
        if abs(middle - speed.items_per_sec) > 1e-6 * middle:
            yield f"items_per_sec is {speed.items_per_sec:g}; its runs give {middle:g}"
