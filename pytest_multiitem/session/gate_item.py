"""A test that gives the verdict of one gate, without a function of a project's."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

import pytest

from pytest_multiitem.errors import MultiItemError
from pytest_multiitem.results.records import Place
from pytest_multiitem.session.gate_check import GateCheck
from pytest_multiitem.session.keys import REQUIRED_BY
from pytest_multiitem.session.session import session_of


class Suite(pytest.Collector):
    """The file that the added tests seem to be in; they join the run when all others are collected."""

    def __init__(self, name: str, parent: pytest.Session) -> None:
        super().__init__(name, parent, nodeid=name)

    def collect(self) -> Iterable[pytest.Item]:
        """Nothing: nobody collects it."""
        return ()


class GateItem(pytest.Item):
    """The test ``SUITE::GATE[LABEL]``, which gives the verdict of one gate.

    ``measure`` ends it by a method of the `GateCheck` that it gets. ``required_by``: for what NOT_RUN fails it, as
    --require does. ``place``: which of the gate's tests it is; None: the label says it all.
    """

    def __init__(
        self,
        parent: Suite,
        gate: str,
        measure: Callable[[GateCheck], None],
        label: str,
        required_by: str | None = None,
        place: Place | None = None,
    ) -> None:
        name = f"{gate}[{label}]"
        super().__init__(name, parent, nodeid=f"{parent.name}::{name}")
        self.add_marker(pytest.mark.multiitem_gate(gate))
        self.gate = gate
        self.place = place or Place(label=label)
        self._measure = measure
        if required_by is not None:
            self.stash[REQUIRED_BY] = required_by

    def runtest(self) -> None:
        """Measure; what cannot be measured is judged by why."""
        session = session_of(self.config)
        check = GateCheck(self.gate, self, session)
        try:
            self._measure(check)
        except MultiItemError as error:
            check.failed(error)

    def reportinfo(self) -> tuple[os.PathLike[str], int | None, str]:
        """The suite as its file, and a line: pytest wants one of a test that is skipped by a marker."""
        assert self.parent is not None
        return self.path / self.parent.name, 0, self.name
