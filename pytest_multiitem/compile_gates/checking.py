"""A compile gate: which kernels are checked for which chips, in child processes, and what comes of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from pytest_multiitem.children.process import Child, NoAnswer, exit_words, last_words
from pytest_multiitem.compile_gates.classify import Failure, Stage, shortened
from pytest_multiitem.compile_gates.judge import Observed, Step, chips_of, judge, overall, tier_verdicts
from pytest_multiitem.compile_gates.records import Check, Report
from pytest_multiitem.compile_gates.shapes import Case, shown
from pytest_multiitem.errors import UsageError
from pytest_multiitem.settings.kernels import name_of
from pytest_multiitem.settings.tiers import DEFAULT_TIMEOUT, EVERY_TIER, Tier

#: Seconds in which the toolchain and the kernel's module are imported, where a kernel has less.
_IMPORT_PATIENCE = 60.0

ReportKind = TypeVar("ReportKind", bound=Report)
#: The controls of each tier: name in the toolchain's ``controls``, and in which stages it has to fail.
Controls = Mapping[Tier, Sequence[tuple[str, frozenset[Stage]]]]


@dataclass(frozen=True, kw_only=True)
class Toolchain:
    """What compiles.

    ``name``: for messages. ``module``: of `compile_gates.child`, with its compiler. ``tiers``: in their order; each has
    its ``environment`` (variables of the child process, None: unset) and its ``controls``. ``chips``: all that are
    known, by name, as the compiler wants them described. ``only``: chips of a control that is not for all of them.
    ``scratch``, ``apart``: see `children.process.Child`.
    """

    name: str
    module: str
    tiers: tuple[Tier, ...]
    controls: Controls
    chips: Mapping[str, Any]
    environment: Mapping[Tier, Mapping[str, str | None]]
    only: Mapping[str, Sequence[str]] = field(default_factory=dict)
    scratch: tuple[str, ...] = ()
    apart: Path | None = None


@dataclass(frozen=True)
class Kernel:
    """What is to be checked.

    ``kernel``: ``MODULE:FUNCTION``; FUNCTION takes a case's arguments by name and returns what the toolchain calls a
    case. ``tier``: one of the toolchain's, or `EVERY_TIER`. ``timeout``: seconds that one kernel may take for one chip.
    ``path``: where modules are looked for before the environment's own places. ``further``: what the compiler is told
    beside.
    """

    kernel: str
    cases: tuple[Case, ...]
    chips: tuple[str, ...]
    tier: str = EVERY_TIER
    timeout: float = DEFAULT_TIMEOUT
    path: tuple[str, ...] = ()
    further: Mapping[str, Any] = field(default_factory=dict)


def check(toolchain: Toolchain, wanted: Kernel, kind: type[ReportKind]) -> ReportKind:
    """Compile every case for every chip, with control kernels beside them.

    Raises UsageError for a kernel that does not exist or cannot be called so.
    """
    name_of(wanted.kernel)
    choices = (EVERY_TIER, *toolchain.tiers)
    if wanted.tier not in choices:
        raise UsageError(f"tier {wanted.tier!r} is not valid: expected one of {', '.join(choices)}")
    if unknown := [chip for chip in wanted.chips if chip not in toolchain.chips]:
        raise UsageError(f"chip {unknown[0]!r} is not known: expected one of {', '.join(toolchain.chips)}")
    start = time.perf_counter()
    steps = _steps(toolchain, wanted)
    run = _Run(toolchain, wanted, steps)
    run.work()
    checks = judge((step, run.observed[at]) for at, step in enumerate(steps))
    checks, left_out = _without_numbers(checks) if wanted.tier == EVERY_TIER else (checks, "")
    tiers = tier_verdicts(checks, wanted.chips)
    verdict, reason = overall(tiers)
    return kind(
        kernel=wanted.kernel,
        chips=list(wanted.chips),
        cases=list(map(shown, wanted.cases)),
        verdict=verdict,
        reason=f"{reason}; {left_out}" if left_out else reason,
        tiers=tiers,
        checks=checks,
        versions=run.versions,
        seconds=round(time.perf_counter() - start, 3),
    )


def _steps(toolchain: Toolchain, wanted: Kernel) -> list[Step]:
    """Every check in the order in which it is made: a tier after the other, controls first."""
    steps = []
    for tier in (tier for tier in toolchain.tiers if wanted.tier in (EVERY_TIER, tier)):
        for chip in chips_of(tier, wanted.chips):
            steps += [
                Step(tier, chip, name, control=name, must_fail=stages)
                for name, stages in toolchain.controls[tier]
                if chip in toolchain.only.get(name, (chip,))
            ]
            steps += [Step(tier, chip, shown(case), case=at) for at, case in enumerate(wanted.cases)]
    return steps


def _without_numbers(checks: list[Check]) -> tuple[list[Check], str]:
    """Without the tier that compares numbers where no case has any, and nobody has asked for that tier; and why."""
    interpreted = [check for check in checks if check.tier == "interpret" and check.role == "kernel"]
    bare = [check for check in interpreted if check.failure is not None and check.failure.stage == "no numbers"]
    if not interpreted or len(bare) < len(interpreted):
        return checks, ""
    return [check for check in checks if check.tier != "interpret"], f"not interpreted: {bare[0].reason}"


class _Run:
    """The steps on their way through child processes: a new one for another environment, and for what is left after a
    crash or a hang."""

    def __init__(self, toolchain: Toolchain, wanted: Kernel, steps: Sequence[Step]) -> None:
        self._toolchain = toolchain
        self._wanted = wanted
        self._steps = steps
        self.observed: dict[int, Observed] = {}
        self.versions: dict[str, str] = {}

    def work(self) -> None:
        """Observe every step."""
        while left := [at for at in range(len(self._steps)) if at not in self.observed]:
            environment = self._environment(left[0])
            self._one_process([at for at in left if self._environment(at) == environment], environment)

    def _environment(self, at: int) -> Mapping[str, str | None]:
        return self._toolchain.environment[self._steps[at].tier]

    def _one_process(self, left: Sequence[int], environment: Mapping[str, str | None]) -> None:
        """Observe steps until the process ends; at least one of them, so that `work` comes to its end."""
        at: int | None = None
        patience = max(self._wanted.timeout, _IMPORT_PATIENCE)
        tools = self._toolchain
        with Child(tools.module, self._job(left), environment, tools.scratch, tools.apart) as child:
            while True:
                try:
                    event = child.event(patience)
                except NoAnswer as silence:
                    seen = Observed(silent=patience, output=child.output())
                    return self._gone(left, at, seen, str(silence))
                if event is None:
                    code = child.ended()
                    seen = Observed(returncode=code, output=child.output())
                    last = shortened(last_words(seen.output))
                    return self._gone(left, at, seen, f"the process {exit_words(code)}: {last}")
                if "usage" in event:
                    raise UsageError(event["usage"])
                if "versions" in event:
                    self.versions = event["versions"]
                elif "begin" in event:
                    at, patience = event["begin"], self._wanted.timeout
                elif "end" in event:
                    self.observed[event["end"]] = _observed(event)
                    at = None
                else:  # the toolchain or the module cannot be imported
                    self.observed.update(dict.fromkeys(left, _observed(event)))

    def _gone(self, left: Sequence[int], at: int | None, seen: Observed, how: str) -> None:
        """The process is gone: in the step ``at``, or before any of them."""
        if at is not None:
            self.observed[at] = seen
        elif not any(number in self.observed for number in left):
            why = f"environment: {self._toolchain.name} and the kernel's module could not be imported: {how}"
            self.observed.update(dict.fromkeys(left, Observed(not_reached=why, output=seen.output)))

    def _job(self, left: Sequence[int]) -> dict[str, Any]:
        wanted = self._wanted
        return {
            "kernel": wanted.kernel,
            "cases": list(wanted.cases),
            "path": list(wanted.path),
            "chips": {name: {**asdict(self._toolchain.chips[name]), **wanted.further} for name in wanted.chips},
            "steps": [{"id": at, **asdict(self._steps[at])} for at in left],
        }


def _observed(event: dict[str, Any]) -> Observed:
    if "failed" in event:
        return Observed(failure=msgspec.convert(event["failed"], Failure), seconds=event.get("seconds"))
    return Observed(result=event, seconds=event["seconds"])
