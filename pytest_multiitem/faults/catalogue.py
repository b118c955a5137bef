"""All faults by name: those in the modules of this package, and those that a project adds."""

from __future__ import annotations

import os
import pkgutil
import sys
from collections.abc import Iterator, Mapping

import pytest_multiitem.faults as package
from pytest_multiitem.errors import UsageError
from pytest_multiitem.faults.base import Fault
from pytest_multiitem.registry import Registry, modules_of

#: The environment variable that tells a server's process which faults a project has added: ``MODULE:CLASS,…``.
_VARIABLE = "MULTI_ITEM_FAULTS"


def _shipped() -> Iterator[type[Fault]]:
    yield from (kind for kind in _of_this_package() if not kind.healthy)
    yield from map(_imported, filter(None, os.environ.get(_VARIABLE, "").split(",")))


def _of_this_package() -> Iterator[type[Fault]]:
    names = {module.__name__ for module in modules_of(package)}
    yield from (kind for kind in _below(Fault) if kind.__module__ in names)


#: Every fault class, by the name of the fault.
FAULTS: Registry[type[Fault]] = Registry("fault", _shipped, key=lambda kind: kind.number or 1000)
#: What a healthy server may differ in, by name.
VARIATIONS: Registry[type[Fault]] = Registry("variation", lambda: (kind for kind in _of_this_package() if kind.healthy))


def catalogue() -> Mapping[str, type[Fault]]:
    """Every fault class by its name, in the order of the list; those beyond the list come last."""
    return FAULTS.all()


def fault(text: str) -> Fault:
    """The fault that a user names: ``NAME`` or ``NAME=STRENGTH``. Raises UsageError listing those that exist."""
    return _named(FAULTS, text)


def variation(text: str) -> Fault:
    """The variation of a healthy server that a user names, as :func:`fault`."""
    return _named(VARIATIONS, text)


def _named(registry: Registry[type[Fault]], text: str) -> Fault:
    name, equals, strength = text.strip().partition("=")
    return registry.choose(name).parse(strength if equals else None)


def server_environment() -> dict[str, str]:
    """What a server's process needs in its environment to know the faults that this one knows.

    It imports their modules from where this process finds them. Raises UsageError for a class that cannot be imported.
    """
    added = [kind for name, kind in catalogue().items() if name not in FAULTS.shipped()]
    for kind in added:
        if "<" in kind.__qualname__ or kind.__module__ == "__main__":
            raise UsageError(
                f"fault {kind.name} is {kind.__module__}.{kind.__qualname__}, which the process of a server cannot "
                "import; define it at the top level of a module"
            )
    if not added:
        return {}
    names = ",".join(f"{kind.__module__}:{kind.__qualname__}" for kind in added)
    return {_VARIABLE: names, "PYTHONPATH": os.pathsep.join(sys.path)}


def _imported(name: str) -> type[Fault]:
    try:
        kind: type[Fault] = pkgutil.resolve_name(name)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"{_VARIABLE}: cannot import the fault {name}: {error}; give it a module of its own") from None
    return kind


def _below(kind: type[Fault]) -> Iterator[type[Fault]]:
    """The named classes below one: those between are kinds of faults, not faults."""
    for each in kind.__subclasses__():
        if "name" in vars(each):
            yield each
        yield from _below(each)
