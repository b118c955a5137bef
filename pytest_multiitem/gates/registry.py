"""All gates by name: those of this package's modules, and those that a project adds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest_multiitem.gates as package
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


def required(settings: Settings) -> tuple[str, ...]:
    """The gates for which NOT_RUN fails a run; ``all`` are those that the run's options ask for."""
    if settings.require != (ALL,):
        return settings.require
    return tuple(name for name, gate in gates().items() if gate.asked_by is None or getattr(settings, gate.asked_by))


def gate_names() -> tuple[str, ...]:
    """The names of all gates."""
    return tuple(gates())
