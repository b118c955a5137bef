"""What a kill matrix measures: every build, and which of them are measured together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_multiitem.adapters.embedded import ENGINE as EMBEDDED
from pytest_multiitem.errors import UsageError
from pytest_multiitem.faults.base import Fault
from pytest_multiitem.faults.catalogue import VARIATIONS, catalogue, fault
from pytest_multiitem.settings.settings import Settings


@dataclass(frozen=True, eq=False)
class Planned:
    """A build that is to be measured. ``fault``: may be a variation, which is healthy. ``expects``: a healthy build
    passes, a fault at its default strength, or at another threshold, is killed; nothing is expected of a weaker one.
    ``further``: the fault is measured at its default strength as well; gates that saw nothing there are not asked
    again."""

    backend: str
    fault: Fault | None = None
    circumstances: Mapping[str, Any] = field(default_factory=dict)
    expects: bool = True
    further: bool = False

    @property
    def healthy(self) -> bool:
        """Whether no gate may fail on it."""
        return self.fault is None or self.fault.healthy

    @property
    def label(self) -> str:
        """The fault as a user types it, or "healthy" with its circumstances or its variation."""
        if self.fault is not None:
            return f"healthy, {self.fault.label}" if self.fault.healthy else self.fault.label
        return ", ".join(["healthy", *(f"{name.replace('_', ' ')} {v}" for name, v in self.circumstances.items())])


def plan(settings: Settings) -> list[Planned]:
    """Every build of the settings' faults and backends: healthy ones, faults at their default strength, weaker ones.

    A healthy build stands beside every set of circumstances under which some fault is measured, and, where the settings
    name no faults, one of every variation. What is expected of a
    strength that the user names is what is expected of a default.
    """
    number, parts = map(int, settings.power_part.split("/"))
    of_part = slice(number - 1, None, parts)
    kinds = [] if settings.power_faults else [kind for kind in catalogue().values() if kind.planned][of_part]
    chosen = [fault(text) for text in settings.power_faults][of_part] or [kind() for kind in kinds]
    variations = [] if settings.power_faults else [kind() for kind in VARIATIONS.all().values()]
    weaker = [kind(strength) for kind in kinds for strength in kind.strengths[1:]]
    # A shorter wait is no circumstance of a healthy server's scores.
    circumstances: list[dict[str, Any]] = [{}]
    for each in chosen:
        if not each.circumstances.get("request_timeout") and each.circumstances not in circumstances:
            circumstances.append(each.circumstances)
    return [
        *(Planned(backend, None, given) for given in circumstances for backend in settings.backend),
        *(Planned(backend, varied) for varied in variations for backend in settings.backend),
        *(Planned(backend, f, f.circumstances) for f in chosen for backend in settings.backend),
        *(
            Planned(backend, f, f.circumstances, expects=f.thresholds and f.strength not in f.beyond, further=True)
            for f in weaker
            for backend in settings.backend
        ),
    ]


def check_settings(settings: Settings) -> None:
    """Raises UsageError for settings under which no fault can be planted."""
    if settings.engine != EMBEDDED.name or settings.multi_url or settings.serial_url:
        raise UsageError(
            "faults are mutants of the embedded engine; leave --engine, --multi-url and --serial-url out. Before "
            "another server, put the faults of the wire: multiitem proxy --upstream URL --fault NAME"
        )
    check_faults(settings)


def check_faults(settings: Settings) -> None:
    """Raises UsageError for a fault that ``--power-faults`` names and that there is not, or not at that strength, and
    for a ``--power-part`` without a fault."""
    for text in settings.power_faults:
        try:
            fault(text)
        except UsageError as error:
            raise settings.invalid("power_faults", text, str(error)) from None
    if not any(each.fault is not None and not each.healthy for each in plan(settings)):
        raise settings.invalid(
            "power_part", settings.power_part, "no fault is in that part, so nothing would be proved; take fewer parts"
        )


def groups(planned: Sequence[Planned]) -> list[list[Planned]]:
    """The builds that are measured together, in their order: those of one fault on one backend, since gates that saw
    nothing of a strong one are not asked about a weak one. Every healthy build is alone."""
    kinds: dict[object, list[Planned]] = {}
    for each in planned:
        of_fault = each.fault is not None and not each.healthy
        kinds.setdefault((each.backend, type(each.fault)) if of_fault else each, []).append(each)
    return list(kinds.values())
