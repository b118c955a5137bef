"""A profile matrix for people: a line a variant, a column a group of gates, and who is to blame below it."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_multiitem.gates.groups import GROUPS, group_of
from pytest_multiitem.reports.blocks import Rows
from pytest_multiitem.results.records import GateRecord, Matrix, VariantRecord
from pytest_multiitem.results.verdict import Verdict, rank, worst

#: Characters of a line that says who is to blame.
_LONGEST = 220


def of_variants(records: Sequence[GateRecord]) -> list[GateRecord]:
    """The verdicts on variants."""
    return [record for record in records if record.place.variant is not None]


def beside_variants(records: Sequence[GateRecord]) -> list[GateRecord]:
    """The verdicts of the run's own tests."""
    return [record for record in records if record.place.variant is None]


def table(matrix: Matrix) -> Rows:
    """Header and rows: a variant a row, a group of gates a column, with the worst verdict of the group; one that was
    not run says nothing beside one that was."""
    by_variant = _by_variant(matrix)
    groups = [
        group
        for group in GROUPS
        if any(group_of(record.gate) == group for records in by_variant.values() for record in records)
    ]
    rows = []
    for variant in matrix.variants:
        records = by_variant[variant.name]
        cells = [summed_up([r for r in records if group_of(r.gate) == group]) for group in groups]
        rows.append([variant.name, *("-" if cell is None else cell.value for cell in cells)])
    return ["variant", *groups], rows


def summed_up(records: Sequence[GateRecord]) -> Verdict | None:
    """The worst verdict of those that were run; NOT_RUN where none was; None without any."""
    if not records:
        return None
    return worst((r.verdict for r in records if r.verdict is not Verdict.NOT_RUN), of_none=Verdict.NOT_RUN)


def notes(matrix: Matrix) -> list[tuple[Verdict | None, str]]:
    """What the table does not say, a line each: of a variant that is wrong, the gate that shows it; of one that was not
    run, why; what no server told. The verdict that a line is about, where it is about one."""
    lines: list[tuple[Verdict | None, str]] = []
    by_variant = _by_variant(matrix)
    for variant in matrix.variants:
        records = by_variant[variant.name]
        overall = summed_up(records)
        if overall is Verdict.NOT_RUN:
            reasons = list(dict.fromkeys(_first_line(record.reason) for record in records))
            more = f" (and {len(reasons) - 1} further reasons)" if len(reasons) > 1 else ""
            lines.append((overall, _short(f"{variant.name}: NOT_RUN: {reasons[0]}", more)))
        elif overall not in (Verdict.PASS, None):
            bad = [r for r in records if r.verdict not in (Verdict.PASS, Verdict.NOT_RUN)]
            bad.sort(key=lambda record: rank(record.verdict))
            first = bad[0]
            where = "-".join(word for word in (first.place.backend, first.place.mask) if word is not None)
            text = f"{variant.name}: {first.verdict.value} {first.gate} ({where}): {_first_line(first.reason)}"
            lines.append((first.verdict, _short(text, f" (and {len(bad) - 1} more)" if bad[1:] else "")))
        if variant.untold and overall is not Verdict.NOT_RUN:
            lines.append((None, f"{variant.name}: the server does not tell {', '.join(variant.untold)}"))
    return lines


def facts(matrix: Matrix) -> Rows:
    """Header and rows: what each variant is, and what its server says of it."""
    rows = [
        [v.name, f"{v.engine} {v.engine_version or ''}".strip(), _varies(v),
         ", ".join(f"{name}={value}" for name, value in v.attested.items()) or "-", ", ".join(v.untold) or "-"]
        for v in matrix.variants
    ]  # fmt: skip
    return ["variant", "engine", "differs by", "the server says", "the server does not tell"], rows


def _varies(variant: VariantRecord) -> str:
    settings = [f"{name}={value}" for name, value in variant.settings.items()]
    return " ".join([*variant.flags, *settings, *(f"{name}=…" for name in variant.environment)]) or "-"


def _by_variant(matrix: Matrix) -> dict[str, list[GateRecord]]:
    found: dict[str, list[GateRecord]] = {variant.name: [] for variant in matrix.variants}
    for record in of_variants(matrix.gates):
        found.setdefault(str(record.place.variant), []).append(record)
    return found


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


def _short(text: str, more: str) -> str:
    return text + more if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…{more}"
