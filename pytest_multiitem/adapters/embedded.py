"""The adapter of the embedded engine: this package's own server, run by this interpreter."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import pytest_multiitem
from pytest_multiitem.adapters.base import Neighbour, Profile
from pytest_multiitem.adapters.installed import Installed, inspect
from pytest_multiitem.adapters.launched import LaunchedEngine
from pytest_multiitem.errors import EngineUnavailable
from pytest_multiitem.scoring.modes import MODES, ModeName
from pytest_multiitem.settings.cache import checkpoint_cache
from pytest_multiitem.settings.settings import Settings

_PACKAGES = {
    "pytorch": ("torch", ("torch", "transformers")),
    "jax": ("jax", ("jax", "jaxlib")),
    "transformers": ("torch", ("torch", "transformers")),
}


class EmbeddedEngine(LaunchedEngine):
    """`adapters.base.Engine` of ``multiitem serve``."""

    name = "embedded"
    package = "pytest_multiitem"
    #: Of servers that another interpreter than this one runs.
    interpreter: str | None = None
    allows_empty_items = True
    withstands_bad_requests = True
    neighbours = (
        Neighbour("/generate", {"text": "a", "sampling_params": {"max_new_tokens": 1}}),
        Neighbour("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1}),
        Neighbour("/health_generate"),
        Neighbour("/v1/models"),
    )
    flushes_cache = True
    bitwise = True
    modes = tuple(mode.name for mode in MODES if mode.name is not ModeName.GENERATIVE_SCORING)
    serves_heads = True

    def elsewhere(self, *, python: str | None = None, checkout: Path | None = None) -> Self:
        """Of this package as it is installed in that interpreter, or in this one."""
        other = super().elsewhere(python=python, checkout=checkout)
        other.interpreter = python or sys.executable
        return other

    def unavailable(self, profile: Profile, settings: Settings) -> str | None:
        """A backend needs its packages in the interpreter of the servers."""
        extra, packages = _PACKAGES[profile.backend]
        if self.interpreter is not None:
            return self._unavailable_elsewhere(self.interpreter, extra, packages)
        missing = [name for name in packages if importlib.util.find_spec(name) is None]
        if not missing:
            return None
        return (
            f"{' and '.join(missing)} not installed in {sys.executable}; "
            f"install with: pip install 'pytest-multiitem[{extra}]'"
        )

    def _unavailable_elsewhere(self, interpreter: str, extra: str, packages: tuple[str, ...]) -> str | None:
        try:
            found = self._installed(interpreter)
        except EngineUnavailable as error:
            return str(error)
        missing = [name for name in packages if name not in found.packages]
        if not missing:
            return None
        return (
            f"{' and '.join(missing)} not installed in {interpreter}; install with: {interpreter} -m pip install "
            f"'pytest-multiitem[{extra}]'"
        )

    def _installed(self, interpreter: str) -> Installed:
        around = tuple(name for _, names in _PACKAGES.values() for name in names)
        return inspect(interpreter, self.package, "", "pytest-multiitem", around, str(self.root or ""))

    def packages(self, settings: Settings) -> Mapping[str, str]:
        """What is installed in another interpreter; empty where it is this one."""
        return {} if self.interpreter is None else self._installed(self.interpreter).packages

    def version(self, settings: Settings) -> str:
        """It ships with this package."""
        return pytest_multiitem.__version__ if self.interpreter is None else self._installed(self.interpreter).version

    def check_storage(self, settings: Settings) -> None:
        """Without a model of the user's, the generated checkpoint is served."""
        if settings.model is None and not settings.models:
            checkpoint_cache()

    def program(self, profile: Profile, settings: Settings) -> list[str]:
        """This package's server."""
        return [self.interpreter or sys.executable, "-m", "pytest_multiitem.engine.serve"]

    def arguments(self, profile: Profile, settings: Settings) -> list[str]:
        """With the backend, of which ``transformers`` is the serial reference."""
        return ["--backend", profile.backend, *super().arguments(profile, settings)]


ENGINE = EmbeddedEngine()
