"""The comparison inside a pytest run: one test a verdict, all from one measurement."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import pytest

from pytest_multiitem.comparison import gate_verdicts as verdicts
from pytest_multiitem.comparison.files import FILES
from pytest_multiitem.comparison.measuring.runner import compare
from pytest_multiitem.comparison.measuring.sides import check_settings
from pytest_multiitem.comparison.records import Outcome
from pytest_multiitem.errors import MultiItemError
from pytest_multiitem.gates.gate import Gate
from pytest_multiitem.progress import ProgressBar
from pytest_multiitem.reports.comparison import comparison_lines, publish
from pytest_multiitem.session.gate_check import GateCheck
from pytest_multiitem.session.gate_item import GateItem, Suite
from pytest_multiitem.session.part import Line, Part
from pytest_multiitem.session.session import session_of, shown_path
from pytest_multiitem.settings.settings import Settings


class ComparisonPart(Part):
    """``--compare``: measured by the first of its tests; what goes wrong then goes wrong for every one."""

    not_parallel = "--compare measures time, and pytest-xdist runs other tests beside it; run without -n"

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        super().__init__(config, settings)
        self._outcome: Outcome | None = None
        self._error: MultiItemError | None = None

    def check_settings(self) -> None:
        """Refuse what cannot be compared before a server is attached."""
        check_settings(self.settings)

    def items(self, session: pytest.Session) -> Iterable[GateItem]:
        """A test for every verdict that the comparison of the run's settings gives."""
        parent = Suite.from_parent(session, name="multiitem-comparison")
        for gate, place in verdicts.planned(self.settings):
            measure = partial(self._conclude, gate, place)
            yield GateItem.from_parent(parent, gate=gate.name, measure=measure, label=place)

    def artefacts(self) -> Iterable[Path]:
        """The comparison's record, which names its matrices."""
        return () if self._outcome is None else [self._outcome.directory / FILES[0]]

    def lines(self) -> Iterable[Line]:
        """The decision, and where the comparison's files are."""
        if self._outcome is not None:
            for text in ("", *comparison_lines(self._outcome.comparison)):
                yield text, {}
            if self._error is None:
                yield f"comparison: {shown_path(self._outcome.directory, self.config)}/", {}

    def _conclude(self, gate: Gate, place: verdicts.Place, check: GateCheck) -> None:
        check.conclude(verdicts.verdict(self._measured(), self.settings, gate, place))

    def _measured(self) -> Outcome:
        if self._error is not None:
            raise self._error
        if self._outcome is None:
            try:
                self._outcome = self._measure()
                if self._outcome.unwritten is not None:
                    raise self._outcome.unwritten
            except MultiItemError as error:
                self._error = error
                raise
        return self._outcome

    def _publish(self, outcome: Outcome) -> None:
        outcome.comparison.limitations = verdicts.limitations(session_of(self.config).ledger.records())
        publish(outcome)

    def _measure(self) -> Outcome:
        session = session_of(self.config)
        session.release_servers()  # what is timed now must not share the machine, nor an accelerator
        capture = self.config.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled(), ProgressBar() as bar:
            bar.print("")
            here = self.config.invocation_params.dir
            outcome = compare(self.settings, session.engine, here, bar, self._publish)
        session.ledger.score_matrices += [matrix for _, matrix in outcome.matrices]
        return outcome


PART = ComparisonPart
