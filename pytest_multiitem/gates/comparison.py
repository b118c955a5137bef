"""The gates of the cross-backend comparison beside those of parity; who measures it says whether they hold."""

from __future__ import annotations

from functools import partial

from pytest_multiitem.gates.gate import Gate

_difference = partial(Gate, relation="<=", limit=0.02, evidence=frozenset({"noise_floor", "score_spread"}))
_NO_COLUMN = "delimiter_aligned_equiv_le_0p02 on the comparison's own workload"

COMPARISON_MEASURED = Gate(
    "comparison_measured",
    "every row of every side was measured, on the path that was asked for",
    rests_on="every side that was asked for",
    asked_by="compare",
    no_column="it judges whether a comparison was carried out; measured by --compare only",
    order=18,
)
OWN_REFERENCE_MAX_ABS = _difference(
    "own_reference_max_abs_le_0p02",
    "max abs score difference between a side of the comparison and its own serial reference",
    asked_by="compare",
    no_column=_NO_COLUMN,
    order=19,
)
OWN_REFERENCE_MEAN_ABS = _difference(
    "own_reference_mean_abs_le_0p01",
    "mean abs score difference between a side of the comparison and its own serial reference",
    limit=0.01,
    asked_by="compare",
    no_column=_NO_COLUMN,
    order=20,
)
GATES = (COMPARISON_MEASURED, OWN_REFERENCE_MAX_ABS, OWN_REFERENCE_MEAN_ABS)
