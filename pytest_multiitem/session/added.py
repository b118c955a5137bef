"""Tests that the plugin adds to a run because its options ask for them; they need no test of the project's."""

from __future__ import annotations

import pytest

from pytest_multiitem.session.gate_item import GateItem, Suite
from pytest_multiitem.session.keys import SETTINGS

ADDED: pytest.StashKey[list[GateItem]] = pytest.StashKey()


def added_items(session: pytest.Session) -> list[GateItem]:
    """The tests that the run's options ask for: after all others, and in the order in which they stand here."""
    settings = session.config.stash[SETTINGS]
    items: list[GateItem] = []
    if settings.power:
        from pytest_multiitem.session.parts.power import power_items

        items += power_items(session)
    if settings.compare:
        from pytest_multiitem.session.parts.comparison import comparison_items

        items += comparison_items(session)
    if settings.baseline is not None:  # last: it judges what all others have timed
        from pytest_multiitem.session.parts.baseline import baseline_items

        items += baseline_items(session)
    return items


def add(session: pytest.Session, items: list[pytest.Item]) -> None:
    """Add them to the collected tests, and to pytest's count of these."""
    added = added_items(session)
    if not added:
        return
    session.config.stash[ADDED] = added
    items += added
    for parent in dict.fromkeys(item.parent for item in added):
        assert isinstance(parent, Suite)
        parent.items = [item for item in added if item.parent is parent]
        report = pytest.CollectReport(parent.nodeid, "passed", None, [*parent.items])
        session.config.hook.pytest_collectreport(report=report)


def put_last(config: pytest.Config, items: list[pytest.Item]) -> list[GateItem]:
    """Move the added tests to the end, and back into the run if another plugin has taken them out."""
    added = config.stash.get(ADDED, [])
    if added:
        items[:] = [*(item for item in items if item not in added), *added]
    return added
