"""Where Triton is, for the tests that need it."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent
#: Where `make gpu` installs it, apart from the environment.
APART = HERE.parents[1] / ".triton"


@pytest.fixture(scope="session")
def triton() -> Path | None:
    """The directory that Triton is installed in apart; None where it is in the environment itself."""
    named = os.environ.get("MULTI_ITEM_GPU_TRITON")
    if named:
        return Path(named).absolute()
    if (APART / "triton").is_dir():
        return APART
    if importlib.util.find_spec("triton") is not None:
        return None
    pytest.skip("Triton is not installed; `make gpu` installs it and runs these tests")
