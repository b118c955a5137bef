"""A run on a page: its verdicts as a grid, the pictures of what was measured, and all evidence behind it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pytest_multiitem.power.summary import matrix_of
from pytest_multiitem.reports import compile_gates, table, variants
from pytest_multiitem.reports.baseline import baseline
from pytest_multiitem.reports.blocks import Rows
from pytest_multiitem.reports.html import power, scores, speed
from pytest_multiitem.reports.html.page import (
    Block,
    Cell,
    Chapter,
    Entry,
    Grid,
    Heading,
    Section,
    Table,
    Texts,
    css_of,
    gate_anchor,
)
from pytest_multiitem.reports.sentence import of_run, shortened
from pytest_multiitem.reports.table import bound, number, where
from pytest_multiitem.results.details import Power
from pytest_multiitem.results.published import HARDWARE
from pytest_multiitem.results.records import EVIDENCE, GateRecord, Matrix
from pytest_multiitem.results.verdict import rank

#: Verdicts that are shown with all their evidence; of more, the best ones are left out, and said to be.
_MOST_ENTRIES = 500
#: Servers that the grid of gates has a column for; with more there is a line a verdict.
_MOST_PLACES = 24
#: Verdicts that are named beside the reason that they share.
_NAMED = 4


def chapter(matrix: Matrix, title: str | None = None) -> Chapter:
    """A run, from its records alone."""
    made = Chapter(title or f"Run {matrix.run_id}", of_run(matrix), _facts(matrix))
    made.sections += [Section("Profile matrix", _variants(matrix), "The contract over launch variants: the worst "
                              "verdict of each group of gates.")]  # fmt: skip
    made.sections += verdicts(variants.beside_variants(matrix.gates))
    made.sections += [
        Section("Speed-up", speed.speedups(matrix.gates),
                "How much faster one request of N items is than N requests of one item."),
        Section("Packed and alone", scores.packed_and_alone(matrix.gates),
                "The score of every item, packed with others and alone. A right server puts every point on the line."),
        Section("Who sees whom", scores.who_sees_whom(matrix.gates),
                "Which item's content moves which item's score. An item must see the query and itself, nothing else."),
    ]  # fmt: skip
    if any(isinstance(record.details, Power) for record in matrix.gates):
        made.sections += power.sections(matrix_of(matrix.gates))
    made.sections += [
        Section("Benchmarks", _tables(("", table.benchmarks(matrix)))),
        Section("Against the baseline", _tables(("", baseline(matrix.gates)))),
        Section(
            "Compile gate",
            _tables(("", compile_gates.checks_table(matrix)), ("", compile_gates.gpu_checks_table(matrix))),
        ),
        Section("Semantics", _tables(("", table.semantics(matrix)))),
        Section("How far the evidence goes", _tables(("", table.not_tried(matrix.gates)))),
        Section("Every verdict", [*entries(matrix.gates)], "Each verdict with what it rests on."),
        Section(
            "Beside published results", _tables((f"Published: {HARDWARE}; below them this run", _published(matrix)))
        ),
        Section("How it was measured", _circumstances(matrix)),
    ]
    return made


def _variants(matrix: Matrix) -> list[Block]:
    if not matrix.variants:
        return []
    header, rows = variants.table(matrix)
    grid = [[Cell(row[0]), *(Cell(word, css_of(word) if word != "-" else "") for word in row[1:])] for row in rows]
    lines = [text for _, text in variants.notes(matrix)]
    blocks: list[Block] = [Grid("Variants and groups of gates", header, grid, heads=1)]
    blocks += [Texts(lines)] if lines else []
    return [*blocks, Table("What each variant is", variants.facts(matrix))]


def verdicts(records: Sequence[GateRecord]) -> list[Section]:
    """The grid of gates and places, and what is not a PASS."""
    places = list(dict.fromkeys(where(record) for record in records if record.place.mask is not None))
    if len(places) > _MOST_PLACES:
        places = []
    grid, single = [], []
    for gate in dict.fromkeys(record.gate for record in records):
        mine = [record for record in records if record.gate == gate]
        by_place = {where(record): record for record in reversed(table.worst_first(mine))}
        if any(place in by_place for place in places):
            cells = [_cell(by_place.get(place)) for place in places]
            grid.append([Cell(gate, to=gate_anchor(gate, None)), Cell(bound(mine[0])), *cells])
        others = [record for place, record in by_place.items() if place not in places]
        single += [[Cell(gate), Cell(bound(record)), Cell(where(record)), _cell(record)] for record in others]
    blocks: list[Block] = []
    if grid:
        blocks.append(Grid("Gates by server: the verdict and its value", ["gate", "holds when", *places], grid, 2))
    if len(single) > _MOST_ENTRIES:
        single.sort(key=lambda row: rank(row[-1].text.split(" ")[0]))
        del single[_MOST_ENTRIES:]
    if single:
        blocks.append(Grid("Gates between servers, or on one", ["gate", "holds when", "for", "verdict"], single, 3))
    lines = _reasons(table.not_passed(records))
    found = [Section("Gates", blocks)]
    if lines:
        more = [f"… and {len(lines) - 60} more"] if len(lines) > 60 else []
        found.append(Section("What is not a PASS", [Texts([*lines[:60], *more])]))
    return found


def _reasons(records: Sequence[GateRecord]) -> list[str]:
    """A line for each reason, with the verdicts that have it; the whole of it stands with each of these."""
    by_reason: dict[tuple[str, str], list[str]] = {}
    for record in records:
        by_reason.setdefault((record.verdict.value, record.reason), []).append(f"{record.gate} ({where(record)})")
    return [
        f"{verdict} {', '.join(names[:_NAMED])}"
        f"{f' and {len(names) - _NAMED} more' if len(names) > _NAMED else ''}: {shortened(reason)}"
        for (verdict, reason), names in by_reason.items()
    ]


def _cell(record: GateRecord | None) -> Cell:
    if record is None:
        return Cell("")
    return Cell(table.cell(record), css_of(record.verdict.value), gate_anchor(record.gate, record.place.label or "all"))


def entries(records: Sequence[GateRecord]) -> Iterable[Block]:
    """Every verdict to link to, by gate; of very many the worst."""
    chosen = records
    if len(records) > _MOST_ENTRIES:
        kept = {id(record) for record in table.worst_first(records)[:_MOST_ENTRIES]}
        chosen = [record for record in records if id(record) in kept]
    gates: dict[str, list[GateRecord]] = {}
    for record in chosen:
        gates.setdefault(record.gate, []).append(record)
    for gate, mine in gates.items():
        yield Heading(gate_anchor(gate, None), gate)
        yield from map(_entry, mine)
    if len(chosen) < len(records):
        yield Texts(
            [f"{len(records) - len(chosen)} further verdicts stand in the file alone; none is worse than those here"]
        )


def _entry(record: GateRecord) -> Entry:
    facts = [("reason", record.reason), ("holds when", bound(record))]
    facts += [("value", number(record.value))] if record.value is not None else []
    if record.interval is not None:
        facts.append(("95 % interval", " to ".join(map(number, record.interval))))
    for name in EVIDENCE:
        if (value := getattr(record, name)) is not None:
            facts.append((name.replace("_", " "), number(value)))
    for name in ("mask_requested", "mask_attested", "semantics", "model", "dtype", "now_passes", "nodeid"):
        if value := getattr(record, name):
            facts.append((name.replace("_", " "), str(value)))
    if record.samples:
        facts.append(("samples", ", ".join(f"{count} {name}" for name, count in record.samples.items())))
    label = record.place.label
    return Entry(
        gate_anchor(record.gate, label or "all"), label or "all", record.verdict.value,
        number(record.value) if record.value is not None else "", facts,
    )  # fmt: skip


def _facts(matrix: Matrix) -> list[tuple[str, str]]:
    counts = ", ".join(f"{count} {verdict}" for verdict, count in matrix.summary.items() if count)
    machine = matrix.machine
    return [
        ("verdicts", counts or "none"),
        ("measured", f"{matrix.started_at_utc} to {matrix.finished_at_utc}"),
        ("exit status", str(matrix.exit_status)),
        (
            "machine",
            ", ".join(str(machine[name]) for name in ("processor", "architecture") if machine.get(name)) or "-",
        ),
        ("command", " ".join(matrix.command_line)),
    ]


def _published(matrix: Matrix) -> Rows:
    if len({record.place.label for record in matrix.gates}) > 4 * _MOST_PLACES:
        return [], []  # a line a server would be no table
    header, own = table.contract(matrix)
    return header, [*table.published(matrix)[1][: -len(own) or None], *own]


def _tables(*named: tuple[str, Rows]) -> list[Block]:
    return [Table(caption, content) for caption, content in named if content[1]]


def _circumstances(matrix: Matrix) -> list[Block]:
    servers = [
        [server.label, server.url, "started by this run" if server.owned else "attached",
         str((server.info or {}).get("model_path", "-"))[:300], " ".join(server.command)[:1000] or "-"]
        for server in matrix.servers
    ]  # fmt: skip
    settings = [[setting.name, setting.value, setting.origin] for setting in matrix.settings]
    changed = [row for row in settings if row[2] != "default"]
    facts = [[name, str(value)] for name, value in {**matrix.machine, **matrix.versions}.items()]
    return [
        Table(caption, content, folded)
        for caption, content, folded in (
            ("Servers", (["server", "address", "how", "model", "command"], servers), False),
            ("Settings that are not the default", (["setting", "value", "from"], changed), False),
            ("All settings", (["setting", "value", "from"], settings), True),
            ("Machine and versions", (["what", "value"], facts), True),
        )
        if content[1]
    ]
