"""The verdict on a run's timings against a baseline: what cannot be compared is never a pass."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np

from pytest_multiitem.baselines.records import Baseline, Cell
from pytest_multiitem.baselines.timings import Timings
from pytest_multiitem.bench.statistics import P95_SAMPLES, Statistic, ratio_interval
from pytest_multiitem.gates.judge import MIN_PAIRED_BLOCKS
from pytest_multiitem.gates.regression import NO_REGRESSION
from pytest_multiitem.results.details import AgainstBaseline, TimingRatio, TimingVerdict
from pytest_multiitem.results.records import GateRecord
from pytest_multiitem.results.verdict import Verdict, rank, worst
from pytest_multiitem.settings.conditions import Condition, Metric

#: How far the memory of one machine may seem to differ: kernels reserve more or less of it.
_MEMORY_TOLERANCE = 0.05
#: Facts that must be the same for two timings to be of the same thing.
_SAME = {
    "workload_sha256": "workload",
    "items": "item count",
    **{name: name for name in ("engine", "backend", "model", "dtype")},
    "mask_attested": "mask executed",
}
#: Keys named in a reason; the others are in the details.
_NAMED = 3


def _p95(seconds: Any, axis: int | None = None) -> Any:
    return np.percentile(seconds, 95, axis=axis)


_STATISTICS: Mapping[Metric, Statistic] = {"p50": np.median, "p95": _p95, "mean": np.mean, "throughput": np.median}


def judge(baseline: Baseline, run: Timings, conditions: Sequence[Condition], *, name: str | None = None) -> GateRecord:
    """Judge every timing of a baseline by every condition; the details hold their ratios and intervals.

    FAIL: one regressed, is missing, or is of something else. INCONCLUSIVE: the runs cannot decide, or another machine
    measured them. PASS: none of that. ``name``: what the baseline is called here.
    """
    if not conditions:
        raise ValueError("no condition to judge by")
    keys, measured = ({cell.key for cell in cells} for cells in (baseline.cells, run.cells))
    excused = {key for key, instead in run.unconfirmed.items() if key in keys - measured and instead in keys}
    expected = [cell for cell in baseline.cells if cell.key not in excused]
    cells = [_judge_cell(cell, [new for new in run.cells if new.key == cell.key], run, conditions) for cell in expected]
    verdict = worst((cell.verdict for cell in cells), of_none=Verdict.PASS)
    if not run.cells:
        verdict = Verdict.FAIL
        reason = f"no timing was measured; the baseline has {len(baseline.cells)}"
        if cells:
            reason += f", such as {cells[0].key} ({cells[0].reason})"
    elif verdict is Verdict.PASS:
        reason = f"none of {len(cells)} timings regressed ({', '.join(condition.text for condition in conditions)})"
    else:
        reason = _summary([cell for cell in cells if cell.verdict is verdict], len(cells))
    details = AgainstBaseline(
        baseline=name or baseline.name,
        saved_at_utc=baseline.saved_at_utc,
        conditions=[condition.text for condition in conditions],
        cells=cells,
        notes=_notes(baseline, run, keys, excused),
    )
    return GateRecord(
        gate=NO_REGRESSION.name,
        verdict=verdict,
        reason=reason,
        relation=NO_REGRESSION.relation,
        samples={"timings": len(cells), "compared": sum(bool(cell.ratios) for cell in cells)},
        details=details,
    )


def evidence_lines(record: GateRecord) -> list[str]:
    """Of the record of a judgement: every timing that is no PASS and every note, for people."""
    assert isinstance(record.details, AgainstBaseline)
    bad = [cell for cell in record.details.cells if cell.verdict is not Verdict.PASS]
    wrong = sorted(bad, key=lambda cell: rank(cell.verdict))
    found = [f"{cell.verdict.value} {cell.key}: {cell.reason}" for cell in wrong]
    return [*found, *(f"note: {note}" for note in record.details.notes)]


def _judge_cell(old: Cell, same: Sequence[Cell], run: Timings, conditions: Sequence[Condition]) -> TimingVerdict:
    if not same:
        why = run.untimed.get(old.key) or run.untimed.get(old.nodeid or "") or "renamed, or not selected"
        return _failed(old, f"missing in this run: {why}")
    if len(same) > 1:
        return _failed(old, f"{len(same)} timings of this run have this name; tell them apart")
    new = same[0]
    runs = (len(old.seconds), len(new.seconds))
    bad = [value for value in new.seconds if not (math.isfinite(value) and value > 0)]
    if bad or not new.seconds:
        return _failed(old, f"{bad[0]!r} is no time" if bad else "it has no run", runs)
    other, unknown = _differences(old, new)
    if other:
        return _failed(old, f"not the same thing: {'; '.join(other)}", runs)
    doubt = "; ".join([*unknown, *_other_machine(old.machine, new.machine)]) or None
    return compared(old.key, (old.seconds, new.seconds), conditions, doubt)


def compared(
    key: str, seconds: tuple[list[float], list[float]], conditions: Sequence[Condition], doubt: str | None
) -> TimingVerdict:
    """The verdict on one timing from its runs: the baseline's, and the new ones. ``doubt``: why no ratio decides."""
    ratios = [_judge_condition(condition, *seconds) for condition in conditions]
    if doubt is not None:
        for ratio in ratios:
            ratio.verdict = Verdict.INCONCLUSIVE
    verdict = worst((ratio.verdict for ratio in ratios), of_none=Verdict.PASS)
    reason = doubt or "; ".join(_ratio_text(ratio) for ratio in ratios if ratio.verdict is verdict)
    runs = (len(seconds[0]), len(seconds[1]))
    return TimingVerdict(
        key=key, verdict=verdict, reason=reason, runs=runs, ratios=ratios, doubt=doubt, seconds=seconds
    )


def _failed(old: Cell, reason: str, runs: tuple[int, int] | None = None) -> TimingVerdict:
    return TimingVerdict(key=old.key, verdict=Verdict.FAIL, reason=reason, runs=runs or (len(old.seconds), 0))


def _differences(old: Cell, new: Cell) -> tuple[list[str], list[str]]:
    """What is measured differs, and what only one side tells. A workload that neither tells is unknown as well."""
    other, unknown = [], []
    for name, word in _SAME.items():
        was, is_now = getattr(old, name), getattr(new, name)
        if was is not None and is_now is not None:
            if was != is_now:
                other.append(f"{word} {_short(was)} in the baseline, {_short(is_now)} in this run")
        elif was != is_now or name == "workload_sha256":
            side = "the baseline" if was is None else "this run"
            unknown.append(f"{word} not known of {'either' if was is is_now else side}")
    return other, unknown


def _short(value: object) -> str:
    """A checksum by its beginning; anything else as it is."""
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 else text


def _other_machine(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    both = old.keys() & new.keys()
    if not both:
        return ["it is not known whether it is the same machine"]
    differing = [name for name in old if name in both and not _same_fact(name, old[name], new[name])]
    if not differing:
        return []
    facts = ", ".join(f"{name.replace('_', ' ')} {old[name]} and {new[name]}" for name in differing)
    return [f"another machine than the baseline's: {facts}"]


def _same_fact(name: str, old: Any, new: Any) -> bool:
    if name == "memory_gib" and isinstance(old, int | float) and isinstance(new, int | float):
        return math.isclose(old, new, rel_tol=_MEMORY_TOLERANCE)
    return bool(old == new)


def _judge_condition(condition: Condition, old: Sequence[float], new: Sequence[float]) -> TimingRatio:
    """The ratio this run / baseline with its interval; of throughputs it is the inverse of the median times'."""
    statistic = _STATISTICS[condition.metric]
    over, under = (old, new) if condition.metric == "throughput" else (new, old)
    value = float(statistic(over) / statistic(under))
    few = min(len(old), len(new))
    interval = ratio_interval(over, under, paired=False, statistic=statistic) if few >= MIN_PAIRED_BLOCKS else None
    judged = TimingRatio(
        condition=condition.text, metric=condition.metric, ratio=value, interval=interval, verdict=Verdict.INCONCLUSIVE
    )
    if interval is None:
        judged.note = f"{len(old)} and {len(new)} timed runs; at least {MIN_PAIRED_BLOCKS} of each are needed"
        return judged
    if condition.metric == "p95" and few < P95_SAMPLES:
        judged.note = f"p95 interpolated from {len(old)} and {len(new)} runs"
    low, high = min(interval[0], value), max(interval[1], value)  # a resampled interval need not enclose the value
    if condition.metric == "throughput":
        beyond, within = high < condition.limit, low >= condition.limit
    else:
        beyond, within = low > condition.limit, high <= condition.limit
    judged.verdict = Verdict.FAIL if beyond else Verdict.PASS if within else Verdict.INCONCLUSIVE
    return judged


def _ratio_text(ratio: TimingRatio) -> str:
    text = f"{ratio.metric} is {ratio.ratio:.3g} times the baseline's"
    if ratio.interval is None:
        return f"{text}, from {ratio.note}"
    words = {Verdict.FAIL: "a regression", Verdict.PASS: "no regression", Verdict.INCONCLUSIVE: "undecided"}
    low, high = ratio.interval
    return f"{text} (95 % interval {low:.3g} to {high:.3g}): {words[ratio.verdict]} ({ratio.condition})"


def _summary(cells: Sequence[TimingVerdict], total: int) -> str:
    """The reason of a verdict from those of its timings; those that share a reason are counted."""
    by_reason: dict[str, list[str]] = {}
    for cell in cells:
        by_reason.setdefault(cell.reason, []).append(cell.key)
    reasons = []
    for reason, keys in list(by_reason.items())[:_NAMED]:
        named = ", ".join(keys[:_NAMED]) + (f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else "")
        reasons.append(f"{named}: {reason}")
    more = len(by_reason) - _NAMED
    return f"{len(cells)} of {total} timings: {'; '.join(reasons)}" + (f"; and {more} more" if more > 0 else "")


def _notes(baseline: Baseline, run: Timings, keys: Set[str], excused: Set[str]) -> list[str]:
    notes = []
    further = dict.fromkeys(cell.key for cell in run.cells if cell.key not in keys)
    if further:
        notes.append(f"not in the baseline, and not judged: {', '.join(further)}")
    if excused:
        notes.append(f"not confirmed again, and judged by their sweep: {', '.join(sorted(excused))}")
    for word in ("versions", "settings"):
        old, new = getattr(baseline, word), getattr(run, word)
        differing = [f"{name} {old[name]} → {new[name]}" for name in old if name in new and old[name] != new[name]]
        if differing:
            notes.append(f"other {word}: {', '.join(differing)}")
    return notes
