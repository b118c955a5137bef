"""The one place where a measurement becomes a verdict."""

from __future__ import annotations

import math

from pytest_multiitem.gates.gate import Gate, larger_floor
from pytest_multiitem.results.records import Evidence, Verdict

#: Scores that range over less than this hardly differ between items; a leak would hide among them.
MIN_SCORE_SPREAD = 0.01
#: A difference up to this many noise floors cannot be told from run-to-run noise.
NOISE_FACTOR = 3.0
#: Fewer paired blocks than this support no interval for a ratio.
MIN_PAIRED_BLOCKS = 5


def judge_difference(gate: Gate, value: float | None, evidence: Evidence) -> tuple[Verdict, str]:
    """The verdict on a largest score difference, which must not exceed the gate's limit.

    A value above the limit FAILs unless replaying the same request, quietly or among others, moves scores as
    much. A value within the limit passes only where the evidence shows that a violation would have been seen.
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
        if floor is not None and floor > limit and value <= NOISE_FACTOR * floor:
            reason = f"{value:.3g} is above the limit {limit:g}, but {replaying} already moves scores by {floor:.3g}"
            return Verdict.INCONCLUSIVE, reason
        shown = f"{value:.6g}"
        if float(shown) <= limit:  # rounding would hide by how little it is off
            shown = repr(float(value))
        return Verdict.FAIL, f"{shown} exceeds the limit {limit:g}"
    missing = sorted(name for name in gate.evidence if getattr(evidence, name) is None)
    if missing:
        return Verdict.INCONCLUSIVE, f"{' and '.join(missing).replace('_', ' ')} not measured"
    if floor is not None and floor > limit:
        return (
            Verdict.INCONCLUSIVE,
            f"the noise floor {floor:.3g}{' (in traffic)' if replaying.endswith('others') else ''} is above the limit "
            f"{limit:g}: a violation could not be told from noise",
        )
    visibility = evidence.leak_visibility
    if visibility is not None and not visibility > limit:
        return (
            Verdict.INCONCLUSIVE,
            f"a leak would not show: a neighbour's tokens move a score by {visibility:.3g} at most, "
            f"the limit is {limit:g}",
        )
    spread = evidence.score_spread
    if spread is not None and not spread > max(MIN_SCORE_SPREAD, limit):
        reason = f"scores hardly differ between items (range {spread:.3g}): these requests cannot show a violation"
        return Verdict.INCONCLUSIVE, reason
    return Verdict.PASS, f"{value:.6g} is within the limit {limit:g}"


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
