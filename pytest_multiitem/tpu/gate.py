"""The compile gate: which kernels are checked for which chips, in a child process, and what comes of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from pytest_multiitem.errors import UsageError
from pytest_multiitem.settings.chips import CHIPS, DEFAULT_CHIPS
from pytest_multiitem.settings.kernels import name_of
from pytest_multiitem.settings.tiers import DEFAULT_TIMEOUT, TIER_CHOICES, TIERS, Tier
from pytest_multiitem.tpu.classify import Failure, Stage, shortened
from pytest_multiitem.tpu.judge import Observed, Step, judge, overall, tier_verdicts
from pytest_multiitem.tpu.process import Child, NoAnswer, exit_words, last_words
from pytest_multiitem.tpu.records import Report
from pytest_multiitem.tpu.shapes import Case, shown

#: Seconds in which JAX and the kernel's module are imported, where a kernel has less.
_IMPORT_PATIENCE = 60.0

#: The controls of each tier: name in `controls`, and in which stages it has to fail.
_CONTROLS: dict[Tier, tuple[tuple[str, frozenset[Stage]], ...]] = {
    "lower": (
        ("good", frozenset()),
        ("not_lowerable", frozenset({"trace", "lower"})),
        ("no_kernel", frozenset({"no kernel"})),
    ),
    "compile": (("good", frozenset()), ("not_compilable", frozenset({"compile"}))),
}


@dataclass(frozen=True)
class Wanted:
    """What is to be checked.

    ``kernel``: ``MODULE:FUNCTION``; FUNCTION takes a case's arguments by name and returns (callable, abstract
    arguments). ``tier``: one of `tiers.TIER_CHOICES`. ``timeout``: seconds that one kernel may take for one chip.
    ``libtpu``: directory in which libtpu is installed apart from this environment; None: it is in it, or nowhere.
    ``path``: where modules are looked for before the environment's own places.
    """

    kernel: str
    cases: tuple[Case, ...] = ({},)
    chips: tuple[str, ...] = DEFAULT_CHIPS
    tier: str = "auto"
    timeout: float = DEFAULT_TIMEOUT
    libtpu: Path | None = None
    path: tuple[str, ...] = ()


def check_kernel(wanted: Wanted) -> Report:
    """Lower and compile every case for every chip, with control kernels beside them.

    Raises UsageError for a kernel that does not exist or cannot be called so.
    """
    name_of(wanted.kernel)
    if wanted.tier not in TIER_CHOICES:
        raise UsageError(f"tier {wanted.tier!r} is not valid: expected one of {', '.join(TIER_CHOICES)}")
    if unknown := [chip for chip in wanted.chips if chip not in CHIPS]:
        raise UsageError(f"chip {unknown[0]!r} is not known: expected one of {', '.join(CHIPS)}")
    start = time.perf_counter()
    steps = _steps(wanted)
    run = _Run(wanted, steps)
    run.work()
    checks = judge((step, run.observed[at]) for at, step in enumerate(steps))
    tiers = tier_verdicts(checks, wanted.chips)
    verdict, reason = overall(tiers)
    return Report(
        kernel=wanted.kernel,
        chips=list(wanted.chips),
        cases=list(map(shown, wanted.cases)),
        verdict=verdict,
        reason=reason,
        tiers=tiers,
        checks=checks,
        versions=run.versions,
        seconds=round(time.perf_counter() - start, 3),
    )


def _steps(wanted: Wanted) -> list[Step]:
    """Every check in the order in which it is made: controls first, and all lowering before libtpu is loaded."""
    tiers = TIERS if wanted.tier == "auto" else [tier for tier in TIERS if tier == wanted.tier]
    steps = []
    for tier in tiers:
        for chip in wanted.chips:
            steps += [Step(tier, chip, name, control=name, must_fail=stages) for name, stages in _CONTROLS[tier]]
            steps += [Step(tier, chip, shown(case), case=at) for at, case in enumerate(wanted.cases)]
    return steps


class _Run:
    """The steps on their way through child processes: a new one for what is left after a crash or a hang."""

    def __init__(self, wanted: Wanted, steps: Sequence[Step]) -> None:
        self._wanted = wanted
        self._steps = steps
        self.observed: dict[int, Observed] = {}
        self.versions: dict[str, str] = {}

    def work(self) -> None:
        """Observe every step."""
        while left := [at for at in range(len(self._steps)) if at not in self.observed]:
            self._one_process(left)

    def _one_process(self, left: Sequence[int]) -> None:
        """Observe steps until the process ends; at least one of them, so that `work` comes to its end."""
        at: int | None = None
        patience = max(self._wanted.timeout, _IMPORT_PATIENCE)
        with Child(self._job(left), self._wanted.libtpu) as child:
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
                else:  # JAX or the module cannot be imported
                    self.observed.update(dict.fromkeys(left, _observed(event)))

    def _gone(self, left: Sequence[int], at: int | None, seen: Observed, how: str) -> None:
        """The process is gone: in the step ``at``, or before any of them."""
        if at is not None:
            self.observed[at] = seen
        elif not any(number in self.observed for number in left):
            why = f"environment: JAX and the kernel's module could not be imported: {how}"
            self.observed.update(dict.fromkeys(left, Observed(not_reached=why, output=seen.output)))

    def _job(self, left: Sequence[int]) -> dict[str, Any]:
        wanted = self._wanted
        return {
            "kernel": wanted.kernel,
            "cases": list(wanted.cases),
            "path": list(wanted.path),
            "chips": {name: asdict(CHIPS[name]) for name in wanted.chips},
            "steps": [{"id": at, **asdict(self._steps[at])} for at in left],
        }


def _observed(event: dict[str, Any]) -> Observed:
    if "failed" in event:
        return Observed(failure=msgspec.convert(event["failed"], Failure), seconds=event.get("seconds"))
    return Observed(result=event, seconds=event["seconds"])
