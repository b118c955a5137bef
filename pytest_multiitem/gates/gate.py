"""What a gate is, and what it measures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

from pytest_multiitem.errors import Origin
from pytest_multiitem.results.details import Details, Notes
from pytest_multiitem.results.records import Evidence, GateRecord
from pytest_multiitem.scoring.modes import ModeName
from pytest_multiitem.scoring.vocabulary import Part

if TYPE_CHECKING:  # the plugin knows all gates before it knows whether a server is needed
    from pytest_multiitem.adapters.attestation import Attestation
    from pytest_multiitem.gates.subject import Subject
    from pytest_multiitem.targets.target import Target


def magnitude(value: float) -> float:
    """What differences and floors are ordered by: one that is not finite comes before all others."""
    return value if math.isfinite(value) else math.inf


def larger_floor(*floors: float | None) -> float | None:
    """The largest of the floors that were measured; one that is not finite comes before all others."""
    return max((floor for floor in floors if floor is not None), key=magnitude, default=None)


@dataclass
class Measurement:
    """What a gate measured.

    ``problem``: something that makes the gate FAIL whatever the value. ``doubt``: something that
    keeps it from a PASS. ``unreachable``: of a ratio, why no server could reach the limit, so that a value below it
    decides nothing. ``holds``: of a gate without a limit, the reason why it holds.
    """

    target: Target
    value: float | None
    evidence: Evidence = field(default_factory=Evidence)
    attestation: Attestation | None = None
    interval: tuple[float, float] | None = None
    samples: dict[str, int] = field(default_factory=dict)
    details: Details = field(default_factory=Notes)
    problem: str | None = None
    doubt: str | None = None
    unreachable: str | None = None
    holds: str | None = None
    backend: str | None = None
    client_chunk_size: int | None = None


@dataclass(frozen=True)
class Gate:
    """A release criterion, stated once: suites, kill matrix, reports and docs take all they know of it from here.

    ``name`` is final: it appears in JSON, reports and CI. ``relation`` and ``limit``: when it holds.
    ``timing``: it measures time and needs the machine to itself. ``evidence``: which fields of `Evidence` a PASS must
    rest on; ``rests_on``: the same in words, where it is no such field. ``asked_by``: the setting that asks for it; a
    run without it does not measure the gate. ``order``: its place in tables; without one it comes last, by name.

    ``measure``: measures it, or judges it altogether; None where no server is measured for it. ``needs``: what it asks
    of the `Subject`, such as ``("multi", "opposite.serial")``. ``judges``: the servers that its verdict is about, by
    backend; all that it needs of its own backend where None. ``costly``: the kill matrix leaves it out of a build that
    other gates have seen to be wrong anyway. ``also_on``: servers that the kill matrix measures it on
    in the place of the packed one, each in a further column. ``is_control``: its verdict is about the other gates;
    what a server does to it is nobody's score. ``no_column``: why it is no column there. ``mode``: the way to ask for
    scores that it is about, where that is not plain ids. ``short``: its name at the head of a narrow column.
    ``about_packing``: it judges what packing brings, and an engine that does not pack has nothing to show.
    """

    name: str
    measures: str
    relation: Literal["==", "<=", ">=", "holds"] = "holds"
    limit: float | None = None
    _: KW_ONLY
    timing: bool = False
    evidence: frozenset[str] = frozenset()
    rests_on: str | None = None
    asked_by: str | None = None
    measure: Callable[[Subject], Measurement | GateRecord] | None = None
    needs: tuple[str, ...] = ()
    judges: Callable[[str], Sequence[Part]] | None = None
    also_on: tuple[Part, ...] = ()
    is_control: bool = False
    no_column: str | None = None
    mode: ModeName | None = None
    costly: bool = False
    about_packing: bool = False
    short: str | None = None
    order: float = math.inf

    @property
    def bound(self) -> str:
        """When it holds."""
        return self.relation if self.limit is None else f"{self.relation} {self.limit:g}"

    @property
    def pass_needs(self) -> str:
        """What a PASS rests on, in words."""
        return self.rests_on or ", ".join(sorted(self.evidence)).replace("_", " ")

    def is_about(self, origin: Origin) -> bool:
        """Whether a server is under test here, rather than the baseline or the reference that it is compared with."""
        packed = ("multi", "extend")
        if "serial" not in self.needs or any(part in self.needs for part in packed):
            return origin.role in packed
        is_opposite = "opposite.serial" in self.needs and origin.backend == "pytorch"
        return origin.role == "serial" and not (self.is_control or is_opposite)

    def judged_parts(self, backend: str) -> set[Part]:
        """The servers of a backend's subject that a verdict is about: a fault elsewhere cannot change it."""
        return set(self.judges(backend)) if self.judges else {part for part in get_args(Part) if part in self.needs}
