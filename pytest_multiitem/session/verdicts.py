"""The verdicts on test reports: what a gate's test carries, and how outcome and verdict are made to agree."""

from __future__ import annotations

import msgspec
import pytest

from pytest_multiitem.gates.registry import gates, required
from pytest_multiitem.results.records import EVIDENCE, Verdict
from pytest_multiitem.session.keys import BENCHMARKS, RECORDS, REPORT_ATTRIBUTE, REQUIRED_BY, SETTINGS


def reason_of(report: pytest.TestReport) -> str:
    """Why a phase of a test was skipped or failed, in at most 2,000 characters."""
    longrepr = report.longrepr
    if hasattr(report, "wasxfail"):
        text = f"expected to fail: {report.wasxfail}"
    elif isinstance(longrepr, tuple):  # a skip: (path, line, reason)
        text = longrepr[2].removeprefix("Skipped: ").removeprefix("NOT_RUN: ")
    else:
        crash = getattr(longrepr, "reprcrash", None)
        text = (crash.message if crash is not None else str(longrepr or "")).removeprefix("Failed: ")
        if report.when != "call":
            text = f"{report.when}: {text}"
    return text[:2000]


def uses_plugin(item: pytest.Item) -> bool:
    """Whether a test uses our fixtures or our gate marker.

    Every fixture of ours asks for one whose name begins like this; a project's own ``serial_server`` does not.
    """
    names = getattr(item, "fixturenames", ())
    return any(name.startswith("multiitem_") for name in names) or item.get_closest_marker("multiitem_gate") is not None


def gate_of(item: pytest.Item) -> str | None:
    """The gate that a test gives the verdict of. Raises pytest.UsageError for an unknown name."""
    marker = item.get_closest_marker("multiitem_gate")
    if marker is None:
        return None
    name = marker.args[0] if marker.args else None
    if name not in gates():
        raise pytest.UsageError(f"{item.nodeid}: multiitem_gate names {name!r}; expected one of {', '.join(gates())}")
    return str(name)


def requirement(item: pytest.Item, gate: str) -> str | None:
    """The option for which NOT_RUN fails a gate's test; None where it does not."""
    if gate in required(item.config.stash[SETTINGS]):
        return "--require"
    return item.stash.get(REQUIRED_BY, None)


def carry(item: pytest.Item, report: pytest.TestReport) -> None:
    """Put a test's verdict on its report, where pytest-xdist carries it and JUnit shows it."""
    if not uses_plugin(item):
        return
    if (gate := gate_of(item)) is not None:
        _settle(item, report, gate)
    records = item.stash.get(RECORDS, [])
    benchmarks = item.stash.get(BENCHMARKS, []) if report.when == "call" else []
    if records or benchmarks:
        carried = {"gates": msgspec.to_builtins(records), "benchmarks": msgspec.to_builtins(benchmarks)}
        setattr(report, REPORT_ATTRIBUTE, carried)
    for record in records if report.when == "teardown" else ():  # the report that JUnit takes properties from
        for name in ("gate", "verdict", "reason", "value", "limit", *EVIDENCE, "mask_requested", "mask_attested",
                     "server_chunk_size", "backend"):  # fmt: skip
            value = getattr(record, name)
            report.user_properties.append((f"multiitem_{name}", "" if value is None else str(value)))


def _settle(item: pytest.Item, report: pytest.TestReport, gate: str) -> None:
    """Make the outcome of a gate's test and the gate's verdict agree.

    A test that passes without a verdict has measured nothing, and fails; no failed test leaves a PASS.
    """
    from pytest_multiitem.gates.record import blank_record  # it brings httpx, which most test runs do without

    records = item.stash.setdefault(RECORDS, [])
    if report.when == "call" and report.passed and not records:
        report.outcome = "failed"
        report.longrepr = f"FAIL: {gate}: the test ended without a verdict"
    if report.passed:
        return
    if not records:
        verdict = Verdict.NOT_RUN if report.skipped else Verdict.FAIL
        records.append(blank_record(gates()[gate], verdict, reason_of(report), item.nodeid))
        by = requirement(item, gate)
        if report.skipped and not hasattr(report, "wasxfail") and by is not None:
            report.outcome = "failed"
            report.longrepr = f"{gate} is required by {by}, but: {records[-1].reason}"
    elif report.failed and records[-1].verdict is Verdict.PASS:
        records[-1].verdict = Verdict.FAIL
        records[-1].reason = f"its test failed afterwards: {reason_of(report)}"


def status(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """A skip of ours says NOT_RUN or INCONCLUSIVE in the progress column; it still counts as skipped."""
    if report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        for word, letter in (("NOT_RUN", "n"), ("INCONCLUSIVE", "i")):
            if reason.startswith(word):
                return "skipped", letter, word
    return None
