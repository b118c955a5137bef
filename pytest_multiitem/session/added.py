"""Tests that the plugin adds to a run because its options ask for them; they need no test of the project's."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pytest_multiitem.session.part import PARTS

_ADDED: pytest.StashKey[list[pytest.Item]] = pytest.StashKey()


def add(session: pytest.Session, items: list[pytest.Item]) -> None:
    """Add them to the collected tests, after all others, and to pytest's count of these."""
    added = [item for part in session.config.stash[PARTS] for item in part.items(session)]
    if not added:
        return
    from pytest_multiitem.session.gate_item import Suite  # a run without added tests does not wait for httpx

    session.config.stash[_ADDED] = added
    items += added
    for parent in dict.fromkeys(item.parent for item in added):
        assert isinstance(parent, Suite)
        parent.items = [item for item in added if item.parent is parent]
        report = pytest.CollectReport(parent.nodeid, "passed", None, [*parent.items])
        session.config.hook.pytest_collectreport(report=report)


def put_last(config: pytest.Config, items: list[pytest.Item]) -> Sequence[pytest.Item]:
    """Move the added tests to the end, and back into the run if another plugin has taken them out."""
    added = config.stash.get(_ADDED, [])
    if added:
        items[:] = [*(item for item in items if item not in added), *added]
    return added
