"""The kill matrix for people: faults × gates with what each gate saw, unique kills, sensitivity."""

from __future__ import annotations

from pytest_multiitem.gates.registry import gates
from pytest_multiitem.power.records import KillMatrix
from pytest_multiitem.reports.blocks import Rows, terminal_table
from pytest_multiitem.reports.page import page
from pytest_multiitem.reports.table import number
from pytest_multiitem.results.details import BuildRecord, Cell
from pytest_multiitem.results.records import Verdict

#: What a gate's other place is called at the head of a narrow column.
_PLACES = {"extend": "ext"}
_MARK = {Verdict.PASS: "", Verdict.FAIL: "✗", Verdict.ERROR: "E", Verdict.INCONCLUSIVE: "?", Verdict.NOT_RUN: "n"}

LEGEND = (
    "✗ the gate fails and so sees the fault; E an error, which is nobody's score; ? it cannot decide; "
    "n it was not run; a bare number passes; "
    "· no server that the gate judges has the fault, (speed-up) it takes no time, or three gates had seen it"
)


def short(column: str) -> str:
    """A narrow name of a column; the whole one of a gate that is not known here."""
    name, _, place = column.partition("[")
    gate = gates().get(name)
    if gate is None or gate.short is None:
        return column
    return f"{gate.short} {_PLACES.get(place[:-1], place[:-1])}".rstrip()


def cell_text(cell: Cell | None) -> str:
    """What a gate said, with the value it saw."""
    if cell is None:
        return "·"
    value = "" if cell.value is None else number(cell.value)
    return " ".join(part for part in (_MARK[cell.verdict], value) if part) or "ok"


def kill_table(matrix: KillMatrix, backend: str) -> Rows:
    """Header and rows of one backend: the healthy builds, then faults by their number, strongest first."""
    kinds = {fault.name: fault for fault in matrix.faults}
    order = [kind.name for kind in sorted(matrix.faults, key=lambda kind: kind.number or len(matrix.faults) + 100)]

    def place(build: BuildRecord) -> tuple[int, float]:
        if build.fault is None:
            return -1, 0.0
        at = order.index(build.fault) if build.fault in kinds else len(order)  # of a project that is not loaded now
        return at, -(build.strength or 0.0)

    builds = sorted((build for build in matrix.builds if build.backend == backend), key=place)
    rows = []
    for build in builds:
        known = kinds.get(build.fault or "")
        row = "" if build.fault is None else f"F{known.number}" if known is not None and known.number else "-"
        cells = {cell.gate if cell.place is None else f"{cell.gate}[{cell.place}]": cell for cell in build.cells}
        rows.append([row, build.label, result(build), *(cell_text(cells.get(gate)) for gate in matrix.gates)])
    return ["", "build", "", *map(short, matrix.gates)], rows


def result(build: BuildRecord) -> str:
    """What a build came to, in a word or two."""
    if build.fault is None:
        return "passes" if build.as_expected else "DOES NOT PASS"
    if build.killed_by:
        return f"killed by {len(build.killed_by)}"
    return "not seen" if build.as_expected is None else "SURVIVES"


def unique_table(matrix: KillMatrix) -> Rows:
    """Header and rows: the faults that only one gate sees."""
    return ["gate", "faults that only it sees"], [
        [gate, ", ".join(matrix.unique.get(gate, [])) or "-"] for gate in _gates(matrix)
    ]


def sensitivity_table(matrix: KillMatrix) -> Rows:
    """Header and rows: each graded fault with the gates that see it, and the smallest and the largest strength at which
    they do."""
    measured = {build.fault for build in matrix.builds}
    graded = [fault for fault in matrix.faults if len(fault.strengths) > 1 and fault.name in measured]
    rows = []
    for gate in _gates(matrix):
        smallest, largest = matrix.sensitivity.get(gate, {}), matrix.reach.get(gate, {})
        seen = [(fault.name, smallest[fault.name], largest[fault.name]) for fault in graded if fault.name in smallest]
        rows += [[gate, name, f"{low:g}", f"{high:g}"] for name, low, high in seen]
    return ["gate", "graded fault", "smallest strength seen", "largest"], rows


def summary_lines(matrix: KillMatrix) -> list[str]:
    """How many faults of the list are killed, a line a backend."""
    lines = []
    for backend, killed in matrix.killed.items():
        healthy = [build for build in matrix.builds if build.fault is None and build.backend == backend]
        fine = sum(bool(build.as_expected) for build in healthy)
        lines.append(
            f"{backend}: {len(killed)} of {len(matrix.expected)} faults killed; "
            f"{fine} of {len(healthy)} healthy builds pass every gate"
        )
        alive = [n for n in matrix.expected if n not in killed]
        if alive:
            lines.append(f"{backend}: not killed: {', '.join(f'F{n}' for n in alive)}")
    lines += [f"{build.backend}: {build.label}: ERROR: {'; then '.join(build.reasons)}" for build in matrix.failed]
    return [*lines, *matrix.retried, *(f"measured twice, and not the same: {text}" for text in matrix.disagreements)]


def power_lines(matrix: KillMatrix) -> list[str]:
    """The kill matrix for a terminal."""
    lines: list[str] = []
    for backend in matrix.killed:
        lines += [f"{backend}:", *terminal_table(*kill_table(matrix, backend))]
    lines += [LEGEND, ""]
    lines += [*terminal_table(*unique_table(matrix)), *terminal_table(*sensitivity_table(matrix))]
    return [*lines, *summary_lines(matrix)]


def tables(matrix: KillMatrix) -> dict[str, object]:
    """The tables of a kill matrix, each a header and rows, as its page takes them."""
    faults = [
        [f"F{f.number}" if f.number else "-", f.name, f.layer, f.about, f.seen,
         f"{', '.join(f'{strength:g}' for strength in f.strengths)} {f.unit}".strip() or "-"]
        for f in matrix.faults
    ]  # fmt: skip
    return {
        "kills": {backend: kill_table(matrix, backend) for backend in matrix.killed},
        "legend": LEGEND,
        "unique": unique_table(matrix),
        "sensitivity": sensitivity_table(matrix),
        "faults": (["", "fault", "of", "what it does", "seen", "strengths"], faults),
        "not_measured": (["gate", "why"], [*matrix.not_measured.items()]),
    }


def render(matrix: KillMatrix) -> str:
    """The kill matrix as a Markdown page."""
    return page("power", matrix=matrix, lines=summary_lines(matrix), power=tables(matrix))


def sections(matrix: KillMatrix) -> str:
    """The tables of a kill matrix as Markdown."""
    return page("power_tables", power=tables(matrix))


def _gates(matrix: KillMatrix) -> list[str]:
    return list(dict.fromkeys(name.partition("[")[0] for name in matrix.gates))
