"""Whether the verdicts of a compile gate's report follow from what was observed of each kernel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import product

from pytest_multiitem.compile_gates.judge import chips_of, judge, observed_in, overall, tier_verdicts
from pytest_multiitem.compile_gates.records import Check, Report
from pytest_multiitem.results.verdict import Verdict


def summary(report: Report) -> str:
    """What it holds, in a few words."""
    return f"{report.verdict}: {report.kernel} for {', '.join(report.chips)}"


def problems(report: Report) -> list[str]:
    """What is wrong with a report whose schema holds."""
    found = [f"{_where(check)}: {text}" for check in report.checks for text in _check(check)]
    found += _coverage(report)
    if found:
        return found
    again = judge(observed_in(check) for check in report.checks)
    for check, wanted in zip(report.checks, again, strict=True):
        if check.verdict is not wanted.verdict:
            found.append(f"{_where(check)} is {check.verdict}; what was observed gives {wanted.verdict}")
    tiers = tier_verdicts(again, report.chips)
    for tier, due in zip(report.tiers, tiers, strict=True):
        if tier.verdict is not due.verdict:
            found.append(f"tier {tier.tier} is {tier.verdict}; its checks give {due.verdict}")
    verdict, _ = overall(tiers)
    if report.verdict is not verdict:
        found.append(f"verdict is {report.verdict}; the tiers give {verdict}")
    return found


def _where(check: Check) -> str:
    return f"{check.role} {check.name} ({check.tier}, {check.chip})"


def _check(check: Check) -> Iterator[str]:
    """Whether one thing was observed of a check, and none that excludes its verdict."""
    seen = [name for name in ("kernels", "failure", "returncode", "silent") if getattr(check, name) is not None]
    if len(seen) > 1 or (seen and check.not_reached is not None):
        yield f"{' and '.join([*seen, *(['not_reached'] if check.not_reached is not None else [])])} exclude each other"
    if not seen and check.not_reached is None and check.verdict is not Verdict.NOT_RUN:
        yield f"it is {check.verdict}, but does not say what was observed"
    if check.kernels is not None and check.kernels < 1:
        yield f"its program holds {check.kernels} kernels"
    if (check.expected == "fail") != bool(check.must_fail) or (check.role == "kernel" and check.must_fail):
        yield f"it has to {check.expected}, in the stages {check.must_fail}"
    if check.verdict is Verdict.PASS and check.error is not None:
        yield f"it is PASS, but there is the error {check.error!r:.80}"


def _coverage(report: Report) -> Iterator[str]:
    """Whether every case was checked for every chip in every tier, beside controls that pass and that fail."""
    tiers = [tier.tier for tier in report.tiers]
    if tiers != list(dict.fromkeys(check.tier for check in report.checks)):
        yield f"there are verdicts of the tiers {', '.join(tiers) or '-'}; the checks are of others"
    done = Counter((check.tier, check.chip, check.name) for check in report.checks if check.role == "kernel")
    places = [(tier, chip) for tier in tiers for chip in dict.fromkeys(chips_of(tier, report.chips))]
    for (tier, chip), case in product(places, dict.fromkeys(report.cases)):
        if not done.pop((tier, chip, case), 0):
            yield f"kernel {case} ({tier}, {chip}) was not checked"
    for tier, chip, case in done:
        yield f"kernel {case} ({tier}, {chip}) is none of the chips and cases of this report"
    if not report.cases or not report.chips:
        yield "it names no cases or no chips"
    for tier, chip in places:
        beside = {c.expected for c in report.checks if c.role == "control" and (c.tier, c.chip) == (tier, chip)}
        if beside != {"pass", "fail"}:
            yield f"{tier}, {chip}: there is no control that has to {'fail' if 'pass' in beside else 'pass'}"
