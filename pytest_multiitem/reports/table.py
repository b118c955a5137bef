"""The table of gates, as rows of text; the terminal and the Markdown report both show it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePath

from pytest_multiitem.gates.gate import larger_floor
from pytest_multiitem.results.records import GateRecord, Matrix, Verdict
from pytest_multiitem.scoring.vocabulary import ATTACHED, BACKENDS, MASKS

#: What a cell of `pivot` says, where it says more than a verdict.
LEGEND = "verdict value | noise floor, the larger of quiet and in traffic | leak visibility; - where it does not apply"
_ORDER = (Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.NOT_RUN, Verdict.PASS)


def where(record: GateRecord) -> str:
    """Which parameters a verdict is for: the test's own id, e.g. ``pytorch-dense``."""
    _, bracket, parameters = record.nodeid.partition("[")
    return parameters.rstrip("]") if bracket else "-"


def cell(record: GateRecord) -> str:
    """A verdict with its value."""
    if record.value is None:
        return record.verdict.value
    return f"{record.verdict.value} {number(record.value)}"


def floor(record: GateRecord) -> float | None:
    """The larger of a record's noise floors: what a difference must exceed to be more than noise."""
    return larger_floor(record.noise_floor, record.traffic_floor)


def resolved(record: GateRecord) -> str:
    """A verdict and its value, with the floor below which it is noise and the size that a leak would have."""
    if record.value is None:
        return record.verdict.value
    return " | ".join((cell(record), number(floor(record)), number(record.leak_visibility)))


def number(value: float | None) -> str:
    """A short number; exact zero shows as 0."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    return f"{value:.2f}" if 0.1 <= abs(value) < 1e4 else f"{value:.2g}"


def bound(record: GateRecord) -> str:
    """When the gate holds."""
    return record.relation if record.limit is None else f"{record.relation} {record.limit:g}"


def pivot(records: Iterable[GateRecord]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: a gate a row, a backend and mask a column, for the gates measured on all of them.

    `LEGEND` says how to read a cell.
    """
    chosen = [r for r in records if _is_backend_and_mask(r)]
    columns = list(dict.fromkeys(where(r) for r in chosen))
    rows = []
    for gate in dict.fromkeys(r.gate for r in chosen):
        mine = [r for r in chosen if r.gate == gate]
        cells = []
        for column in columns:
            here = worst_first(r for r in mine if where(r) == column)
            cells.append(resolved(here[0]) if here else "")
        rows.append([gate, bound(mine[0]), *cells])
    return ["gate", "limit", *columns], rows


def others(records: Iterable[GateRecord]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the gates that stand between backends, or on a backend alone."""
    rows = [
        [
            r.gate,
            bound(r),
            where(r),
            cell(r),
            number(floor(r)),
            number(r.leak_visibility),
            r.mask_attested or "-",
        ]
        for r in records
        if not _is_backend_and_mask(r)
    ]
    return ["gate", "limit", "for", "verdict", "noise floor", "leak visibility", "executed"], rows


def unhappy(records: Iterable[GateRecord]) -> list[GateRecord]:
    """Every verdict that is not PASS, the worst first."""
    return [r for r in worst_first(records) if r.verdict is not Verdict.PASS]


def worst_first(records: Iterable[GateRecord]) -> list[GateRecord]:
    """The records by verdict; where several share a cell, the first one stands in it."""
    return sorted(records, key=lambda r: _ORDER.index(r.verdict))


def short_test(nodeid: str) -> str:
    """A node id without its directories."""
    path, _, rest = nodeid.partition("::")
    return f"{PurePath(path).name}::{rest}" if rest else nodeid


def curves(matrix: Matrix) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the performance curves: speed-up over serial at each N."""
    measured = {
        f"{where(record)}{against}": record.details[curve]
        for record in matrix.gates
        for curve, against in (("performance", ""), ("performance_vs_tuned_serial", " vs tuned serial"))
        if curve in record.details
    }
    counts = dict.fromkeys(n for points in measured.values() for n in points)
    rows = [
        [name, *(f"{points[n]['speedup_vs_serial_p50']:.2f}x" if n in points else "" for n in counts)]
        for name, points in measured.items()
    ]
    return ["speed-up over serial, p50", *(f"N={n}" for n in counts)], rows


def semantics(matrix: Matrix) -> tuple[list[str], list[list[str]]]:
    """Header and rows of how far packed scores are from each semantics: the declared one, and the gap to the others."""
    measured = {where(r): r for r in matrix.gates if "distances" in r.details}
    names = dict.fromkeys(name for record in measured.values() for name in record.details["distances"])
    rows = [
        [server, record.semantics or "-", *(number(record.details["distances"].get(name)) for name in names)]
        for server, record in measured.items()
    ]
    return ["max abs diff to", "declared", *names], rows


def contract(matrix: Matrix) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the contract as it is published: a server a row, by model where there are several."""
    header = [
        "model", "same-len", "changed-len", "aligned equiv", "JAX vs torch serial",
        "JAX multi vs torch multi-sem", "×N=8", "×N=32", "×N=128",
    ]  # fmt: skip
    own = dict.fromkeys(where(r) for r in matrix.gates if r.gate == "same_length_isolation_zero")
    return header, [_contract_row(matrix, server) for server in own]


def _contract_row(matrix: Matrix, server: str) -> list[str]:
    records = worst_first(matrix.gates)
    mine = {r.gate: r for r in reversed(records) if where(r) == server}
    around = {r.gate: r for r in reversed(records) if set(where(r).split("-")) - {""} <= set(server.split("-"))}
    speed = mine.get("speedup_n32_ge_3x")
    points = speed.details.get("performance", {}) if speed is not None else {}
    semantic = None if server.startswith("pytorch") else around.get("jax_multi_vs_torch_multi_semantic_le_0p02")
    values = [
        *(
            mine.get(gate)
            for gate in (
                "same_length_isolation_zero",
                "changed_length_isolation_zero",
                "delimiter_aligned_equiv_le_0p02",
            )
        ),
        around.get("jax_serial_vs_torch_serial_le_0p02"),
        semantic,
    ]
    return [
        server,
        *("-" if r is None else r.verdict.value if r.value is None else number(r.value) for r in values),
        *(f"{points[n]['speedup_vs_serial_p50']:.2f}" if n in points else "-" for n in ("8", "32", "128")),
    ]


def benchmarks(matrix: Matrix) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the benchmarks."""
    header = ["benchmark", "backend", "executed", "query/items/tokens", "chunk", "runs", "p50 s", "items/s"]
    rows = [
        [
            b.name,
            b.backend,
            b.mask_attested or "-",
            f"{b.query_tokens}/{b.num_items}/{b.item_tokens}",
            str(b.client_chunk_size),
            str(len(b.runs_sec)),
            f"{b.p50_sec:.3f}",
            f"{b.items_per_sec_p50:.1f}",
        ]
        for b in matrix.benchmarks
    ]
    return header, rows


def _is_backend_and_mask(record: GateRecord) -> bool:
    words = where(record).split("-")
    return len(words) >= 2 and words[0] in (*BACKENDS, ATTACHED) and words[1] in (*MASKS, ATTACHED)
