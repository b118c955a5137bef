"""From what was seen of a kernel to verdicts: of each check, and of the whole."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_multiitem.kernels.records import Check, Control, LeftOut, Report
from pytest_multiitem.results.verdict import Verdict, rank, worst


def check_verdict(check: Check) -> Verdict:
    """The verdict of a check by what it holds, its controls left aside."""
    if check.failure is not None or check.returncode is not None:
        return Verdict.FAIL
    if check.silent is not None:
        return Verdict.INCONCLUSIVE
    return Verdict.NOT_RUN if check.not_run is not None or not check.shapes else Verdict.PASS


def control_verdict(control: Control) -> Verdict:
    """Whether a control did what it has to; else its check can tell nothing."""
    return Verdict.PASS if control.failed == (control.expected == "fail") else Verdict.INCONCLUSIVE


def overall(checks: Sequence[Check], controls: Sequence[Control], left_out: Sequence[LeftOut]) -> tuple[Verdict, str]:
    """The verdict of the whole, and why: the worst check's, or INCONCLUSIVE where a control misbehaves."""
    doubt = [control for control in controls if control_verdict(control) is not Verdict.PASS]
    if doubt:
        first = doubt[0]
        did = "failed" if first.failed else "passed"
        return Verdict.INCONCLUSIVE, f"control {first.kernel} {did} the check {first.check}, so it can tell nothing"
    verdict = worst((check_verdict(check) for check in checks), of_none=Verdict.NOT_RUN)
    if not checks:
        return verdict, "nothing was checked"
    if verdict is Verdict.PASS:
        shapes = sum(check.shapes for check in checks)
        beside = f"; {len(left_out)} left out" if left_out else ""
        return verdict, f"{len(checks)} checks at {shapes} shapes{beside}"
    decisive = sorted((check for check in checks if check_verdict(check) is verdict), key=lambda check: check.shapes)
    names = ", ".join(dict.fromkeys(check.check for check in decisive))
    return verdict, f"{names}: {min(decisive, key=lambda check: rank(check.verdict)).reason}"


def contradictions(report: Report) -> list[str]:
    """Where a report's verdicts do not follow from what it holds."""
    found = []
    for check in report.checks:
        due = check_verdict(check)
        if check.verdict is not due:
            found.append(f"{check.check} ({check.dtype}) is {check.verdict}; what was seen gives {due}")
    for control in report.controls:
        due = control_verdict(control)
        if control.verdict is not due:
            found.append(f"control {control.kernel} ({control.check}) is {control.verdict}; what was seen gives {due}")
    for name in dict.fromkeys(check.check for check in report.checks if check.not_run is None):
        beside = {control.expected for control in report.controls if control.check == name}
        if beside != {"pass", "fail"}:
            found.append(f"{name}: there is no control that has to {'fail' if 'pass' in beside else 'pass'}")
    if report.checks:
        verdict, _ = overall(report.checks, report.controls, report.left_out)
        if report.verdict is not verdict:
            found.append(f"verdict is {report.verdict}; the checks give {verdict}")
    elif report.verdict is not Verdict.NOT_RUN:
        found.append(f"verdict is {report.verdict}; there are no checks, which gives NOT_RUN")
    return found
