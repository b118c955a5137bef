"""All faults by name, found in the modules of this package."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from functools import cache
from types import MappingProxyType

import pytest_multiitem.faults as package
from pytest_multiitem.errors import UsageError, did_you_mean
from pytest_multiitem.faults.base import Fault


@cache
def catalogue() -> Mapping[str, type[Fault]]:
    """Every fault class by its name, in the order of the list; those beyond the list come last."""
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    found: dict[str, type[Fault]] = {}
    for kind in sorted(_below(Fault), key=lambda kind: kind.number or 1000):
        if kind.name in found:
            raise ValueError(f"two faults are called {kind.name}")
        found[kind.name] = kind
    return MappingProxyType(found)


def fault(text: str) -> Fault:
    """The fault that a user names: ``NAME`` or ``NAME=STRENGTH``. Raises UsageError listing those that exist."""
    name, equals, strength = text.strip().partition("=")
    known = catalogue()
    if name not in known:
        raise UsageError(f"no fault is called {name!r}; expected one of {', '.join(known)}{did_you_mean(name, known)}")
    return known[name].parse(strength if equals else None)


def _below(kind: type[Fault]) -> Iterator[type[Fault]]:
    """The named classes below one: those between are kinds of faults, not faults."""
    for each in kind.__subclasses__():
        if "name" in vars(each):
            yield each
        yield from _below(each)
