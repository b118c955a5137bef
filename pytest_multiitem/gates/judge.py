"""The one place where a measurement becomes a verdict."""

from __future__ import annotations

import math
from collections.abc import Collection

from pytest_multiitem.gates.gate import Gate, larger_floor
from pytest_multiitem.results.records import Evidence, Verdict

#: Scores that range over less than this hardly differ between items; a leak would hide among them.
MIN_SCORE_SPREAD = 0.01
#: A difference up to this many noise floors cannot be told from run-to-run noise.
NOISE_FACTOR = 3.0
#: A value above this many limits, and above `FAR`, is no matter of noise where quiet replays are apart as far.
FAR_FACTOR = 5.0
#: No precision and no batch moves a score by more: a request that is not answered alike twice is not answered.
FAR = 0.1
#: What the verdict on a difference within the shape floor says.
ROUNDING = "all of it is rounding"
#: What the verdict on a server says whose replays are far apart.
NOT_REPEATABLE = "not repeatable"
#: Fewer paired blocks than this support no interval for a ratio.
MIN_PAIRED_BLOCKS = 5


def judge_difference(gate: Gate, value: float | None, evidence: Evidence) -> tuple[Verdict, str]:
    """The verdict on a largest score difference, which must not exceed the gate's limit.

    A value above the limit FAILs unless replaying the same request, quietly or among others, moves scores as much, or
    it is within the shape floor. A value far above it FAILs where quiet replays are far apart too: nothing can be said
    of a server that does not repeat itself. A value within the limit passes only where the evidence shows that a
    violation would have been seen.
    """
    if gate.limit is None:
        raise ValueError(f"gate {gate.name} has no limit to judge a difference by")
    limit = gate.limit
    if value is None:
        return Verdict.INCONCLUSIVE, "nothing was measured"
    if not math.isfinite(value):
        return Verdict.FAIL, f"the measured difference is {value}, not a finite number"
    if value < 0:
        return Verdict.FAIL, f"the measured difference is {value}; an absolute difference is 0 or more"
    if (problem := floor_problem(evidence)) is not None:
        return Verdict.FAIL, problem
    floor, replaying = _floor(evidence)
    if value > limit:
        far, quiet = max(FAR_FACTOR * limit, FAR), evidence.noise_floor
        if quiet is not None and min(value, quiet) > far:
            reason = f"{NOT_REPEATABLE}: {value:.3g} is far above the limit {limit:g}, and replaying the same request"
            return Verdict.FAIL, f"{reason} moves scores by {quiet:.3g}"
        if floor is not None and floor > limit and value <= NOISE_FACTOR * floor:
            reason = f"{value:.3g} is above the limit {limit:g}, but {replaying} already moves scores by {floor:.3g}"
            return Verdict.INCONCLUSIVE, reason
        shape, allowed = evidence.shape_floor, NOISE_FACTOR * (evidence.shape_floor or 0.0)
        if shape and value <= allowed:
            bound = "not known" if evidence.leak_bound is None else f"≤ {evidence.leak_bound:.3g}"
            reason = (
                f"{value:.3g} is above the limit {limit:g}, but {ROUNDING}: floor {shape:.3g}, content leak {bound}"
            )
            return Verdict.INCONCLUSIVE, reason
        shown = f"{value:.6g}"
        if float(shown) <= limit:  # rounding would hide by how little it is off
            shown = repr(float(value))
        excess = f", and {NOISE_FACTOR:g} times the shape floor {shape:.3g} by {value - allowed:.3g}" if shape else ""
        return Verdict.FAIL, f"{shown} exceeds the limit {limit:g}{excess}"
    if (doubt := blindness(evidence, limit, gate.evidence)) is not None:
        return Verdict.INCONCLUSIVE, doubt
    return Verdict.PASS, f"{value:.6g} is within the limit {limit:g}"


def blindness(evidence: Evidence, limit: float, needed: Collection[str]) -> str | None:
    """Why a violation of a limit could have gone unseen; None where it would have shown. ``needed``: the fields of
    `Evidence` without which that is not known."""
    missing = sorted(name for name in needed if getattr(evidence, name) is None)
    if missing:
        return f"{' and '.join(missing).replace('_', ' ')} not measured"
    floor, replaying = _floor(evidence)
    if floor is not None and floor > limit:
        return (
            f"the noise floor {floor:.3g}{' (in traffic)' if replaying.endswith('others') else ''} is above the limit "
            f"{limit:g}: a violation could not be told from noise"
        )
    visibility = evidence.leak_visibility
    if visibility is not None and not visibility > limit:
        return (
            f"a leak would not show: a neighbour's tokens move a score by {visibility:.3g} at most, "
            f"the limit is {limit:g}"
        )
    spread = evidence.score_spread
    if spread is not None and not spread > max(MIN_SCORE_SPREAD, limit):
        return f"scores hardly differ between items (range {spread:.3g}): these requests cannot show a violation"
    return None


def judge_statement(
    value: float | None, evidence: Evidence, *, holds: str | None, doubt: str | None
) -> tuple[Verdict, str]:
    """The verdict of a gate without a limit: whoever measured it says whether it holds. Figures that are not finite
    hold nothing."""
    if (problem := floor_problem(evidence)) is not None:
        return Verdict.FAIL, problem
    if value is not None and not math.isfinite(value):
        return Verdict.FAIL, f"the measured value is {value}, not a finite number"
    return (Verdict.PASS, holds) if holds is not None else (Verdict.INCONCLUSIVE, doubt or "nothing was measured")


def floor_problem(evidence: Evidence) -> str | None:
    """What is wrong with replays whose scores are apart by no finite number; None where nothing is."""
    floor, replaying = _floor(evidence)
    return None if floor is None or math.isfinite(floor) else f"{replaying} gives a difference of {floor}"


def _floor(evidence: Evidence) -> tuple[float | None, str]:
    """The larger floor, below which a difference may be noise, and what it is that of."""
    quiet, floor = evidence.noise_floor, larger_floor(evidence.noise_floor, evidence.traffic_floor)
    busy = quiet is None or (math.isfinite(quiet) and quiet != floor)
    return floor, f"replaying the same request{' among others' if busy else ''}"


def judge_ratio(
    gate: Gate,
    value: float | None,
    interval: tuple[float, float] | None,
    blocks: int,
    *,
    unreachable: str | None = None,
) -> tuple[Verdict, str]:
    """The verdict on a ratio that must reach the gate's limit, from its confidence interval.

    ``unreachable``: why no server could reach it; a value below the limit then decides nothing.
    """
    if gate.limit is None:
        raise ValueError(f"gate {gate.name} has no limit to judge a ratio by")
    if value is None or blocks == 0:
        return Verdict.INCONCLUSIVE, "nothing was measured"
    bounds = (value, *(interval or ()))
    if not all(math.isfinite(number) for number in bounds):
        return Verdict.FAIL, f"the measured ratio is {value} with interval {interval}: not finite"
    if blocks < MIN_PAIRED_BLOCKS or interval is None:
        reason = f"{blocks} timed runs of each side; at least {MIN_PAIRED_BLOCKS} are needed for a verdict"
        return Verdict.INCONCLUSIVE, reason
    low, high = interval
    text = f"{value:.3g} (95 % interval {low:.3g} to {high:.3g})"
    low, high = min(low, value), max(high, value)  # resampled medians need not enclose the measured one
    if low >= gate.limit:
        return Verdict.PASS, f"{text} reaches {gate.limit:g}"
    if high < gate.limit:
        reason = f"{text} is below {gate.limit:g}"
        return (Verdict.FAIL, reason) if unreachable is None else (Verdict.INCONCLUSIVE, f"{reason}, but {unreachable}")
    return Verdict.INCONCLUSIVE, f"{text} straddles {gate.limit:g}"
