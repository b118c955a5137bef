"""The faults that one server has: those of its engine, and those of its wire."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_multiitem.faults.base import AsgiApp, Fault, S, ScorerFault, WireFault
from pytest_multiitem.faults.catalogue import fault


@dataclass(frozen=True)
class ActiveFaults:
    """Faults in the order in which they were asked for."""

    faults: tuple[Fault, ...]

    @classmethod
    def parse(cls, texts: Sequence[str]) -> ActiveFaults:
        """The faults that a user names (``NAME`` or ``NAME=STRENGTH``). Raises UsageError for one that is none."""
        return cls(tuple(fault(text) for text in texts))

    @property
    def labels(self) -> list[str]:
        """Each fault as a user types it."""
        return [fault.label for fault in self.faults]

    def scorer(self, base: type[S]) -> type[S]:
        """``base``, a scorer, with the faults of the engine; a later one stands in front of those before it."""
        for each in self.faults:
            if isinstance(each, ScorerFault):
                base = each.scorer(base)
        return base

    def before(self, app: AsgiApp) -> AsgiApp:
        """``app`` with the faults of the wire in front of it; a later one stands before those asked for earlier."""
        for each in self.faults:
            if isinstance(each, WireFault):
                app = each.wrap(app)
        return app
