"""The table of gates, as rows of text; the terminal and the Markdown report both show it."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

from pytest_multiitem.gates import equivalence, isolation, parity
from pytest_multiitem.gates.gate import Gate, larger_floor
from pytest_multiitem.reports.blocks import Rows, strong
from pytest_multiitem.results.details import Ladder, Semantics, SpeedPoint, Speedup, Traffic
from pytest_multiitem.results.published import PUBLISHED
from pytest_multiitem.results.records import EVIDENCE, GateRecord, Matrix, Place, Verdict
from pytest_multiitem.results.verdict import rank
from pytest_multiitem.scoring.vocabulary import ATTACHED

#: What a cell of `pivot` says, where it says more than a verdict.
LEGEND = "verdict value | noise floor, the larger of quiet and in traffic | leak visibility; - where it does not apply"


def where(record: GateRecord) -> str:
    """Which parameters a verdict is for, e.g. ``pytorch-dense``."""
    return record.place.label or "-"


def cell(record: GateRecord) -> str:
    """A verdict with its value."""
    return record.verdict.value if record.value is None else f"{record.verdict.value} {number(record.value)}"


def floor(record: GateRecord) -> float | None:
    """The larger of a record's noise floors: what a difference must exceed to be more than noise."""
    return larger_floor(record.noise_floor, record.traffic_floor)


def resolved(record: GateRecord) -> str:
    """A verdict and its value, with the floor below which it is noise and the size that a leak would have."""
    sizes = () if record.value is None else (floor(record), record.leak_visibility)
    return " | ".join((cell(record), *map(number, sizes)))


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


def pivot(records: Iterable[GateRecord]) -> Rows:
    """Header and rows: a gate a row, a backend and mask a column, for the gates measured on all of them.

    `LEGEND` says how to read a cell.
    """
    chosen = [r for r in records if _is_backend_and_mask(r.place)]
    columns = list(dict.fromkeys(where(r) for r in chosen))
    rows = []
    for gate in dict.fromkeys(r.gate for r in chosen):
        mine = [r for r in chosen if r.gate == gate]
        cells = [next(map(resolved, worst_first(r for r in mine if where(r) == column)), "") for column in columns]
        rows.append([gate, bound(mine[0]), *cells])
    return ["gate", "limit", *columns], rows


def others(records: Iterable[GateRecord]) -> Rows:
    """Header and rows of the gates that stand between backends, or on a backend alone."""
    rows = [
        [r.gate, bound(r), where(r), cell(r), number(floor(r)), number(r.leak_visibility), r.mask_attested or "-"]
        for r in records
        if not _is_backend_and_mask(r.place)
    ]
    return ["gate", "limit", "for", "verdict", "noise floor", "leak visibility", "executed"], rows


def not_passed(records: Iterable[GateRecord]) -> list[GateRecord]:
    """Every verdict that is not PASS, the worst first."""
    return [r for r in worst_first(records) if r.verdict is not Verdict.PASS]


def worst_first(records: Iterable[GateRecord]) -> list[GateRecord]:
    """The records by verdict; where several share a cell, the first one stands in it."""
    return sorted(records, key=lambda r: rank(r.verdict))


def curves(matrix: Matrix) -> Rows:
    """Header and rows of the performance curves: speed-up over serial at each N, and what it is at most."""
    rows: dict[str, dict[str, str]] = {}
    for record in matrix.gates:
        if isinstance(record.details, Speedup):
            measured = record.details
            rows[where(record)] = _curve(measured.performance, measured.refused)
            if measured.performance_vs_tuned_serial is not None:
                tuned = _curve(measured.performance_vs_tuned_serial, measured.refused_vs_tuned_serial)
                rows[f"{where(record)} vs tuned serial"] = tuned
    counts = sorted({n for cells in rows.values() for n in cells}, key=lambda n: (len(n), n))
    return (
        ["speed-up over serial, p50", *(f"N={n}" for n in counts)],
        [[name, *(cells.get(n, "") for n in counts)] for name, cells in rows.items()],
    )


def curve_notes(matrix: Matrix) -> list[str]:
    """What the ceilings of the curves are counted for, what was refused, and what to think of the gated points."""
    notes: dict[str, list[str]] = {}
    for record in matrix.gates:
        if isinstance(record.details, Speedup):
            measured = record.details
            refused = [f"N = {n}: {why}" for n, why in measured.refused.items()]
            refused += [f"N = {n} vs tuned serial: {why}" for n, why in measured.refused_vs_tuned_serial.items()]
            basis = [] if measured.ceiling_basis is None else [f"at most: {measured.ceiling_basis}"]
            for note in (*basis, *refused, *measured.remarks):
                notes.setdefault(note, []).append(where(record))
    return [f"{', '.join(dict.fromkeys(servers))}: {note}" for note, servers in notes.items()]


def _curve(points: Mapping[str, SpeedPoint], refused: Mapping[str, str]) -> dict[str, str]:
    return {n: _bounded(points, n) for n in points} | dict.fromkeys(refused, "refused")


def _bounded(points: Mapping[str, SpeedPoint], count: str) -> str:
    """A speed-up beside what operations alone allow: ``5.97x of 9.1x (66 %)``; more where the calls themselves cost
    time."""
    text, point = _speedup(points, count, "x"), points[count]
    if not text or point.ceiling is None or point.share_of_ceiling is None:
        return text
    text += f" of {point.ceiling:.2g}x ({_percent(point.share_of_ceiling)})"
    return (
        text if point.share_of_roofline is None else f"{text}, {_percent(point.share_of_roofline)} of the device's rate"
    )


def _percent(share: float) -> str:
    return f"{share:.0%}".replace("%", " %")


def _speedup(points: Mapping[str, SpeedPoint], count: str, unit: str = "") -> str:
    value = points[count].speedup_vs_serial_p50 if count in points else None
    return "" if value is None else f"{value:.2f}{unit}"


def semantics(matrix: Matrix) -> Rows:
    """Header and rows of how far packed scores are from each semantics: the declared one, and the gap to the others."""
    measured = {where(r): (r, r.details.distances) for r in matrix.gates if isinstance(r.details, Semantics)}
    names = dict.fromkeys(name for _, distances in measured.values() for name in distances)
    rows = [
        [server, record.semantics or "-", *(number(distances.get(name)) for name in names)]
        for server, (record, distances) in measured.items()
    ]
    return ["max abs diff to", "declared", *names], rows


#: The gates of the published results: of one server; and between servers, with the backends that they are about.
_OWN = {
    "same-len": isolation.SAME_LENGTH,
    "changed-len": isolation.CHANGED_LENGTH,
    "aligned equiv": equivalence.EQUIVALENCE,
}
_BETWEEN: dict[str, tuple[Gate, Container[str | None] | None]] = {
    "JAX vs torch serial": (parity.JAX_SERIAL_VS_TORCH_SERIAL, None),
    "JAX multi vs torch multi-sem": (parity.JAX_MULTI_VS_TORCH_MULTI_SEMANTIC, ("jax", ATTACHED)),
}
_COUNTS = ("8", "32", "128")


def contract(matrix: Matrix) -> Rows:
    """Header and rows of the contract as it is published: a server a row, by model where there are several."""
    servers = {where(r): r.place for r in matrix.gates if r.gate == isolation.SAME_LENGTH.name}
    header = ["model", *_OWN, *_BETWEEN, *(f"×N={n}" for n in _COUNTS)]
    return header, [_contract_row(matrix, server, place) for server, place in servers.items()]


def _contract_row(matrix: Matrix, server: str, place: Place) -> list[str]:
    by_verdict = worst_first(matrix.gates)
    own = {r.gate: r for r in reversed(by_verdict) if where(r) == server}
    between = {r.gate: r for r in reversed(by_verdict) if _includes(r.place, place)}
    records = [own.get(gate.name) for gate in _OWN.values()]
    for gate, backends in _BETWEEN.values():
        records.append(between.get(gate.name) if backends is None or place.backend in backends else None)
    curve = next((r.details.performance for r in own.values() if isinstance(r.details, Speedup)), {})
    return [
        server,
        *("-" if r is None else r.verdict.value if r.value is None else number(r.value) for r in records),
        *(_speedup(curve, n) or "-" for n in _COUNTS),
    ]


def _includes(place: Place, server: Place) -> bool:
    """Whether a server has all the parameters of a verdict."""
    pairs = (place.backend, server.backend), (place.mask, server.mask), (place.model, server.model)
    return all(mine in (None, its) for mine, its in pairs)


def not_tried(records: Iterable[GateRecord]) -> Rows:
    """Header and rows: how far the evidence goes, and what it leaves out on which servers."""
    tried: dict[tuple[str, str], str] = {}
    left: dict[tuple[str, str, str], list[str]] = {}
    for record in records:
        details, server = record.details, where(record)
        if isinstance(details, Ladder):
            for axis, seen in details.axes.items():
                if seen.tried:
                    tried[record.gate, axis] = f"{seen.tried[0]} … {seen.tried[-1]}"
                reasons = [seen.not_tried] if seen.not_tried else []
                reasons += [f"{rung}: {words}" for rung, words in seen.refused.items()]
                for reason in reasons:
                    left.setdefault((record.gate, axis, reason), []).append(server)
        elif isinstance(details, Traffic):
            for stage, reason in details.not_tried.items():
                left.setdefault((record.gate, stage, reason), []).append(server)
            if details.stages:
                tried[record.gate, "traffic"] = f"{len(details.stages)} kinds"
    reached = [[gate, axis, seen, "", ""] for (gate, axis), seen in tried.items()]
    missing = [[gate, axis, "", reason, ", ".join(servers)] for (gate, axis, reason), servers in left.items()]
    return ["gate", "axis", "tried", "not tried", "server"], [*reached, *missing]


def benchmarks(matrix: Matrix) -> Rows:
    """Header and rows of the benchmarks."""
    header = ["benchmark", "backend", "executed", "query/items/tokens", "chunk", "runs", "p50 s", "items/s"]
    rows = [
        [b.name, b.backend, b.mask_attested or "-", f"{b.query_tokens}/{b.num_items}/{b.item_tokens}",
         str(b.client_chunk_size), str(len(b.runs_sec)), f"{b.p50_sec:.3f}", f"{b.items_per_sec_p50:.1f}"]
        for b in matrix.benchmarks
    ]  # fmt: skip
    return header, rows


def evidence(records: Iterable[GateRecord]) -> Rows:
    """Header and rows: what each verdict rests on."""
    rows = [
        [r.gate, where(r), r.verdict.value, number(r.value), bound(r), *(number(getattr(r, name)) for name in EVIDENCE),
         ", ".join(f"{count} {what.replace('_', ' ')}" for what, count in r.samples.items()) or "-",
         r.semantics or "-", r.mask_requested or "-", r.mask_attested or "-",
         "-" if r.server_chunk_size is None else str(r.server_chunk_size or "all"),
         "-" if r.items_per_sequence is None else f"{r.items_per_sequence:.1f}"]
        for r in records
        if r.verdict is not Verdict.NOT_RUN
    ]  # fmt: skip
    header = [
        "gate", "for", "verdict", "value", "limit", *(name.replace("_", " ") for name in EVIDENCE), "samples",
        "semantics", "mask requested", "mask executed", "server chunk", "items per sequence",
    ]  # fmt: skip
    return header, rows


def published(matrix: Matrix) -> Rows:
    """Header and rows: this run's contract below the published ones."""
    header, own = contract(matrix)
    rows = [[p.model, *(f"{value:g}" for value in p[1:6]), *(f"{value:.2f}" for value in p[6:])] for p in PUBLISHED]
    return header, rows + [[strong(name), *cells] for name, *cells in own]


def _is_backend_and_mask(place: Place) -> bool:
    return place.backend is not None and place.mask is not None
