"""A test that gives the verdict of one gate, without a function of a project's."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Self

import pytest

from pytest_multiitem.errors import MultiItemError
from pytest_multiitem.session.gate_check import GateCheck
from pytest_multiitem.session.keys import REQUIRED_BY
from pytest_multiitem.session.session import session_of


class Suite(pytest.Collector):
    """The file that the added tests seem to be in."""

    items: Sequence[pytest.Item] = ()

    def collect(self) -> Iterable[pytest.Item]:
        """The added tests."""
        return self.items


class GateItem(pytest.Item):
    """A test that gives the verdict of one gate: ``measure`` ends it by a method of the `GateCheck` that it gets."""

    label: str | None = None

    def __init__(self, *, gate: str, measure: Callable[[GateCheck], object], **given: object) -> None:
        super().__init__(**given)  # type: ignore[arg-type]
        self.add_marker(pytest.mark.multiitem_gate(gate))
        self.gate = gate
        self._measure = measure

    @classmethod
    def make(
        cls,
        suite: Suite,
        gate: str,
        measure: Callable[[GateCheck], object],
        *,
        label: str,
        required_by: str | None = None,
    ) -> Self:
        """The test ``SUITE::GATE[LABEL]``. ``required_by``: for what NOT_RUN fails it, as --require does."""
        name = f"{gate}[{label}]"
        item = cls.from_parent(suite, name=name, nodeid=f"{suite.name}::{name}", gate=gate, measure=measure)
        item.label = label
        if required_by is not None:
            item.stash[REQUIRED_BY] = required_by
        return item

    def runtest(self) -> None:
        """Measure; what cannot be measured is a FAIL."""
        session = session_of(self.config)
        session.handle_termination()
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
