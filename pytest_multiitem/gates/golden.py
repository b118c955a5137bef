"""A run's scores against those that were saved of an earlier one."""

from __future__ import annotations

from pytest_multiitem.gates.gate import Gate

SCORES_AS_SAVED = Gate(
    "scores_as_saved",
    "every saved score against the one that this run gives the same item: there, of the same workload, labels, "
    "delimiter and semantics, and no further away than rounding",
    rests_on="a saved score of every item, and the noise floors of both runs",
    asked_by="scores",
    no_column="it compares a run with an earlier one; measured by --scores only",
    order=24,
)
GATES = (SCORES_AS_SAVED,)
