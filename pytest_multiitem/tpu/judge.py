"""From what was observed to verdicts: of each check, each tier, and the whole."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from pytest_multiitem.results.verdict import Verdict, rank, worst
from pytest_multiitem.settings.tiers import Tier
from pytest_multiitem.tpu.classify import Failure, Stage, cause, shortened
from pytest_multiitem.tpu.process import exit_words, last_words
from pytest_multiitem.tpu.records import Check, Memory, TierVerdict

_DONE = {"lower": "lowered", "compile": "compiled"}


@dataclass(frozen=True)
class Step:
    """One kernel for one chip in one tier. ``control``: its name in `controls`; None: case number ``case``.

    ``must_fail``: of a control, in which stages it has to fail; empty where it has to pass.
    """

    tier: Tier
    chip: str
    name: str
    control: str | None = None
    must_fail: frozenset[Stage] = frozenset()
    case: int = 0


@dataclass(frozen=True)
class Observed:
    """What came of a step: one of the first five.

    ``result``: kernels and memory, as the child says them. ``failure``: an exception. ``returncode``: the process
    ended in it. ``silent``: seconds after which it was given up. ``not_reached``: why it was not begun at all.
    ``seconds``: what it took. ``output``: the end of what the process wrote.
    """

    result: dict[str, Any] | None = None
    failure: Failure | None = None
    returncode: int | None = None
    silent: float | None = None
    not_reached: str | None = None
    seconds: float | None = None
    output: str = ""


def judge(observed: Iterable[tuple[Step, Observed]]) -> list[Check]:
    """The verdict on every step. Where a control of a chip and tier misbehaves, nothing is known of its kernels."""
    pairs = list(observed)
    checks = [_check(step, seen) for step, seen in pairs]
    for check in checks:
        if check.role == "control":
            continue
        beside = [c for c in checks if c.role == "control" and (c.tier, c.chip) == (check.tier, check.chip)]
        doubt = min(beside, key=lambda control: rank(control.verdict), default=None)
        if doubt is None:
            check.verdict, check.reason = Verdict.INCONCLUSIVE, "no control kernel was checked beside it"
        elif doubt.verdict is not Verdict.PASS:
            own = f" (of the kernel itself: {check.reason})" if check.verdict is Verdict.FAIL else ""
            if (check.verdict, check.reason) != (doubt.verdict, doubt.reason):
                check.reason = f"control {doubt.name}: {doubt.reason}{own}"
            check.verdict = doubt.verdict
    return checks


def tier_verdicts(checks: Sequence[Check], chips: Sequence[str]) -> list[TierVerdict]:
    """The verdict of each tier: the worst of its kernels on all chips."""
    verdicts = []
    for tier in dict.fromkeys(check.tier for check in checks):
        mine = [check for check in checks if check.tier == tier and check.role == "kernel"]
        verdict = worst((check.verdict for check in mine), of_none=Verdict.INCONCLUSIVE)
        if verdict is Verdict.PASS:
            reason = f"{_DONE[tier]} for {', '.join(chips)}"
        else:
            reason = _grouped([check for check in mine if check.verdict is verdict])
        verdicts.append(TierVerdict(tier=tier, verdict=verdict, reason=reason))
    return verdicts


def overall(tiers: Sequence[TierVerdict]) -> tuple[Verdict, str]:
    """The verdict of the whole: the worst tier's. What the other tiers say stands in the reason as well."""
    if not tiers:
        return Verdict.INCONCLUSIVE, "nothing was checked"
    parts = [
        tier.reason if tier.verdict is Verdict.PASS else f"{tier.tier} {tier.verdict.value}: {tier.reason}"
        for tier in tiers
    ]
    if all(tier.tier != "compile" for tier in tiers):
        parts.append("compile was not asked for (tier lower)")
    return worst((tier.verdict for tier in tiers), of_none=Verdict.INCONCLUSIVE), "; ".join(parts)


def _grouped(checks: Sequence[Check]) -> str:
    """Reasons, each once, with the chips and the case that it is for."""
    if not checks:
        return "no kernel was checked"
    chips: dict[tuple[str, str], list[str]] = {}
    for check in checks:
        chips.setdefault((check.reason, check.name), []).append(check.chip)
    if len({check.reason for check in checks}) == 1 and checks[0].verdict is Verdict.NOT_RUN:
        return checks[0].reason
    several = len({check.name for check in checks}) > 1
    return "; ".join(
        f"{', '.join(names)}{f' ({name})' if several else ''}: {reason}" for (reason, name), names in chips.items()
    )


def _check(step: Step, seen: Observed) -> Check:
    verdict, reason, error = _seen(seen)
    if step.control is not None:
        verdict, reason = _control(step, seen, verdict, reason)
        if verdict is Verdict.PASS:
            error = None
    result = seen.result or {}
    return Check(
        tier=step.tier,
        chip=step.chip,
        role="kernel" if step.control is None else "control",
        name=step.name,
        expected="fail" if step.must_fail else "pass",
        verdict=verdict,
        reason=reason,
        seconds=seen.seconds,
        kernels=result.get("kernels"),
        memory=msgspec.convert(result["memory"], Memory) if result.get("memory") else None,
        error=error,
        failure=None if seen.failure is None else msgspec.structs.replace(seen.failure, trace=""),
        returncode=seen.returncode,
        silent=seen.silent,
        not_reached=seen.not_reached,
        must_fail=sorted(step.must_fail),
    )


def observed_in(check: Check) -> tuple[Step, Observed]:
    """The step of a check, and what was observed of it, as `judge` takes them."""
    control = check.name if check.role == "control" else None
    result = None if check.kernels is None else {"kernels": check.kernels, "memory": msgspec.to_builtins(check.memory)}
    return Step(check.tier, check.chip, check.name, control, frozenset(check.must_fail)), Observed(
        result=result,
        failure=check.failure,
        returncode=check.returncode,
        silent=check.silent,
        not_reached=check.not_reached,
        seconds=check.seconds,
        output=check.error or "",
    )


def _seen(seen: Observed) -> tuple[Verdict, str, str | None]:
    """Verdict, short reason and full message of a kernel that should pass."""
    if seen.result is not None:
        return Verdict.PASS, "", None
    if seen.failure is not None:
        failure = seen.failure
        text = f"{failure.kind}: {shortened(failure.message)}"
        if failure.stage == "libtpu":
            return Verdict.NOT_RUN, failure.message, None
        if cause(failure) == "environment":
            return Verdict.NOT_RUN, f"environment: {text}", failure.trace
        return Verdict.FAIL, _where(failure, text), failure.trace or failure.message
    if seen.silent is not None:
        why = f"no answer of the compiler within {seen.silent:g} s; give it more time: MULTI_ITEM_TPU_TIMEOUT=SECONDS"
        return Verdict.INCONCLUSIVE, why, seen.output
    if seen.returncode is not None:
        how = f"the compiler's process {exit_words(seen.returncode)}"
        if -seen.returncode == signal.SIGKILL:  # not by us: a machine out of memory does that
            return Verdict.NOT_RUN, f"environment: {how}; the machine may be out of memory", seen.output
        return Verdict.FAIL, f"{how}: {shortened(last_words(seen.output))}", seen.output
    return Verdict.NOT_RUN, seen.not_reached or "not reached", seen.output or None


def _where(failure: Failure, text: str) -> str:
    if failure.stage == "no kernel":
        return failure.message
    stages = {"case": "the case cannot be made", "trace": "it cannot be traced", "lower": "it does not lower"}
    return f"{stages.get(failure.stage, 'it does not compile')}: {text}"


def _control(step: Step, seen: Observed, verdict: Verdict, reason: str) -> tuple[Verdict, str]:
    """Whether a control behaves: PASS. Else the gate cannot tell: INCONCLUSIVE, or NOT_RUN for the environment."""
    if verdict is Verdict.NOT_RUN:
        return verdict, reason
    if not step.must_fail:
        if verdict is Verdict.PASS:
            return verdict, reason
        return Verdict.INCONCLUSIVE, f"a kernel that has to pass did not, so a FAIL means nothing: {reason}"
    if seen.failure is not None and seen.failure.stage in step.must_fail:
        return Verdict.PASS, f"failed, as it has to: {reason}"
    what = "passed" if verdict is Verdict.PASS else f"failed otherwise ({reason})"
    return Verdict.INCONCLUSIVE, f"a kernel that has to fail {what}, so a PASS means nothing"
