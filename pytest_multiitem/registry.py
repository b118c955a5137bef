"""What exists of one kind, by name: what the modules of a package define, and what a project adds."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import attrgetter
from types import MappingProxyType, ModuleType
from typing import Any, Generic, TypeVar

from pytest_multiitem.errors import UsageError, did_you_mean

T = TypeVar("T")
_name: Callable[[Any], str] = attrgetter("name")


class Registry(Generic[T]):
    """Engines, gates, faults or report formats: things with a ``name``.

    ``kind``: what one is called in messages. ``shipped``: finds those of this package, when first asked. ``key``: what
    they are ordered by; those that are equal stand as they came.
    """

    def __init__(
        self, kind: str, shipped: Callable[[], Iterable[T]], key: Callable[[T], Any] = lambda thing: 0
    ) -> None:
        self.kind = kind
        self._find = shipped
        self._key = key
        self._shipped: dict[str, T] | None = None
        self._added: list[dict[str, T]] = []

    def shipped(self) -> Mapping[str, T]:
        """Those of this package. Raises ValueError where two have one name."""
        if self._shipped is None:
            shipped: dict[str, T] = {}
            for thing in self._find():
                if shipped.setdefault(_name(thing), thing) is not thing:
                    raise ValueError(f"two {self.kind}s are called {_name(thing)}")
            self._shipped = shipped
        return MappingProxyType(self._shipped)

    def all(self) -> Mapping[str, T]:
        """All by name, those that projects add among them."""
        known = dict(self.shipped())
        for added in self._added:
            known |= added
        return MappingProxyType(dict(sorted(known.items(), key=lambda item: self._key(item[1]))))

    def choose(self, name: str) -> T:
        """The one that is called ``name``. Raises UsageError listing those that exist."""
        known = self.all()
        if name not in known:
            raise UsageError(
                f"no {self.kind} is called {name!r}; expected one of {', '.join(known)}{did_you_mean(name, known)}"
            )
        return known[name]

    def extend(self, things: Iterable[T]) -> Callable[[], None]:
        """Add what one run brings; returns what takes it out again. A run inside a run may bring the same.

        Raises UsageError for a name that two of them have, or one and one of this package.
        """
        added: dict[str, T] = {}
        for thing in things:
            name = _name(thing)
            if name in added or name in self.shipped():
                raise UsageError(f"two {self.kind}s are called {name}")
            added[name] = thing
        self._added.append(added)

        def undo() -> None:
            self._added[:] = [layer for layer in self._added if layer is not added]

        return undo


def modules_of(package: ModuleType) -> Iterator[ModuleType]:
    """Every module of a package, imported, by name."""
    for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda module: module.name):
        yield importlib.import_module(f"{package.__name__}.{module.name}")
