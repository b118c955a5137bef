"""Where generated checkpoints and compiled programs are kept from run to run."""

from __future__ import annotations

import os
from pathlib import Path

from pytest_multiitem.errors import UsageError
from pytest_multiitem.storage import try_writing, writing

VARIABLE = "MULTIITEM_CACHE_DIR"


def cache_directory() -> Path:
    """``MULTIITEM_CACHE_DIR``, else ``pytest-multiitem`` under the user's cache directory.

    Raises UsageError for a user without a home directory.
    """
    explicit = os.environ.get(VARIABLE)
    if explicit:
        return Path(explicit)
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "pytest-multiitem"
    except RuntimeError:
        raise UsageError(f"there is no home directory to keep generated checkpoints in; set {VARIABLE}") from None


def checkpoint_cache() -> Path:
    """The directory of the generated checkpoints, in which there is one already, or one can be made.

    Raises UsageError otherwise.
    """
    directory = cache_directory() / "checkpoints"
    with writing(directory, what="generated checkpoints to ", advice=f"choose another place with {VARIABLE}"):
        if not any(directory.glob("*/config.json")):  # a cache that was filled before may be read-only
            directory.mkdir(parents=True, exist_ok=True)
            try_writing(directory, 0)
    return directory
