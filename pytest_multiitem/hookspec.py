"""What a project may add to the plugin from its conftest or its own plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_multiitem.adapters.base import Engine
    from pytest_multiitem.results.records import Matrix


@pytest.hookspec
def pytest_multiitem_engines() -> list[Engine]:  # type: ignore[empty-body]
    """Return further engine adapters (`adapters.base.Engine`); ``--engine NAME`` selects one by its name."""


@pytest.hookspec
def pytest_multiitem_update_matrix(config: pytest.Config, matrix: Matrix) -> None:
    """Edit the run's matrix before it is validated and written: add fields to ``details``, for example."""
