"""What a gate is, and the evidence that its verdict rests on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Gate:
    """A release criterion. ``name`` is final: it appears in JSON, reports and CI.

    ``relation`` and ``limit``: when it holds. ``timing``: it measures time and needs the machine to
    itself. ``evidence``: which fields of `Evidence` a PASS must rest on. ``asked_by``: the setting that asks for it; a
    run without it does not measure the gate.
    """

    name: str
    measures: str
    relation: Literal["==", "<=", ">=", "holds"]
    limit: float | None
    timing: bool = False
    evidence: frozenset[str] = frozenset()
    asked_by: str | None = None


@dataclass(frozen=True)
class Evidence:
    """What was measured around a value; None where it was not.

    ``noise_floor``: how far quiet replays of a request move its scores. ``traffic_floor``: the same for a replay among
    other requests. ``leak_visibility``: how far a neighbour's tokens move a score, ``semantic_visibility``: how far the
    delimiter does, both on this model by the serial server alone. ``score_spread``: range of scores over the items.
    """

    noise_floor: float | None = None
    leak_visibility: float | None = None
    score_spread: float | None = None
    traffic_floor: float | None = None
    semantic_visibility: float | None = None

    @property
    def floor(self) -> float | None:
        """The larger floor: a difference below it may be noise. Not finite where one of them is not."""
        return larger_floor(self.noise_floor, self.traffic_floor)


def larger_floor(*floors: float | None) -> float | None:
    """The largest of the floors that were measured; one that is not finite comes before all others."""
    found = [floor for floor in floors if floor is not None]
    wrong = (floor for floor in found if not math.isfinite(floor))
    return next(wrong, max(found, default=None))
