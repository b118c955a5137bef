"""From the hooks of plugins into the registries of the rooms below; the same in pytest and on the command line."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pluggy
from pluggy import HookimplOpts

from pytest_multiitem.errors import UsageError
from pytest_multiitem.extensions import hookspec
from pytest_multiitem.registry import Registry

#: The group of entry points whose modules have hooks, as ``[project.entry-points.pytest_multiitem]`` names them.
ENTRY_POINTS = "pytest_multiitem"

#: The environment variable that names modules for the command line: ``MODULE,…``.
PLUGINS = "MULTI_ITEM_PLUGINS"

#: Where what a hook gives is kept. Imported by name, and only where a plugin has the hook: it takes half a second.
_REGISTRIES = {
    "pytest_multiitem_engines": "pytest_multiitem.adapters.base:ENGINES",
    "pytest_multiitem_gates": "pytest_multiitem.gates.registry:REGISTRY",
    "pytest_multiitem_faults": "pytest_multiitem.faults.catalogue:FAULTS",
    "pytest_multiitem_report_formats": "pytest_multiitem.reports.formats:FORMATS",
}


class _Modules(pluggy.PluginManager):
    """Plugins of the command line: of a plugin of pytest's, the hooks of this package alone."""

    def parse_hookimpl_opts(self, plugin: object, name: str) -> HookimplOpts | None:
        """A function that is named like a hook is one, marked or not, as pytest has it."""
        if name not in vars(hookspec) or not inspect.isfunction(getattr(plugin, name, None)):
            return None
        return super().parse_hookimpl_opts(plugin, name) or HookimplOpts(
            wrapper=False, hookwrapper=False, optionalhook=False, tryfirst=False, trylast=False, specname=None
        )


def load(manager: pluggy.PluginManager) -> Callable[[], None]:
    """Add what the plugins of a manager, and those of the entry-point group, bring; returns what takes it out again.

    Raises UsageError where two things of one kind have one name.
    """
    manager.load_setuptools_entrypoints(ENTRY_POINTS)
    brought: list[tuple[Registry[Any], list[Any]]] = []
    for name, place in _REGISTRIES.items():
        implementations = getattr(manager.hook, name).get_hookimpls()
        if implementations:
            registry = pkgutil.resolve_name(place)
            brought.append((registry, _brought(registry, implementations)))
    undone = ExitStack()
    for registry, things in brought:
        undone.callback(registry.extend(things))
    return undone.close


def load_modules(names: Sequence[str]) -> Callable[[], None]:
    """`load` the plugins that are these modules, found from the current directory on as well.

    Raises UsageError for one that cannot be imported.
    """
    manager = _Modules("pytest")
    manager.add_hookspecs(hookspec)
    if names and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    for name in names:
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            raise UsageError(
                f"plugin {name}: cannot import it: {error}; expected the dotted name of a module in the current "
                "directory or in this environment"
            ) from None
        if not manager.is_registered(module):
            manager.register(module, name)
    return load(manager)


def _brought(registry: Registry[Any], implementations: Iterable[Any]) -> list[Any]:
    """What all plugins bring for one registry. Raises UsageError where a name stands twice, or is missing."""
    origins = dict.fromkeys(registry.shipped(), "pytest-multiitem")
    things: list[Any] = []
    for implementation in implementations:
        for thing in implementation.function():
            name = getattr(thing, "name", None)
            if not isinstance(name, str) or not name:
                raise UsageError(f"{implementation.plugin_name} gives {thing!r} as a {registry.kind}, without a name")
            if name in origins:
                raise UsageError(
                    f"two {registry.kind}s are called {name!r}: one of {origins[name]}, one of "
                    f"{implementation.plugin_name}; rename one"
                )
            origins[name] = implementation.plugin_name
            things.append(thing)
    return things
