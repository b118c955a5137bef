"""What conftests, plugins and entry points bring to this run: taken in at its beginning, taken out at its end."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_multiitem.errors import MultiItemError
from pytest_multiitem.extensions.loading import load

_UNLOAD: pytest.StashKey[Callable[[], None]] = pytest.StashKey()


def load_extensions(config: pytest.Config) -> None:
    """Make known what the hooks bring, before a setting, a marker or a suite names it."""
    try:
        config.stash[_UNLOAD] = load(config.pluginmanager)
    except MultiItemError as error:
        raise pytest.UsageError(str(error)) from None


def unload_extensions(config: pytest.Config) -> None:
    """Forget it: another run may follow in this process."""
    config.stash.get(_UNLOAD, lambda: None)()
