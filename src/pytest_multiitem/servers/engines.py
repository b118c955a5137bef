"""What an engine adapter provides, and all adapters by name; an adapter is one module beside this one."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Literal, Protocol

from pytest_multiitem.errors import UsageError
from pytest_multiitem.options import Settings
from pytest_multiitem.scoring.layout import Semantics
from pytest_multiitem.servers.process import LaunchSpec

Role = Literal["multi", "serial", "extend"]


@dataclass(frozen=True)
class Profile:
    """A server that a test asks for.

    ``role``: packed multi-item scoring, the serial baseline, or prefill+extend. ``mask_impl`` and
    ``chunk_size`` (items per packed sequence, 0 = all): of the multi role only. ``semantics``: what
    the server is declared to compute; None for the serial role.
    """

    role: Role
    backend: str
    mask_impl: str | None = None
    chunk_size: int | None = None
    semantics: Semantics | None = None

    @property
    def label(self) -> str:
        """For people: which server this is."""
        words = {"multi": "multi-item", "serial": "serial", "extend": "prefill+extend"}[self.role]
        chunk = "" if not self.chunk_size else f" chunk {self.chunk_size}"
        mask = "" if self.mask_impl is None else f" {self.mask_impl}"
        return f"{words} {self.backend}{mask}{chunk}"


class Engine(Protocol):
    """How one kind of server is started and what it can do."""

    name: str
    #: Whether an item without tokens may be sent.
    allows_empty_items: bool

    def unavailable(self, backend: str) -> str | None:
        """Why this backend cannot run here, and what to do about it; None where it can."""
        ...

    def launch(self, profile: Profile, settings: Settings) -> LaunchSpec:
        """The command that starts such a server."""
        ...


@cache
def shipped_engines() -> Mapping[str, Engine]:
    """Every adapter that ships (a module here that defines ``ENGINE``) by name."""
    import pytest_multiitem.servers as package

    found: dict[str, Engine] = {}
    for module in pkgutil.iter_modules(package.__path__):
        if module.name in ("guard", "engines"):  # guard runs as a program, not as a part of this package
            continue
        engine = getattr(importlib.import_module(f"{package.__name__}.{module.name}"), "ENGINE", None)
        if engine is not None:
            found[engine.name] = engine
    return MappingProxyType(found)


def choose_engine(name: str, further: Iterable[Engine] = ()) -> Engine:
    """The adapter called ``name``, shipped or added by the project.

    Raises UsageError listing those that exist.
    """
    known = {**shipped_engines(), **{engine.name: engine for engine in further}}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise UsageError(f"no engine is called {name!r}; expected one of {', '.join(known)}{hint}")
    return known[name]
