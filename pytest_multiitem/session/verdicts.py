"""The verdicts on test reports: what a gate's test carries, and how outcome and verdict are made to agree."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

import msgspec
import pytest

from pytest_multiitem.errors import MultiItemError
from pytest_multiitem.gates.gate import Gate
from pytest_multiitem.gates.registry import gates, required
from pytest_multiitem.results.records import EVIDENCE, GateRecord, Verdict
from pytest_multiitem.results.verdict import failing, rank
from pytest_multiitem.session.keys import BENCHMARKS, RECORDS, REPORT_ATTRIBUTE, REQUIRED_BY, SETTINGS
from pytest_multiitem.untrusted.secrets import without_secrets
from pytest_multiitem.untrusted.words import plain_lines

#: Said of a verdict that a further run of its test does not change.
STAYS = "this verdict stays, though the test was run again"


class NoServer(pytest.fail.Exception):  # type: ignore[name-defined, misc]
    """Ends a test whose server is not to be had. ``error``: why, and by which server's fault."""

    __module__ = "builtins"  # as pytest's own, so that it is shown by its name alone

    def __init__(self, error: MultiItemError) -> None:
        self.error = error
        super().__init__(str(error), pytrace=False)


def reason_of(report: pytest.TestReport) -> str:
    """Why a phase of a test was skipped or failed, in at most 2,000 characters."""
    longrepr = report.longrepr
    if hasattr(report, "wasxfail"):
        text = f"expected to fail: {report.wasxfail}"
    elif isinstance(longrepr, tuple):  # a skip: (path, line, reason)
        text = longrepr[2].removeprefix("Skipped: ").removeprefix("NOT_RUN: ")
    else:
        crash = getattr(longrepr, "reprcrash", None)
        text = crash.message if crash is not None else str(longrepr or "")
        text = text.removeprefix("Failed: ").removeprefix(f"{NoServer.__name__}: ")
        if report.when != "call":
            text = f"{report.when}: {text}"
    return plain_lines(without_secrets(text))[:2000]


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


def carry(item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport) -> None:
    """Put a test's verdict on its report, where pytest-xdist carries it and JUnit shows it."""
    if not uses_plugin(item):
        return
    if (gate := gate_of(item)) is not None:
        _settle(item, call, report, gates()[gate])
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


def carried(report: pytest.TestReport) -> str | None:
    """The verdict that a report carries, in its own word; None where it carries none."""
    gates = getattr(report, REPORT_ATTRIBUTE, {}).get("gates", [])
    return gates[-1]["verdict"] if gates else None


def _settle(item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport, gate: Gate) -> None:
    """Make the outcome of a gate's test and the gate's verdict agree.

    A test that passes without a verdict has measured nothing, and fails; no failed test leaves a PASS, and no verdict
    that fails a run goes with a test that was run again and ended well.
    """
    from pytest_multiitem.gates.record import blank_record  # it brings httpx, which most test runs do without

    records = item.stash.setdefault(RECORDS, [])
    if report.when == "call" and report.passed and not records:
        report.outcome = "failed"
        report.longrepr = f"{Verdict.ERROR}: {gate.name}: the test ended without a verdict"
    _keep_failing(item, report, records)
    if report.passed:
        return
    if not records:
        verdict = Verdict.NOT_RUN if report.skipped else _verdict_of(call, gate)
        records.append(blank_record(gate, verdict, reason_of(report), item.nodeid))
        by = requirement(item, gate.name)
        if report.skipped and not hasattr(report, "wasxfail") and by is not None:
            report.outcome = "failed"
            report.longrepr = f"{gate.name} is required by {by}, but: {records[-1].reason}"
    elif report.failed and records[-1].verdict is Verdict.PASS:
        records[-1].verdict = _verdict_of(call, gate)
        records[-1].reason = f"its test failed afterwards: {reason_of(report)}"


def _keep_failing(item: pytest.Item, report: pytest.TestReport, records: Sequence[GateRecord]) -> None:
    """Fail a phase of a test that ended well although a verdict of an earlier run of the same test fails the run."""
    given = worst_given(records, failing(allow_inconclusive=item.config.stash[SETTINGS].allow_inconclusive))
    if given is not None and report.when == "call" and not report.failed and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{given.verdict}: {given.gate}: {given.reason} ({STAYS})"


def worst_given(records: Iterable[GateRecord], verdicts: Container[Verdict]) -> GateRecord | None:
    """The worst of the records that a test has given, of those with these verdicts; the first, where several are."""
    chosen = [record for record in records if record.verdict in verdicts]
    return min(chosen, key=lambda record: rank(record.verdict), default=None)


def _verdict_of(call: pytest.CallInfo[None], gate: Gate) -> Verdict:
    """That of a test which ends by an exception: FAIL where the test asserts, or the server under test is to blame."""
    from pytest_multiitem.gates.record import verdict_of  # as above

    error = None if call.excinfo is None else call.excinfo.value
    if isinstance(error, NoServer):
        error = error.error
    if call.when == "call" and isinstance(error, AssertionError | pytest.fail.Exception):
        return Verdict.FAIL
    return Verdict.ERROR if error is None else verdict_of(error, gate)


def status(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """A skip of ours says NOT_RUN or INCONCLUSIVE in the progress column; it still counts as skipped. A failure counts
    as an error where the verdict is ERROR, in whatever phase it came."""
    verdict = carried(report)
    if report.failed and verdict is not None and report.when != "teardown":
        return ("error", "E", "ERROR") if verdict == Verdict.ERROR else ("failed", "F", "FAILED")
    if report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        for word, letter in (("NOT_RUN", "n"), ("INCONCLUSIVE", "i")):
            if reason.startswith(word):
                return "skipped", letter, word
    return None
