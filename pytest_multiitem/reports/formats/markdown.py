"""``report.md``: a run for people, from its matrix alone."""

from __future__ import annotations

from pytest_multiitem.power.summary import matrix_of
from pytest_multiitem.reports import power, table, variants
from pytest_multiitem.reports.baseline import baseline
from pytest_multiitem.reports.blocks import bullets
from pytest_multiitem.reports.compile_gates import checks_table, gpu_checks_table
from pytest_multiitem.reports.formats import ReportFormat
from pytest_multiitem.reports.page import page
from pytest_multiitem.reports.scores import scores
from pytest_multiitem.results.details import Power
from pytest_multiitem.results.published import HARDWARE
from pytest_multiitem.results.records import Matrix
from pytest_multiitem.results.store import REPORT


def render(matrix: Matrix) -> str:
    """The report as Markdown."""
    environments = dict.fromkeys(", ".join(map(" ".join, server.packages.items())) for server in matrix.servers)
    measured_power = any(isinstance(record.details, Power) for record in matrix.gates)
    return page(
        "report",
        matrix=matrix,
        tables=table,
        own=variants.beside_variants(matrix.gates),
        variants=variants.table(matrix),
        variant_notes=[text for _, text in variants.notes(matrix)],
        variant_facts=variants.facts(matrix),
        counts=", ".join(f"{n} {v}" for v, n in matrix.summary.items() if n) or "no gate was selected",
        compiled=checks_table(matrix),
        compiled_for_gpus=gpu_checks_table(matrix),
        baseline=baseline(matrix.gates),
        scores=scores(matrix.gates),
        power=power.tables(matrix_of(matrix.gates)) if measured_power else None,
        hardware=HARDWARE,
        environments=bullets(f"the engine's own environment: {packages}" for packages in environments if packages),
        facts={**matrix.machine, **matrix.versions},
    )


FORMAT = ReportFormat("markdown", REPORT, render)
