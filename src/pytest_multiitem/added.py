"""Tests that the plugin adds to a run because its options ask for them; they need no test of the project's."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Self

import pytest

from pytest_multiitem.errors import MultiItemError
from pytest_multiitem.state import SETTINGS

if TYPE_CHECKING:
    from pytest_multiitem.checks import GateCheck

ADDED: pytest.StashKey[list[GateItem]] = pytest.StashKey()


class Suite(pytest.Collector):
    """The file that the added tests seem to be in."""

    items: Sequence[GateItem] = ()

    def collect(self) -> Iterable[GateItem]:
        """The added tests."""
        return self.items


class GateItem(pytest.Item):
    """A test that gives the verdict of one gate.

    ``measure`` ends it by a method of the `GateCheck` that it is given. ``required``: whether NOT_RUN fails it,
    as --require does.
    """

    def __init__(
        self, *, gate: str, measure: Callable[[GateCheck], object], required: bool = False, **given: object
    ) -> None:
        super().__init__(**given)  # type: ignore[arg-type]
        self.add_marker(pytest.mark.multiitem_gate(gate))
        self.gate = gate
        self.required = required
        self._measure = measure

    @classmethod
    def make(
        cls,
        suite: Suite,
        gate: str,
        measure: Callable[[GateCheck], object],
        *,
        label: str | None = None,
        required: bool = False,
    ) -> Self:
        """The test ``SUITE::GATE[LABEL]``."""
        name = gate if label is None else f"{gate}[{label}]"
        return cls.from_parent(
            suite, name=name, nodeid=f"{suite.name}::{name}", gate=gate, measure=measure, required=required
        )

    def runtest(self) -> None:
        """Measure; what cannot be measured is a FAIL."""
        from pytest_multiitem.checks import GateCheck
        from pytest_multiitem.registration import session_of

        session = session_of(self.config)
        session.heed_termination()
        check = GateCheck(self.gate, self, session)
        try:
            self._measure(check)
        except MultiItemError as error:
            check.fail(str(error))

    def reportinfo(self) -> tuple[os.PathLike[str], int | None, str]:
        """The suite as its file, and a line: pytest wants one of a test that is skipped by a marker."""
        assert self.parent is not None
        return self.path / self.parent.name, 0, self.name


def suite(session: pytest.Session, name: str) -> Suite:
    """The file that added tests stand under."""
    return Suite.from_parent(session, name=name, nodeid=name)


def added_items(session: pytest.Session) -> list[GateItem]:
    """The tests that the run's options ask for: after all others, and in the order in which they stand here."""
    settings = session.config.stash[SETTINGS]
    items: list[GateItem] = []
    if settings.power:
        from pytest_multiitem.power.items import power_items

        items += power_items(session)
    if settings.compare:
        from pytest_multiitem.comparison.items import comparison_items

        items += comparison_items(session)
    if settings.baseline is not None:  # last: it judges what all others have timed
        from pytest_multiitem.baselines.item import baseline_items

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
