"""The keys under which the plugin keeps its state in pytest's stashes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_multiitem.settings.settings import Settings

if TYPE_CHECKING:
    from pytest_multiitem.results.records import BenchmarkRecord, GateRecord
    from pytest_multiitem.settings.settings import Settings


#: The attribute of a test report that carries verdicts and benchmarks to the ledger.
REPORT_ATTRIBUTE = "multiitem"


SETTINGS: pytest.StashKey[Settings] = pytest.StashKey()


RUN_DIR: pytest.StashKey[Path] = pytest.StashKey()


NOTES: pytest.StashKey[list[str]] = pytest.StashKey()


RECORDS: pytest.StashKey[list[GateRecord]] = pytest.StashKey()


BENCHMARKS: pytest.StashKey[list[BenchmarkRecord]] = pytest.StashKey()


#: Where an xdist worker leaves its plan for the controller, in the run's directory.
PLAN = ".plan.json"
