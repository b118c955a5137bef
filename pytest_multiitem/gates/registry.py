"""All gates by name, found in the modules of this package."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

import pytest_multiitem.gates as package
from pytest_multiitem.gates.gate import Gate
from pytest_multiitem.scoring.vocabulary import EVERY_GATE
from pytest_multiitem.settings.settings import Settings


@cache
def gates() -> Mapping[str, Gate]:
    """Every gate, in the order of its module's name and definition."""
    found: dict[str, Gate] = {}
    for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda m: m.name):
        defined: tuple[Gate, ...] = getattr(importlib.import_module(f"{package.__name__}.{module.name}"), "GATES", ())
        for gate in defined:
            if gate.name in found:
                raise ValueError(f"two gates are called {gate.name}")
            found[gate.name] = gate
    return MappingProxyType(found)


def required(settings: Settings) -> tuple[str, ...]:
    """The gates for which NOT_RUN fails a run; ``all`` are those that the run's options ask for."""
    if settings.require != (EVERY_GATE,):
        return settings.require
    return tuple(name for name, gate in gates().items() if gate.asked_by is None or getattr(settings, gate.asked_by))


def gate_names() -> tuple[str, ...]:
    """The names of all gates."""
    return tuple(gates())
