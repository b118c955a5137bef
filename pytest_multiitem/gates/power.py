"""The gates of the gates: what `power` plants, and whether it is seen."""

from __future__ import annotations

from pytest_multiitem.gates.gate import Gate

HEALTHY_PASSES = Gate(
    "healthy_build_passes",
    "a healthy build of the embedded engine passes every gate, under every circumstance that a fault is measured under",
    asked_by="power",
    no_column="it judges the gates, by this matrix",
    order=21,
)
FAULT_IS_KILLED = Gate(
    "fault_is_killed",
    "some gate fails on a build of the embedded engine with a planted fault",
    asked_by="power",
    no_column="it judges the gates, by this matrix",
    order=22,
)
GATES = (HEALTHY_PASSES, FAULT_IS_KILLED)
