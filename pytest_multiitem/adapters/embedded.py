"""The adapter of the embedded engine: this package's own server, run by this interpreter."""

from __future__ import annotations

import importlib.util
import sys

import pytest_multiitem
from pytest_multiitem.adapters.base import Neighbour, Profile
from pytest_multiitem.adapters.launched import LaunchedEngine
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
    allows_empty_items = True
    withstands_bad_requests = True
    neighbours = (
        Neighbour("/generate", {"text": "a", "sampling_params": {"max_new_tokens": 1}}),
        Neighbour("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1}),
        Neighbour("/health_generate"),
        Neighbour("/v1/models"),
    )
    flushes_cache = True

    def unavailable(self, profile: Profile, settings: Settings) -> str | None:
        """A backend needs its packages in this interpreter."""
        extra, packages = _PACKAGES[profile.backend]
        missing = [name for name in packages if importlib.util.find_spec(name) is None]
        if not missing:
            return None
        return (
            f"{' and '.join(missing)} not installed in {sys.executable}; "
            f"install with: pip install 'pytest-multiitem[{extra}]'"
        )

    def version(self, settings: Settings) -> str:
        """It ships with this package."""
        return pytest_multiitem.__version__

    def check_storage(self, settings: Settings) -> None:
        """Without a model of the user's, the generated checkpoint is served."""
        if settings.model is None and not settings.models:
            checkpoint_cache()

    def program(self, profile: Profile, settings: Settings) -> list[str]:
        """This package's server."""
        return [sys.executable, "-m", "pytest_multiitem.engine.serve"]

    def arguments(self, profile: Profile, settings: Settings) -> list[str]:
        """With the backend, of which ``transformers`` is the serial reference."""
        return ["--backend", profile.backend, *super().arguments(profile, settings)]


ENGINE = EmbeddedEngine()
