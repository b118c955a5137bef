"""The kernel check: what is asked, in which process, and what comes of it."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass, field, replace
from typing import Any, Final, get_args

import msgspec

from pytest_multiitem.children.process import Child, NoAnswer, exit_words, last_words
from pytest_multiitem.errors import UsageError, did_you_mean
from pytest_multiitem.kernels.abilities import Abilities, Dtype
from pytest_multiitem.kernels.judge import check_verdict, overall
from pytest_multiitem.kernels.records import Check, CheckName, Control, Failure, LeftOut, Report
from pytest_multiitem.kernels.shapes import Shape
from pytest_multiitem.results.verdict import Verdict
from pytest_multiitem.settings.kernels import name_of

CHECK_NAMES: Final[tuple[CheckName, ...]] = get_args(CheckName)
#: Seconds for one call or a few at one shape; the first call of a kernel compiles it.
DEFAULT_TIMEOUT: Final = 300.0
#: GiB of arrays at one shape.
DEFAULT_MEMORY: Final = 2.0
#: Seconds in which the kernel's module is imported and controls are looked at, where one shape has less.
_IMPORT_PATIENCE: Final = 60.0
#: Seconds in which a failing shape is made smaller.
_SHRINK_SECONDS: Final = 20.0
#: Characters of what a process said last.
_LONGEST: Final = 300
_MODULE: Final = "pytest_multiitem.kernels.child"


@dataclass(frozen=True)
class Wanted:
    """What is to be checked.

    ``kernel``: ``MODULE:FUNCTION``; FUNCTION takes no arguments and returns ``attention(q, k, v, layout)``, or a pair
    of that and what it can do (`abilities.Abilities`, or its fields by name). ``checks``: names of `records.CheckName`.
    ``timeout``: seconds for one shape. ``memory``: GiB of arrays at one shape. ``path``: where modules are looked for
    before the environment's own places.
    """

    kernel: str
    checks: tuple[CheckName, ...] = CHECK_NAMES
    timeout: float = DEFAULT_TIMEOUT
    memory: float = DEFAULT_MEMORY
    path: tuple[str, ...] = ()


def parse_check(text: str) -> CheckName:
    """The name of a check. Raises UsageError for any other."""
    for name in CHECK_NAMES:
        if name == text:
            return name
    hint = did_you_mean(text, CHECK_NAMES)
    raise UsageError(f"check {text!r} is not known{hint}: expected one of {', '.join(CHECK_NAMES)}")


def check_kernel(wanted: Wanted) -> Report:
    """Every check of a kernel within what it says that it can do, with control kernels beside it.

    Raises UsageError for a kernel that does not exist, or whose function returns something else. A KeyboardInterrupt
    has a note: where it was, and what was checked before.
    """
    name_of(wanted.kernel)
    start = time.perf_counter()
    run = _Run(wanted)
    try:
        run.work()
    except KeyboardInterrupt as interrupt:
        interrupt.add_note(run.so_far())
        raise
    if run.unavailable is not None:
        verdict, reason = Verdict.NOT_RUN, run.unavailable
    else:
        verdict, reason = overall(run.checks, run.controls, run.left_out)
    return Report(
        kernel=wanted.kernel,
        can=run.can,
        verdict=verdict,
        reason=reason,
        checks=run.checks,
        controls=run.controls,
        left_out=run.left_out,
        versions=run.versions,
        seconds=round(time.perf_counter() - start, 3),
    )


@dataclass(frozen=True)
class _Place:
    """Where a process is. ``shape``: None before the first one of a check. ``found``: what is wrong there, where it is
    known, and a smaller shape is looked for."""

    check: CheckName
    dtype: Dtype
    shape: Shape | None = None
    found: Failure | None = None


@dataclass
class _Run:
    """The checks on their way through child processes: a new one for what is left after a crash or a hang."""

    wanted: Wanted
    can: Abilities | None = None
    unavailable: str | None = None
    checks: list[Check] = field(default_factory=list)
    unplanned: list[Check] = field(default_factory=list)
    controls: list[Control] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    at: _Place | None = None

    def so_far(self) -> str:
        """Where a run is, and the verdicts that it has."""
        at = self.at
        where = f"in {at.check} ({at.dtype}) at {at.shape}" if at else "before the first shape"
        done = ", ".join(f"{check.check} ({check.dtype}) {check.verdict.value}" for check in self.checks)
        return f"{self.wanted.kernel}: interrupted {where}; checked before: {done or 'nothing'}"

    def work(self) -> None:
        """Make every check."""
        while not self._one_process():
            pass
        self.checks += self.unplanned

    def _one_process(self) -> bool:
        """Make checks until the process ends; whether there is nothing left."""
        at: _Place | None = None
        shapes = 0
        began = time.perf_counter()
        pending: list[tuple[CheckName, Dtype]] | None = None
        patience = max(self.wanted.timeout, _IMPORT_PATIENCE)
        with Child(_MODULE, self._job()) as child:
            while pending != []:
                try:
                    event = child.event(patience)
                except NoAnswer as silence:
                    return self._gone(at or _first(pending), shapes, began, str(silence), silent=patience)
                if event is None:
                    code = child.ended()
                    how = f"the kernel's process {exit_words(code)}: {last_words(child.output())[:_LONGEST]}"
                    return self._gone(at or _first(pending), shapes, began, how, returncode=code)
                if "usage" in event:
                    raise UsageError(event["usage"])
                if "unavailable" in event:
                    self.unavailable = event["unavailable"]
                    return True
                if "can" in event:
                    self.can = msgspec.convert(event["can"], Abilities)
                    self.left_out = msgspec.convert(event["left_out"], list[LeftOut])
                    self.versions = event["versions"]
                    self.unplanned = msgspec.convert(event["unplanned"], list[Check])
                    pending = msgspec.convert(event["groups"], list[tuple[CheckName, Dtype]])
                elif "controls" in event:
                    self.controls = self.controls or msgspec.convert(event["controls"], list[Control])
                elif "begin" in event:
                    new = msgspec.convert(event["begin"], _Place)
                    if at is None or (at.check, at.dtype) != (new.check, new.dtype):
                        shapes, began = 0, time.perf_counter()
                    at, shapes, patience = new, shapes + 1, self.wanted.timeout
                    self.at = at
                elif "found" in event and at is not None:
                    at = replace(at, found=msgspec.convert(event["found"], Failure))
                else:
                    self.checks.append(msgspec.convert(event["check"], Check))
                    at, pending = None, (pending or [])[1:]
        return True

    def _gone(
        self,
        at: _Place | None,
        shapes: int,
        began: float,
        how: str,
        *,
        silent: float | None = None,
        returncode: int | None = None,
    ) -> bool:
        """The process is gone: in a check, which is over then, or before any of them, and then all is."""
        if at is None:
            self.unavailable = f"environment: the kernel could not be imported: {how}"
            return True
        if at.found is not None:
            self.checks.append(
                Check(
                    check=at.check,
                    dtype=at.dtype,
                    verdict=Verdict.FAIL,
                    reason=f"at {at.found.smallest}: {at.found.reason}",
                    shapes=shapes,
                    seconds=round(time.perf_counter() - began, 3),
                    failure=at.found,
                )
            )
            return False
        # Not by us: a machine out of memory does that.
        killed = returncode is not None and -returncode == signal.SIGKILL
        smallest = at.shape if killed or returncode is None or at.shape is None else self._shrunk(at, at.shape)
        why = f"at {smallest or 'no shape yet'}: {how}"
        if silent is not None:
            why += "; give it more time: --kernel-timeout SECONDS, or name the limit that it has, such as max_rows"
        found = Check(
            check=at.check,
            dtype=at.dtype,
            verdict=Verdict.NOT_RUN,
            reason=why,
            shapes=shapes,
            seconds=round(time.perf_counter() - began, 3),
            at=str(at.shape or "no shape yet"),
            silent=silent,
            returncode=None if killed else returncode,
            not_run=f"environment: {why}; the machine may be out of memory" if killed else None,
        )
        found.verdict = check_verdict(found)
        self.checks.append(found)
        return False

    def _shrunk(self, at: _Place, shape: Shape) -> Shape:
        """The smallest shape at which the kernel still ends its process, or the last one found when the time is up.

        Each process tries smaller shapes until it ends in one, and the next goes on from there.
        """
        deadline = time.monotonic() + _SHRINK_SECONDS
        tried: list[str] = []
        while True:
            ended_at: Shape | None = None
            less = {"check": at.check, "dtype": at.dtype, "shape": msgspec.to_builtins(shape), "tried": tried}
            with Child(_MODULE, {**self._job(), "less": less}) as child:
                try:
                    while (event := child.event(max(0.0, deadline - time.monotonic()))) is not None:
                        if "begin" not in event:
                            return shape
                        ended_at = msgspec.convert(event["begin"], _Place).shape
                        tried.append(str(ended_at))
                except NoAnswer:
                    return shape
            if ended_at is None:
                return shape
            shape = ended_at

    def _job(self) -> dict[str, Any]:
        return {
            "kernel": self.wanted.kernel,
            "checks": list(self.wanted.checks),
            "memory": int(self.wanted.memory * 2**30),
            "path": list(self.wanted.path),
            "done": [[check.check, check.dtype] for check in self.checks],
            "shrink_seconds": _SHRINK_SECONDS,
        }


def _first(pending: list[tuple[CheckName, Dtype]] | None) -> _Place | None:
    """Where the process is before the next check's first shape; None before it has said what it will check."""
    return _Place(*pending[0]) if pending else None
