"""A test that gives the verdict of one gate, without a function of a project's."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Self

import pytest

from pytest_multiitem.errors import MultiItemError

if TYPE_CHECKING:
    from pytest_multiitem.session.gate_check import GateCheck


class Suite(pytest.Collector):
    """The file that the added tests seem to be in."""

    items: Sequence[GateItem] = ()

    def collect(self) -> Iterable[GateItem]:
        """The added tests."""
        return self.items


class GateItem(pytest.Item):
    """A test that gives the verdict of one gate.

    ``measure`` ends it by a method of the `GateCheck` that it is given. ``required``: whether NOT_RUN fails it,
    as --require does. ``label``: which of the gate's tests it is.
    """

    label: str | None = None

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
        item = cls.from_parent(
            suite, name=name, nodeid=f"{suite.name}::{name}", gate=gate, measure=measure, required=required
        )
        item.label = label
        return item

    def runtest(self) -> None:
        """Measure; what cannot be measured is a FAIL."""
        from pytest_multiitem.session.current import session_of
        from pytest_multiitem.session.gate_check import GateCheck

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
