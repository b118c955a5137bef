"""The faults that one server has, those of its engine and those of its wire, and the variations of its engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_multiitem.faults.base import AsgiApp, Fault, ScorerFault, WireFault
from pytest_multiitem.faults.catalogue import fault, variation
from pytest_multiitem.scoring.steps import ScoringSteps


@dataclass(frozen=True)
class ActiveFaults:
    """Faults in the order in which they were asked for; ``variations``: what is no fault, nearest to the scorer."""

    faults: tuple[Fault, ...]
    variations: tuple[Fault, ...] = ()

    @classmethod
    def parse(cls, texts: Sequence[str], variations: Sequence[str] = ()) -> ActiveFaults:
        """The faults and variations that a user names (``NAME`` or ``NAME=STRENGTH``). Raises UsageError for one that
        is none."""
        return cls(tuple(map(fault, texts)), tuple(map(variation, variations)))

    @property
    def labels(self) -> list[str]:
        """Each fault as a user types it; no variation is one."""
        return [fault.label for fault in self.faults]

    @property
    def varied(self) -> list[str]:
        """Each variation as a user types it."""
        return [each.label for each in self.variations]

    def mutate(self, scorer: ScoringSteps) -> ScoringSteps:
        """A scorer with the faults of the engine in front of it; a later one stands before those asked for earlier."""
        for each in (*self.variations, *self.faults):
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
