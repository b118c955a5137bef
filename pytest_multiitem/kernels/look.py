"""The checks of one kernel, made one after another in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from pytest_multiitem.errors import EngineUnavailable
from pytest_multiitem.kernels import planted
from pytest_multiitem.kernels.abilities import Abilities
from pytest_multiitem.kernels.judge import check_verdict, control_verdict
from pytest_multiitem.kernels.picture import picture
from pytest_multiitem.kernels.plan import CHECKS, Step, steps
from pytest_multiitem.kernels.records import Check, CheckName, Control, Failure, LeftOut
from pytest_multiitem.kernels.shapes import Shape, beyond
from pytest_multiitem.kernels.shrink import seen, smallest
from pytest_multiitem.kernels.subject import Subject
from pytest_multiitem.results.verdict import Verdict
from pytest_multiitem.scoring.semantics import Semantics

#: The control of each check that has to fail, and the sequence that shows it.
_CONTROLS: dict[CheckName, tuple[str, tuple[int, tuple[int, ...]]]] = {
    "exact": ("next_delimiter", (3, (2, 1))),
    "large": ("soft_items", (3, (2, 1))),
    "nonfinite": ("nan_spill", (3, (2, 1))),
    "equivalence": ("bfloat16_products", (3, (2, 1))),
    "ladder": ("last_tile", (3, (63, 1))),
    "repeats": ("run_to_run", (40, (9, 2))),
}

_UNREAD = "it says page_sizes, and has not asked layout.pages() where the rows lie: no cache was read"

Begin = Callable[[Step], None]
Found = Callable[[Failure], None]


def planned(can: Abilities, names: Iterable[CheckName], memory: int) -> tuple[list[Step], list[LeftOut]]:
    """The steps of the checks that are asked for, and what is left out: beyond a kernel's limits, or over ``memory``
    bytes."""
    wanted, out = set(names), []
    kept = []
    for step in steps(can):
        if step.check not in wanted:
            continue
        why = beyond(step.shape, can)
        if why is None and step.memory > memory:
            why = f"{step.memory / 2**30:.1f} GiB of arrays; --memory {memory / 2**30:g}"
        if why is None:
            kept.append(step)
        else:
            out.append(LeftOut(check=step.check, shape=str(step.shape), why=why))
    if "nonfinite" in wanted and not can.keeps_nonfinite:
        out.append(LeftOut(check="nonfinite", shape="all", why="keeps_nonfinite=False"))
    return kept, out


def unplanned(can: Abilities, names: Iterable[CheckName], kept: Iterable[Step]) -> list[Check]:
    """A check that is NOT_RUN for each of which no shape is left: else it would be missing, and nobody would notice."""
    planned_ones = {step.check for step in kept}
    unclaimed = () if can.keeps_nonfinite else ("nonfinite",)
    why = "none of its shapes lies within the limits"
    return [
        Check(check=name, dtype=can.dtypes[0], verdict=Verdict.NOT_RUN, reason=why, shapes=0, seconds=0.0, not_run=why)
        for name in names
        if name not in planned_ones and name not in unclaimed
    ]


def look(
    subject: Subject, mine: Sequence[Step], begin: Begin, shrink_seconds: float, found: Found = lambda failure: None
) -> Check:
    """One check in one type: its steps until one fails. ``begin``: told of each before it is made. ``found``: told of
    the failure before a smaller shape and a picture are looked for, where the kernel may hang or end the process."""
    start = time.perf_counter()
    shapes, failure, not_run = 0, None, None
    for step in mine:
        check, dtype = step.check, step.dtype
        begin(step)
        try:
            finding = seen(CHECKS[check], subject, step.shape, dtype)
        except EngineUnavailable as error:
            not_run = str(error)
            break
        shapes += 1
        if finding is None:
            continue
        found(Failure(shape=str(step.shape), smallest=str(step.shape), reason=finding.reason, trace=finding.trace))
        shape, finding = smallest(CHECKS[check], subject, step.shape, dtype, finding, shrink_seconds)
        drawn = []
        if finding.trace is None:
            drawn = picture(subject, shape, dtype, finding.row, finding.head, shrink_seconds or 1.0)
            drawn = [line for line in drawn if line != f"no picture: {finding.reason}"]
        failure = Failure(
            shape=str(step.shape),
            smallest=str(shape),
            reason=finding.reason,
            picture=drawn,
            trace=finding.trace,
        )
        break
    paged = [step.shape for step in mine if step.shape.page_size not in (None, *subject.paged)]
    if failure is None and not_run is None and paged:
        failure = Failure(shape=str(paged[0]), smallest=str(paged[0]), reason=_UNREAD, picture=[])
    reason = not_run or (f"at {failure.smallest}: {failure.reason}" if failure else "")
    made = Check(
        check=check,
        dtype=dtype,
        verdict=Verdict.PASS,
        reason=reason,
        shapes=shapes,
        seconds=round(time.perf_counter() - start, 3),
        failure=failure,
        not_run=not_run,
    )
    made.verdict = check_verdict(made)
    return made


def controls(names: Iterable[CheckName]) -> list[Control]:
    """For each check a kernel that has to pass it and one that has to fail it, at a small shape."""
    faults = {fault.name: fault for fault in planted.FAULTS}
    found = []
    for name in names:
        wrong, lengths = _CONTROLS[name]
        shape = Shape(Semantics.PREFIX_FIRST_DELIM, (lengths,))
        for subject in (planted.good(), planted.subject(faults[wrong])):
            finding = seen(CHECKS[name], subject, shape, "float32")
            control = Control(
                check=name,
                kernel=subject.name,
                expected="pass" if subject.name == "right" else "fail",
                failed=finding is not None,
                verdict=Verdict.PASS,
                reason="" if finding is None else finding.reason,
            )
            control.verdict = control_verdict(control)
            found.append(control)
    return found
