"""``report.md``: a run for people, from its matrix alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import starmap

from pytest_multiitem.reports import table
from pytest_multiitem.reports.baseline import baseline
from pytest_multiitem.reports.blocks import escape, markdown_table, section
from pytest_multiitem.reports.tpu import checks_table
from pytest_multiitem.results.details import Power
from pytest_multiitem.results.published import HARDWARE, PUBLISHED, Published
from pytest_multiitem.results.records import EVIDENCE, GateRecord, Matrix, Verdict


def render(matrix: Matrix) -> str:
    """The report as Markdown."""
    sections = [
        _head(matrix),
        _gates(matrix.gates),
        _not_passed(matrix),
        section("TPU compile gate", markdown_table(*checks_table(matrix))),
        section("Speed-up", markdown_table(*table.curves(matrix))),
        section("Semantics", markdown_table(*table.semantics(matrix))),
        section("Benchmarks", markdown_table(*table.benchmarks(matrix))),
        section("Against the baseline", markdown_table(*baseline(matrix.gates))),
        _power(matrix),
        section("Beside published results", _published(matrix)),
        section("Evidence", _evidence(matrix.gates)),
        section("Servers", _servers(matrix)),
        section("Settings", _settings(matrix)),
        section("Machine and versions", _machine(matrix)),
    ]
    return "\n\n".join(part for part in sections if part) + "\n"


def _head(matrix: Matrix) -> str:
    counts = ", ".join(f"{n} {v}" for v, n in matrix.summary.items() if n) or "no gate was selected"
    lines = [
        "# Multi-item scoring validation",
        "",
        f"**{counts}** · exit status {matrix.exit_status} · {matrix.started_at_utc} to {matrix.finished_at_utc}",
        "",
        f"`{' '.join(matrix.command_line)}`",
    ]
    if not matrix.complete:
        lines += [
            "",
            f"**Incomplete run** ({matrix.interrupted_by or 'it ended before every test was reached'}).",
        ]
    return "\n".join(lines)


def _gates(records: Sequence[GateRecord]) -> str:
    pivot = markdown_table(*table.pivot(records))
    legend = f"In a cell: {table.LEGEND}." if pivot else ""
    return section("Gates", pivot, legend, markdown_table(*table.others(records)))


def _not_passed(matrix: Matrix) -> str:
    records = table.not_passed(matrix.gates)
    if not records:
        return ""
    lines = [f"- **{r.verdict.value}** `{r.gate}` ({table.where(r)}): {escape(r.reason)}" for r in records]
    return section("What is not a PASS", "\n".join(lines))


def _evidence(records: Sequence[GateRecord]) -> str:
    rows = [
        [
            r.gate,
            table.where(r),
            r.verdict.value,
            table.number(r.value),
            table.bound(r),
            *(table.number(getattr(r, name)) for name in EVIDENCE),
            ", ".join(f"{count} {what.replace('_', ' ')}" for what, count in r.samples.items()) or "-",
            r.semantics or "-",
            r.mask_requested or "-",
            r.mask_attested or "-",
            "-" if r.server_chunk_size is None else str(r.server_chunk_size or "all"),
            "-" if r.items_per_sequence is None else f"{r.items_per_sequence:.1f}",
        ]
        for r in records
        if r.verdict is not Verdict.NOT_RUN
    ]
    header = [
        "gate", "for", "verdict", "value", "limit", *(name.replace("_", " ") for name in EVIDENCE), "samples",
        "semantics", "mask requested", "mask executed", "server chunk", "items per sequence",
    ]  # fmt: skip
    return markdown_table(header, rows)


def _power(matrix: Matrix) -> str:
    """The kill matrix, where the run measured one."""
    if not any(isinstance(record.details, Power) for record in matrix.gates):
        return ""
    from pytest_multiitem.power.summary import matrix_of
    from pytest_multiitem.reports.power import sections

    return section("Power of the gates", *sections(matrix_of(matrix.gates)))


def _published(matrix: Matrix) -> str:
    header, own = table.contract(matrix)
    rows = [_published_row(p) for p in PUBLISHED] + [[f"**{name}**", *cells] for name, *cells in own]
    note = f"Published rows: {HARDWARE}. Rows in bold: this run."
    return markdown_table(header, rows) + f"\n\n{note}"


def _published_row(row: Published) -> list[str]:
    return [row.model, *(f"{value:g}" for value in row[1:6]), *(f"{value:.2f}" for value in row[6:])]


def _servers(matrix: Matrix) -> str:
    rows = []
    for server in matrix.servers:
        info = server.info or {}
        rows.append(
            [
                server.label,
                server.url,
                "started by this run" if server.owned else "attached",
                str(info.get("model_path", "-")),
                f"{info.get('dtype', '-')} on {info.get('device', '-')}",
                "`" + " ".join(server.command) + "`" if server.command else "-",
            ]
        )
    around = dict.fromkeys(", ".join(map(" ".join, server.packages.items())) for server in matrix.servers)
    parts = [
        markdown_table(["server", "address", "", "model", "precision", "command"], rows),
        "\n".join(f"- the engine's own environment: {packages}" for packages in around if packages),
    ]
    return "\n\n".join(part for part in parts if part)


def _settings(matrix: Matrix) -> str:
    return markdown_table(["setting", "value", "from"], [[s.name, s.value, s.origin] for s in matrix.settings])


def _machine(matrix: Matrix) -> str:
    facts = {**{k: str(v) for k, v in matrix.machine.items()}, **matrix.versions}
    return "\n".join(starmap("- {}: {}".format, facts.items()))
