"""The comparison inside a pytest run: one test a verdict, all from one measurement."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from pytest_multiitem.comparison import verdicts
from pytest_multiitem.comparison.measuring.runner import compare
from pytest_multiitem.comparison.records import Outcome
from pytest_multiitem.errors import MultiItemError
from pytest_multiitem.gates.gate import Gate
from pytest_multiitem.progress import ProgressBar
from pytest_multiitem.reports.comparison import publish
from pytest_multiitem.session.current import session_of
from pytest_multiitem.session.gate_item import GateItem, suite
from pytest_multiitem.session.keys import SETTINGS
from pytest_multiitem.session.session import Session

if TYPE_CHECKING:
    from pytest_multiitem.session.gate_check import GateCheck


def comparison_items(session: pytest.Session) -> list[GateItem]:
    """A test for every verdict that the comparison of the run's settings gives."""
    once = _Once(session.config)
    parent = suite(session, "multiitem-comparison")

    def measure(gate: Gate, place: verdicts.Place) -> Callable[[GateCheck], object]:
        def conclude(check: GateCheck) -> None:
            check.conclude(verdicts.verdict(once.outcome(), session.config.stash[SETTINGS], gate, place))

        return conclude

    return [
        GateItem.make(parent, gate.name, measure(gate, place), label=place)
        for gate, place in verdicts.planned(session.config.stash[SETTINGS])
    ]


class _Once:
    """Measures at the first asking; what went wrong then goes wrong for every test."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._error: MultiItemError | None = None

    def outcome(self) -> Outcome:
        session: Session = session_of(self._config)
        if self._error is not None:
            raise self._error
        if session.comparison is None:
            session.release_servers()  # what is timed now must not share the machine, nor an accelerator
            capture = self._config.pluginmanager.getplugin("capturemanager")
            try:
                with capture.global_and_fixture_disabled(), ProgressBar() as bar:
                    bar.print("")
                    base = self._config.invocation_params.dir
                    session.comparison = compare(session.settings, session.engine, base, bar, publish)
            except MultiItemError as error:
                self._error = error
                raise
        return session.comparison
