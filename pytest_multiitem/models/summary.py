"""What a matrix of models comes to: a state a cell, and the exit status of all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import get_args

from pytest_multiitem.models.records import Expected, ModelCell, ModelMatrix, State
from pytest_multiitem.results.records import GateRecord
from pytest_multiitem.results.verdict import Verdict

_STATES: tuple[State, ...] = get_args(State)
_OF: dict[Verdict, State] = {
    Verdict.FAIL: "fail",
    Verdict.ERROR: "error",
    Verdict.INCONCLUSIVE: "inconclusive",
    Verdict.NOT_RUN: "not_run",
    Verdict.PASS: "pass",
}


def key_of(cell: ModelCell) -> str:
    """The combination, as a matrix plans it."""
    return f"{cell.model} {cell.backend} {cell.mask}"


def expectation(gate: str, expected: Iterable[Expected]) -> Expected | None:
    """The failure that is expected of a gate, if one is."""
    return next((each for each in expected if each.gate == gate), None)


def state_of_gate(record: GateRecord, expected: Iterable[Expected]) -> State:
    """What a verdict comes to where some failures are expected: a failure that does not come is news."""
    if expectation(record.gate, expected) is not None:
        if record.verdict is Verdict.FAIL:
            return "expected_failure"
        if record.verdict is Verdict.PASS:
            return "now_passes"
    return _OF[record.verdict]


def state_of(records: Sequence[GateRecord], expected: Sequence[Expected]) -> State:
    """The worst of a cell's gates; one that was not run says nothing beside one that was."""
    states = [state_of_gate(record, expected) for record in records]
    return min((state for state in states if state != "not_run"), key=_STATES.index, default="not_run")


def summarise(matrix: ModelMatrix) -> None:
    """Fill in what follows from the cells."""
    matrix.complete = Counter(map(key_of, matrix.cells)) == Counter(matrix.planned)
    counted = Counter(cell.state for cell in matrix.cells)
    matrix.counts = {state: counted[state] for state in _STATES if state in counted}


def verdict(
    matrix: ModelMatrix, *, allow_inconclusive: bool, allow_now_passes: bool, required: Sequence[str]
) -> tuple[int, list[str]]:
    """The exit status that a matrix asks for, and what is not as it should be. ``required``: gates for which NOT_RUN
    fails; what the file calls incompatible is left out."""
    problems = [text for cell in matrix.cells for text in _problems(cell, allow_inconclusive, allow_now_passes)]
    if required:
        problems += [
            f"{key_of(cell)}: required, but not run: {cell.reason or missing}"
            for cell in matrix.cells
            if not cell.incompatible and (missing := _missing(cell, required))
        ]
    problems += [f"two measurements disagree: {text}" for text in matrix.disagreements]
    if not matrix.complete:
        problems.append("the matrix is not complete")
    if not any(cell.gates and cell.state != "not_run" for cell in matrix.cells):
        problems.append("nothing was measured")
    return (1 if problems else 0), problems


def _problems(cell: ModelCell, allow_inconclusive: bool, allow_now_passes: bool) -> list[str]:
    """What of a cell fails the run."""
    if not cell.gates:
        return [f"{key_of(cell)} is ERROR: {cell.reason}"] if cell.state == "error" else []
    bad: set[State] = {"fail", "error"}
    bad |= set() if allow_inconclusive else {"inconclusive"}
    bad |= set() if allow_now_passes else {"now_passes"}
    found = []
    for record in cell.gates:
        state = state_of_gate(record, cell.expected)
        if state == "now_passes" and state in bad:
            known = expectation(record.gate, cell.expected)
            issue = known.issue if known is not None else ""
            found.append(f"{key_of(cell)}: {record.gate} NOW PASSES, though a failure is expected ({issue}): remove it")
        elif state in bad:
            found.append(f"{key_of(cell)}: {record.gate} {record.verdict}: {record.reason.splitlines()[0]}")
    return found


def _missing(cell: ModelCell, required: Sequence[str]) -> str:
    """The required gates that were not run, by name."""
    ran = {record.gate for record in cell.gates if record.verdict is not Verdict.NOT_RUN}
    return ", ".join(gate for gate in required if gate not in ran)
