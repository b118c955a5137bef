"""Whether the verdicts of a kernel check's report follow from what was seen of the kernel."""

from __future__ import annotations

from collections import Counter

from pytest_multiitem.kernels.judge import contradictions
from pytest_multiitem.kernels.records import Report


def summary(report: Report) -> str:
    """What it holds, in a few words."""
    return f"{report.verdict}: {report.kernel}, {len(report.checks)} checks"


def problems(report: Report) -> list[str]:
    """What is wrong with a report whose schema holds."""
    found = []
    for (name, dtype), count in Counter((check.check, check.dtype) for check in report.checks).items():
        if count > 1:
            found.append(f"{name} ({dtype}) is there {count} times")
    for check in report.checks:
        seen = [name for name in ("failure", "not_run", "silent", "returncode") if getattr(check, name) is not None]
        if len(seen) > 1:
            found.append(f"{check.check} ({check.dtype}): {' and '.join(seen)} exclude each other")
        if check.failure is not None and check.shapes < 1:
            found.append(f"{check.check} ({check.dtype}) has failed at none of its shapes")
        if report.can is not None and check.dtype not in report.can.dtypes:
            found.append(f"{check.check} ({check.dtype}): the kernel does not say that it can do that type")
    return found or contradictions(report)
