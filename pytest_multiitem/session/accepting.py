"""A plugin of the pytest run that an acceptance starts: it writes where it is told to, and says how far it is.

``-p pytest_multiitem.session.accepting --multiitem-accepting DIR --multiitem-events FD --multiitem-origins JSON``:
every event is a JSON line on the file descriptor. Whoever reads them is waited for: when nobody does any more, the run
ends. The origins are an object: by setting, where the acceptance has it from.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pytest_multiitem.session.check_settings import ORIGINS
from pytest_multiitem.session.session import place_run
from pytest_multiitem.session.verdicts import carried, gate_of


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("multiitem acceptance", "multi-item scoring validation: for multiitem accept")
    group.addoption("--multiitem-accepting", metavar="DIR", help="where this run writes")
    group.addoption("--multiitem-events", metavar="FD", type=int, help="file descriptor that events are written to")
    group.addoption("--multiitem-origins", metavar="JSON", type=json.loads, help="where its settings come from")


@pytest.hookimpl(tryfirst=True)  # before the settings are read
def pytest_configure(config: pytest.Config) -> None:
    config.stash[ORIGINS] = config.getoption("--multiitem-origins") or {}
    place_run(config, Path(config.getoption("--multiitem-accepting")))
    config.pluginmanager.register(_Events(config.getoption("--multiitem-events")), "multiitem-accepting-events")


class _Events:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._gates: dict[str, str | None] = {}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._gates = {item.nodeid: gate_of(item) for item in session.items}
        self._say(planned=[gate for gate in self._gates.values() if gate is not None])

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._say(begun=self._gates.get(nodeid))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or (report.when == "setup" and not report.passed):
            self._say(ended=self._gates.get(report.nodeid), verdict=carried(report) or report.outcome)

    def _say(self, **event: Any) -> None:
        try:
            os.write(self._descriptor, json.dumps(event).encode() + b"\n")
        except OSError:
            pytest.exit("the acceptance that started this run is gone", returncode=1)
