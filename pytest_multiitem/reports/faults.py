"""The list of all faults, as a user reads it."""

from __future__ import annotations

from collections.abc import Mapping

from pytest_multiitem.faults.base import Fault, WireFault
from pytest_multiitem.reports.blocks import terminal_table


def listing(faults: Mapping[str, type[Fault]]) -> str:
    """A table, a line each, and how many there are."""
    rows = [
        (f"F{kind.number}" if kind.number else "-", name, layer(kind),
         ", ".join(f"{strength:g}" for strength in kind.strengths) or "-", kind.about(), kind.seen)
        for name, kind in faults.items()
    ]  # fmt: skip
    table = terminal_table(("row", "fault", "layer", "strengths", "what such a server does", "seen"), rows)
    wire = sum(issubclass(kind, WireFault) for kind in faults.values())
    return "\n".join([*table, f"{len(faults)} faults: {len(faults) - wire} of the engine, {wire} of the wire", ""])


def layer(kind: type[Fault]) -> str:
    """Where a fault is: inside the embedded engine, or on the wire before any server."""
    return "wire" if issubclass(kind, WireFault) else "engine"
