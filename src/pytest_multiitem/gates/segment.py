"""The segment path on the target accelerator: it must compile there and answer."""

from __future__ import annotations

from pytest_multiitem.gates.base import Gate

SEGMENT_LOWERS = Gate(
    "segment_lowers",
    "the segment path compiles for the target accelerator and answers",
    "holds",
    None,
)
GATES = (SEGMENT_LOWERS,)
