"""The gates in pytest's JUnit file: what is an error there, and what a failure."""

from __future__ import annotations

import pytest
from _pytest.junitxml import xml_key  # its entries are not to be had otherwise

from pytest_multiitem.results.verdict import Verdict
from pytest_multiitem.session.verdicts import carried, reason_of


def enter(report: pytest.TestReport, config: pytest.Config) -> None:
    """Have a failed gate stand there as ``<error>`` where its verdict is ERROR, else as ``<failure>``.

    pytest itself goes by the phase alone. To be called before pytest enters the report.
    """
    verdict = carried(report)
    xml = config.stash.get(xml_key, None)
    if xml is None or not report.failed or verdict is None or report.when == "teardown":
        return
    entry, kind = xml.node_reporter(report), "error" if verdict == Verdict.ERROR else "failure"

    def append(report: pytest.TestReport) -> None:
        entry._add_simple(kind, reason_of(report).partition("\n")[0], str(report.longrepr))

    entry.append_failure = entry.append_error = append  # type: ignore[method-assign]
