"""The gates as columns of the kill matrix: all that state how they are measured on a `Subject`."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_multiitem.gates.gate import Gate, Measurement
from pytest_multiitem.gates.registry import gates
from pytest_multiitem.power.builds import PACKED, Build
from pytest_multiitem.results.records import GateRecord
from pytest_multiitem.scoring.vocabulary import Part


@dataclass(frozen=True)
class Column:
    """``place``: the server that stands in the place of the packed one; None: the packed one itself."""

    gate: Gate
    place: Part | None = None

    @property
    def name(self) -> str:
        """``GATE``, or ``GATE[PLACE]``."""
        return self.gate.name if self.place is None else f"{self.gate.name}[{self.place}]"

    def measure(self, build: Build) -> Measurement | GateRecord:
        """Measure the gate on a build. Raises as `gates.subject.Subject` says."""
        assert self.gate.measure is not None  # it would be no column
        return self.gate.measure(build if self.place is None else build.instead(build.server(self.place)))

    def concerns(self, build: Build) -> bool:
        """Whether the verdict on a build can depend on what is special about it: its fault, or, of a healthy build, its
        circumstances. A healthy build without either is measured by every gate.

        Time is measured where a fault is about time: it needs the machine to itself, and far longer than scores.
        """
        mode = self.gate.mode
        if mode is not None and mode.value not in build.settings.mode:
            return False
        fault = build.fault
        if fault is None and not build.circumstances:
            return True
        if self.gate.timing and not (fault is not None and fault.timed):
            return False
        judged = self.gate.judged_parts(build.backend)
        if self.place is not None:
            judged = judged - {"multi"} | {self.place}
        return bool(judged & (PACKED if fault is None else fault.scope))


def columns() -> tuple[Column, ...]:
    """All columns, in the order of the report."""
    measured = [gate for gate in gates().values() if gate.measure is not None and gate.no_column is None]
    return tuple(Column(gate, place) for gate in measured for place in (None, *gate.also_on))


def not_measured() -> dict[str, str]:
    """The gates that are no column, with the reason."""
    measured = {column.gate.name for column in columns()}
    others = {name: gate.no_column for name, gate in gates().items() if name not in measured}
    return {name: reason or "it states no way to measure it" for name, reason in others.items()}
