"""All gates by name: those of this package's modules, and those that a project adds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import pytest_multiitem.gates as package
from pytest_multiitem.errors import UsageError
from pytest_multiitem.gates.gate import Gate
from pytest_multiitem.registry import Registry, modules_of
from pytest_multiitem.scoring.vocabulary import ALL
from pytest_multiitem.settings.settings import Settings


def _shipped() -> Iterator[Gate]:
    for module in modules_of(package):
        yield from getattr(module, "GATES", ())


#: The gates of this package, and those that a project adds.
REGISTRY: Registry[Gate] = Registry("gate", _shipped, key=lambda gate: (gate.order, gate.name))


def gates() -> Mapping[str, Gate]:
    """Every gate, in the order that they state; those without one last, by their names."""
    return REGISTRY.all()


def check_known_elsewhere(names: Iterable[str]) -> None:
    """Raises UsageError for gates that only this process knows: the processes of a cluster have no plugins."""
    own = [name for name in names if name not in REGISTRY.shipped()]
    if own:
        raise UsageError(
            f"--executor: the nodes of a cluster do not know the gates that a project adds ({', '.join(own)}); measure "
            "with --executor local, or without the plugin that brings them"
        )


def required(settings: Settings) -> tuple[str, ...]:
    """The gates for which NOT_RUN fails a run; ``all`` are those that the run's options ask for: of a mode, where the
    user has named modes, since a server need not speak them all."""
    if settings.require != (ALL,):
        return settings.require
    named = settings.origins.get("mode", "default") != "default"
    return tuple(
        name
        for name, gate in gates().items()
        if (gate.asked_by is None or getattr(settings, gate.asked_by))
        and (gate.mode is None or named)
        and left_out(gate, settings) is None
    )


def left_out(gate: Gate, settings: Settings) -> str | None:
    """Why the options of a run leave out the mode of a gate, or servers that it compares with; None where they do
    not."""
    if gate.mode is not None and gate.mode.value not in settings.mode:
        return f"it is about mode {gate.mode.value}; the settings choose {', '.join(settings.mode)} only (--mode)"
    if "reference" in gate.needs and settings.reference == "none":
        return "it compares with transformers' own model; add --reference transformers"
    needed = next((name for name in gate.needs if name.startswith("opposite.")), None)
    if needed is None:
        return None
    stand_in = needed == "opposite.serial" and reference_stands_in(settings)
    if is_attached(settings) and not stand_in:
        return "it compares servers of both backends; this run is attached to servers of one"
    if is_attached(settings) and settings.backend != ("jax",):
        return "it is about a JAX server; say that the attached one is: --backend jax, or --engine sgl-jax"
    if "jax" not in settings.backend:
        return "it is about a JAX server; the settings choose pytorch only"
    if not stand_in and "pytorch" not in settings.backend:
        return (
            "it compares both backends; the settings choose jax only (--reference transformers stands in for PyTorch)"
        )
    return None


def is_attached(settings: Settings) -> bool:
    """Whether the run measures servers that someone else started."""
    return bool(settings.multi_url or settings.serial_url)


def reference_stands_in(settings: Settings) -> bool:
    """Whether transformers' own model is the PyTorch side."""
    alone = is_attached(settings) or "pytorch" not in settings.backend
    return settings.reference != "none" and alone


def gate_names() -> tuple[str, ...]:
    """The names of all gates."""
    return tuple(gates())
