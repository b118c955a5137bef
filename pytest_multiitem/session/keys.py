"""The keys under which the plugin keeps its state in pytest's stashes; others stand beside the type that they keep."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_multiitem.settings.settings import Settings

if TYPE_CHECKING:
    from pytest_multiitem.results.records import BenchmarkRecord, GateRecord

#: Of the config: the settings in force, and what the header says of options that another plugin owns.
SETTINGS: pytest.StashKey[Settings] = pytest.StashKey()
NOTES: pytest.StashKey[list[str]] = pytest.StashKey()

#: Of a test: the verdicts and benchmarks that it has given, and what requires its gate to run, apart from --require.
RECORDS: pytest.StashKey[list[GateRecord]] = pytest.StashKey()
BENCHMARKS: pytest.StashKey[list[BenchmarkRecord]] = pytest.StashKey()
REQUIRED_BY: pytest.StashKey[str] = pytest.StashKey()

#: The attribute of a test report that carries verdicts and benchmarks to the ledger.
REPORT_ATTRIBUTE = "multiitem"
