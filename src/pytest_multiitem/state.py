"""The keys under which the plugin keeps its state in pytest's stashes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_multiitem.options import Settings
    from pytest_multiitem.results.records import BenchmarkRecord, GateRecord
    from pytest_multiitem.session import Session

SETTINGS: pytest.StashKey[Settings] = pytest.StashKey()
SESSION: pytest.StashKey[Session] = pytest.StashKey()
RUN_DIR: pytest.StashKey[Path] = pytest.StashKey()
NOTES: pytest.StashKey[list[str]] = pytest.StashKey()
RECORDS: pytest.StashKey[list[GateRecord]] = pytest.StashKey()
BENCHMARKS: pytest.StashKey[list[BenchmarkRecord]] = pytest.StashKey()

#: Where an xdist worker leaves its plan for the controller, in the run's directory.
PLAN = ".plan.json"
#: The backend and the mask of a server that someone else started, as test ids show them.
ATTACHED = "attached"
#: The backend of the server that scores with transformers' own model.
REFERENCE = "transformers"
