"""A run's timings against those of a saved baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_multiitem.gates.base import Gate
from pytest_multiitem.results.records import GateRecord

if TYPE_CHECKING:
    from pytest_multiitem.baselines.judging import Judgement

NO_REGRESSION = Gate(
    "no_regression_vs_baseline",
    "every timing of a saved baseline against the same one of this run: there, comparable, and not slower than allowed",
    "holds",
    None,
    timing=True,
    asked_by="baseline",
)
GATES = (NO_REGRESSION,)


def record_of(judgement: Judgement) -> GateRecord:
    """The gate's record, with every timing's ratios and intervals in its details."""
    return GateRecord(
        gate=NO_REGRESSION.name,
        verdict=judgement.verdict,
        reason=judgement.reason,
        relation=NO_REGRESSION.relation,
        samples={"timings": len(judgement.cells), "compared": sum(bool(cell.ratios) for cell in judgement.cells)},
        details=judgement.details(),
    )
