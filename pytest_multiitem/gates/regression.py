"""A run's timings against those of a saved baseline."""

from __future__ import annotations

from pytest_multiitem.gates.gate import Gate

NO_REGRESSION = Gate(
    "no_regression_vs_baseline",
    "every timing of a saved baseline against the same one of this run: there, comparable, and not slower than allowed",
    timing=True,
    rests_on="a confidence interval of each ratio",
    asked_by="baseline",
    no_column="it compares a run with an earlier one; measured by --baseline only",
    order=23,
)
GATES = (NO_REGRESSION,)
