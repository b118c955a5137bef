"""All gates by name: those of this package's modules, and those that a project adds."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from types import MappingProxyType

import pytest_multiitem.gates as package
from pytest_multiitem.errors import UsageError
from pytest_multiitem.gates.gate import Gate
from pytest_multiitem.scoring.vocabulary import EVERY_GATE
from pytest_multiitem.settings.settings import Settings

_added: list[Gate] = []


@cache
def gates() -> Mapping[str, Gate]:
    """Every gate, in the order that they state; those without one last, by their names. Raises UsageError for a name
    that two of them have."""
    found: dict[str, Gate] = {}
    for gate in sorted([*_own(), *_added], key=lambda gate: (gate.order, gate.name)):
        if gate.name in found:
            raise UsageError(f"two gates are called {gate.name}")
        found[gate.name] = gate
    return MappingProxyType(found)


def extend(more: Iterable[Gate]) -> Callable[[], None]:
    """Add gates for as long as this process runs, or until what is returned is called. Raises UsageError for a name
    that is taken, and adds none then."""
    before = [*_added]

    def undo() -> None:
        _added[:] = before
        gates.cache_clear()

    _added.extend(more)
    gates.cache_clear()
    try:
        gates()
    except UsageError:
        undo()
        raise
    return undo


def required(settings: Settings) -> tuple[str, ...]:
    """The gates for which NOT_RUN fails a run; ``all`` are those that the run's options ask for."""
    if settings.require != (EVERY_GATE,):
        return settings.require
    return tuple(name for name, gate in gates().items() if gate.asked_by is None or getattr(settings, gate.asked_by))


def gate_names() -> tuple[str, ...]:
    """The names of all gates."""
    return tuple(gates())


def _own() -> list[Gate]:
    """What the modules of this package define as ``GATES``."""
    names = [f"{package.__name__}.{module.name}" for module in pkgutil.iter_modules(package.__path__)]
    return [gate for name in names for gate in getattr(importlib.import_module(name), "GATES", ())]
