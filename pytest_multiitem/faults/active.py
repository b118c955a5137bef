"""The faults that one server has: those of its engine, and those of its wire."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_multiitem.faults.base import AsgiApp, Fault, ScorerFault, WireFault
from pytest_multiitem.faults.catalogue import fault
from pytest_multiitem.scoring.steps import ScoringSteps


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

    def mutate(self, scorer: ScoringSteps) -> ScoringSteps:
        """A scorer with the faults of the engine in front of it; a later one stands before those asked for earlier."""
        for each in self.faults:
            if isinstance(each, ScorerFault):
                scorer = each.before(scorer)
        return scorer

    def before(self, app: AsgiApp) -> AsgiApp:
        """``app`` with the faults of the wire in front of it, and watched by those of the engine; a later one stands
        before those asked for earlier."""
        for each in self.faults:
            if isinstance(each, WireFault):
                app = each.wrap(app)
            elif isinstance(each, ScorerFault):
                app = each.watch(app)
        return app
