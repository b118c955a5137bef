"""Where libtpu is, for the tests that need it."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent
#: Where `make tpu` installs it, apart from the environment.
APART = HERE.parents[1] / ".libtpu"


@pytest.fixture(scope="session")
def libtpu() -> Path | None:
    """The directory that libtpu is installed in apart; None where it is in the environment itself."""
    named = os.environ.get("MULTI_ITEM_TPU_LIBTPU")
    if named:
        return Path(named).absolute()
    if (APART / "libtpu").is_dir():
        return APART
    if importlib.util.find_spec("libtpu") is not None:
        return None
    pytest.skip("libtpu is not installed; `make tpu` installs it and runs these tests")
