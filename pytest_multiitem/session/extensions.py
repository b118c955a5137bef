"""What conftests, plugins and entry points bring to this run: taken in when first needed, taken out at its end."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_multiitem.errors import MultiItemError
from pytest_multiitem.extensions.loading import load

_UNLOAD: pytest.StashKey[Callable[[], None]] = pytest.StashKey()


def load_extensions(config: pytest.Config) -> None:
    """Make known what the hooks bring; once. A run that does not use the plugin never does."""
    if _UNLOAD in config.stash:
        return
    try:
        config.stash[_UNLOAD] = load(config.pluginmanager)
    except MultiItemError as error:
        raise pytest.UsageError(str(error)) from None


def unload_extensions(config: pytest.Config) -> None:
    """Forget it: another run may follow in this process."""
    if _UNLOAD in config.stash:
        config.stash[_UNLOAD]()
        del config.stash[_UNLOAD]
