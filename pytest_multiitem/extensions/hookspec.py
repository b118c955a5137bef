"""What a project may add, by hooks in its conftest, a plugin, or a module of the entry-point group.

Those that take no argument are asked once, before the first test is collected or the command runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:  # the plugin hands these specifications to pytest; what they name takes half a second to import
    import pytest

    from pytest_multiitem.adapters.base import Engine
    from pytest_multiitem.faults.base import Fault
    from pytest_multiitem.gates.gate import Gate
    from pytest_multiitem.reports.formats import ReportFormat
    from pytest_multiitem.results.records import Matrix

#: Marks a hook of pytest's, which is what these become.
hookspec = pluggy.HookspecMarker("pytest")


@hookspec
def pytest_multiitem_engines() -> list[Engine]:  # type: ignore[empty-body]
    """Return further engine adapters; ``--engine NAME`` selects one by its name."""


@hookspec
def pytest_multiitem_gates() -> list[Gate]:  # type: ignore[empty-body]
    """Return further gates; the marker ``multiitem_gate`` and ``--require`` take their names."""


@hookspec
def pytest_multiitem_faults() -> list[type[Fault]]:  # type: ignore[empty-body]
    """Return further faults, as classes at the top level of a module, which the processes of servers import."""


@hookspec
def pytest_multiitem_report_formats() -> list[ReportFormat]:  # type: ignore[empty-body]
    """Return further formats of a run's report; every run writes them."""


@hookspec
def pytest_multiitem_update_matrix(config: pytest.Config, matrix: Matrix) -> None:
    """Edit the run's matrix before it is validated and written: add fields to ``details``, for example."""
