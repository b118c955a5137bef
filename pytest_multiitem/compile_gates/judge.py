"""From what was observed to verdicts: of each check, each tier, and the whole."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from pytest_multiitem.children.process import exit_words, last_words
from pytest_multiitem.compile_gates.classify import SAYS_ALL, Failure, Stage, cause, shortened
from pytest_multiitem.compile_gates.records import Check, Memory, Numbers, Resources, TierVerdict
from pytest_multiitem.results.verdict import Verdict, rank, worst
from pytest_multiitem.settings.tiers import Tier

_DONE = {"lower": "lowered", "compile": "compiled", "interpret": "numbers hold"}
#: The chip of what runs on none.
INTERPRETER = "interpreter"


_Struct = TypeVar("_Struct", bound=msgspec.Struct)


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

    ``result``: kernels, memory, resources and numbers, as the child says them. ``failure``: an exception.
    ``returncode``: the process ended in it. ``silent``: seconds after which it was given up. ``not_reached``: why it
    was not begun at all. ``seconds``: what it took. ``output``: the end of what the process wrote.
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


def chips_of(tier: str, chips: Sequence[str]) -> list[str]:
    """What a tier is checked for."""
    return [INTERPRETER] if tier == "interpret" else list(chips)


def tier_verdicts(checks: Sequence[Check], chips: Sequence[str]) -> list[TierVerdict]:
    """The verdict of each tier: the worst of its kernels on all chips."""
    verdicts = []
    for tier in dict.fromkeys(check.tier for check in checks):
        mine = [check for check in checks if check.tier == tier and check.role == "kernel"]
        verdict = worst((check.verdict for check in mine), of_none=Verdict.INCONCLUSIVE)
        if verdict is Verdict.PASS:
            reason = f"{_DONE[tier]} for {', '.join(chips)}" if tier != "interpret" else f"{_DONE[tier]}, interpreted"
        else:
            reason = _grouped([check for check in mine if check.verdict is verdict])
        verdicts.append(TierVerdict(tier=tier, verdict=verdict, reason=reason))
    return verdicts


def overall(tiers: Sequence[TierVerdict]) -> tuple[Verdict, str]:
    """The verdict of the whole: the worst tier's. What the other tiers say stands in the reason as well."""
    if not tiers:
        return Verdict.INCONCLUSIVE, "nothing was checked"
    parts = [reason if verdict is Verdict.PASS else f"{names} {verdict.value}: {reason}"
             for names, verdict, reason in by_cause(tiers)]  # fmt: skip
    if all(tier.tier != "compile" for tier in tiers):
        parts.append(f"compile was not asked for (tier {', '.join(tier.tier for tier in tiers)})")
    return worst((tier.verdict for tier in tiers), of_none=Verdict.INCONCLUSIVE), "; ".join(parts)


def by_cause(tiers: Sequence[TierVerdict]) -> list[tuple[str, Verdict, str]]:
    """Tiers that say the same, as ``lower, compile``, with what they say: each cause stands once."""
    same: dict[tuple[Verdict, str], list[str]] = {}
    for tier in tiers:
        same.setdefault((tier.verdict, tier.reason), []).append(tier.tier)
    return [(", ".join(names), verdict, reason) for (verdict, reason), names in same.items()]


def _grouped(checks: Sequence[Check]) -> str:
    """Reasons, each once, with the chips and the cases that it is for."""
    if not checks:
        return "no kernel was checked"
    by_reason: dict[str, list[Check]] = {}
    for check in checks:
        by_reason.setdefault(check.reason, []).append(check)
    if len(by_reason) == 1 and checks[0].verdict is Verdict.NOT_RUN:
        return checks[0].reason
    several = len({check.name for check in checks}) > 1
    parts = []
    for reason, mine in by_reason.items():
        chips = ", ".join(dict.fromkeys(check.chip for check in mine))
        names = ", ".join(dict.fromkeys(check.name for check in mine))
        parts.append(f"{chips}{f' ({names})' if several else ''}: {reason}")
    return "; ".join(parts)


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
        memory=_found(result, "memory", Memory),
        resources=_found(result, "resources", Resources),
        numbers=_found(result, "numbers", Numbers),
        error=error,
        failure=None if seen.failure is None else msgspec.structs.replace(seen.failure, trace=""),
        returncode=seen.returncode,
        silent=seen.silent,
        not_reached=seen.not_reached,
        must_fail=sorted(step.must_fail),
    )


def _found(result: dict[str, Any], name: str, kind: type[_Struct]) -> _Struct | None:
    return msgspec.convert(result[name], kind) if result.get(name) else None


def observed_in(check: Check) -> tuple[Step, Observed]:
    """The step of a check, and what was observed of it, as `judge` takes them."""
    control = check.name if check.role == "control" else None
    parts = {name: msgspec.to_builtins(getattr(check, name)) for name in ("memory", "resources", "numbers")}
    result = None if check.kernels is None else {"kernels": check.kernels, **parts}
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
        beyond = _beyond(seen.result)
        return (Verdict.PASS, "", None) if beyond is None else (Verdict.FAIL, beyond[1], None)
    if seen.failure is not None:
        failure = seen.failure
        text = f"{failure.kind}: {shortened(failure.message)}"
        if failure.stage in SAYS_ALL:
            return Verdict.NOT_RUN, failure.message, None
        if cause(failure) == "environment":
            return Verdict.NOT_RUN, f"environment: {text}", failure.trace
        return Verdict.FAIL, _where(failure, text), failure.trace or failure.message
    if seen.silent is not None:
        why = (
            f"no answer of the compiler within {seen.silent:g} s; give it more time: --tpu-timeout SECONDS, of a GPU "
            "kernel --gpu-timeout SECONDS; under pytest MULTI_ITEM_TPU_TIMEOUT or MULTI_ITEM_GPU_TIMEOUT"
        )
        return Verdict.INCONCLUSIVE, why, seen.output
    if seen.returncode is not None:
        how = f"the compiler's process {exit_words(seen.returncode)}"
        if -seen.returncode == signal.SIGKILL:  # not by us: a machine out of memory does that
            return Verdict.NOT_RUN, f"environment: {how}; the machine may be out of memory", seen.output
        return Verdict.FAIL, f"{how}: {shortened(last_words(seen.output))}", seen.output
    return Verdict.NOT_RUN, seen.not_reached or "not reached", seen.output or None


def _where(failure: Failure, text: str) -> str:
    place = f" (at {failure.place})" if failure.place else ""
    if failure.stage == "no kernel":
        return f"{failure.message}{place}"
    stages = {
        "case": "the case cannot be made", "trace": "it cannot be traced", "lower": "it does not lower",
        "run": "it cannot be interpreted",
    }  # fmt: skip
    return f"{stages.get(failure.stage, 'it does not compile')}: {text}{place}"


def _beyond(result: dict[str, Any]) -> tuple[Stage, str] | None:
    """Of what compiled or ran, which limit it exceeds, as the stage in which it would fail, and why."""
    resources, numbers = _found(result, "resources", Resources), _found(result, "numbers", Numbers)
    if resources is not None and resources.shared > resources.shared_limit:
        return "shared", (
            f"a launch asks for {resources.shared / 1024:.1f} KiB of shared memory a block, the chip has "
            f"{resources.shared_limit / 1024:g} KiB: smaller tiles or fewer stages"
        )
    if resources is not None and resources.tensor > resources.tensor_limit:
        return "tensor", (
            f"a launch asks for {resources.tensor} columns of tensor memory a block, the chip has "
            f"{resources.tensor_limit}: smaller tiles, or fewer results that are accumulated at once"
        )
    spilled = 0 if resources is None else resources.spill_stores + resources.spill_loads
    if resources is not None and spilled > resources.spill_limit:
        return "spills", (
            f"a thread spills {resources.spill_stores} bytes and loads {resources.spill_loads} back "
            f"({resources.registers} registers), {resources.spill_limit} bytes in all are allowed: smaller tiles or "
            "more warps, or allow it: MULTI_ITEM_GPU_SPILLS=BYTES"
        )
    if numbers is not None and (numbers.difference is None or not numbers.difference <= numbers.limit):
        far = "NaN or inf where there should be none, or none where it should be"
        if numbers.difference is not None:
            far = f"{numbers.difference:.3g} from the reference, {numbers.limit:.3g} is allowed"
        return "numbers", f"interpreted, its numbers are wrong: {far}"
    return None


def _control(step: Step, seen: Observed, verdict: Verdict, reason: str) -> tuple[Verdict, str]:
    """Whether a control behaves: PASS. Else the gate cannot tell: INCONCLUSIVE, or NOT_RUN for the environment."""
    if verdict is Verdict.NOT_RUN:
        return verdict, reason
    if not step.must_fail:
        if verdict is Verdict.PASS:
            return verdict, reason
        return Verdict.INCONCLUSIVE, f"a kernel that has to pass did not, so a FAIL means nothing: {reason}"
    stage = seen.failure.stage if seen.failure is not None else (_beyond(seen.result or {}) or (None, ""))[0]
    if stage in step.must_fail:
        return Verdict.PASS, f"failed, as it has to: {reason}"
    what = "passed" if verdict is Verdict.PASS else f"failed otherwise ({reason})"
    return Verdict.INCONCLUSIVE, f"a kernel that has to fail {what}, so a PASS means nothing"
