"""What a kernel was seen to do, as lines for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pytest_multiitem.kernels.judge import check_verdict
from pytest_multiitem.kernels.records import Check, LeftOut, Report
from pytest_multiitem.reports.blocks import terminal_table
from pytest_multiitem.results.verdict import Verdict

_HEADER = ["check", "type", "verdict", "shapes", "seconds"]


def report_lines(report: Report) -> list[str]:
    """A report for the terminal: a row a check, then each failure with its smallest shape and its picture, once."""
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    lines = [f"{report.kernel}{f'; {versions}' if versions else ''}; {report.seconds:.1f} s", ""]
    if report.checks:
        lines += terminal_table(_HEADER, [_row(check) for check in report.checks])
    drawn: list[list[str]] = []
    for group in _by_cause([check for check in report.checks if check_verdict(check) is not Verdict.PASS]):
        lines += [*_wrong(group, drawn), ""]
    if report.controls:
        good = sum(control.verdict is Verdict.PASS for control in report.controls)
        lines.append(f"controls: {good} of {len(report.controls)} as they must be")
    lines += _left_out(report.left_out)
    # What is wrong stands above; the last line names the checks.
    named = [check.check for check in report.checks if check_verdict(check) is report.verdict is not Verdict.PASS]
    reason = ", ".join(dict.fromkeys(named)) or report.reason
    return [*lines, f"{report.verdict.value}: {report.kernel}: {reason}"]


def _by_cause(checks: Sequence[Check]) -> list[list[Check]]:
    """Checks that say the same of the same shape stand together, in the place of the first."""
    groups: dict[tuple[Verdict, str], list[Check]] = {}
    for check in checks:
        groups.setdefault((check.verdict, check.reason), []).append(check)
    return list(groups.values())


def _wrong(same: Sequence[Check], drawn: list[list[str]]) -> list[str]:
    """What is wrong under checks that say the same. ``drawn``: the pictures so far; each is shown once."""
    check = same[0]
    head = f"{', '.join(f'{each.check} ({each.dtype})' for each in same)} {check.verdict.value}"
    if check.failure is None:
        return [f"{head} {check.reason}"]
    lines = [f"{head} at {check.failure.smallest}", f"  {check.failure.reason}"]
    if {each.check for each in same} == {"nonfinite"}:
        lines.append(
            "  (0 times NaN is NaN; of a kernel that need not keep it from other items say keeps_nonfinite=False)"
        )
    if not check.failure.picture:
        return lines
    if len(check.failure.picture) > 1 and check.failure.picture in drawn:
        return [*lines, "  (the masks are those above)"]
    drawn.append(check.failure.picture)
    return [*lines, *(f"  {line}" for line in check.failure.picture)]


def _row(check: Check) -> list[str]:
    return [check.check, check.dtype, check.verdict.value, str(check.shapes), f"{check.seconds:.1f}"]


def _left_out(left_out: Sequence[LeftOut]) -> list[str]:
    """How many shapes were left out, and why: by the limit that they are beyond."""
    if not left_out:
        return []
    counts = Counter(each.why.rpartition(" than ")[2] for each in left_out)
    return [f"left out: {', '.join(f'{count} for {why}' for why, count in counts.items())}"]
