"""Compared views → Recommendation, with a confidence that follows from verdicts and intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pytest_multiitem.comparison.decision import guardrail, speed
from pytest_multiitem.comparison.decision.measured_side import MeasuredSide
from pytest_multiitem.comparison.records import Check, ComparedView, Recommendation, Row, Winner
from pytest_multiitem.results.records import Verdict

#: With more conditions than this that do not hold, the confidence is low.
_MEDIUM = 2
_DISPLAY_NAMES = {"jax": "JAX", "pytorch": "PyTorch"}
_PREFERRED = ("best_native", "portable")


@dataclass(frozen=True)
class Condition:
    """One thing that a high confidence rests on. ``follow_up``: what to do where it does not hold."""

    holds: bool
    reason: str
    follow_up: str


def display_name(backend: str) -> str:
    """A backend's name as people write it."""
    return _DISPLAY_NAMES.get(backend, backend)


def in_order(views: Iterable[ComparedView]) -> list[ComparedView]:
    """The views as a recommendation prefers them: best_native, portable, others."""
    return sorted(views, key=lambda v: _PREFERRED.index(v.view) if v.view in _PREFERRED else len(_PREFERRED))


def recommend(
    views: Sequence[ComparedView], by_view: Mapping[str, Sequence[MeasuredSide]], deferred: str | None
) -> Recommendation:
    """What to deploy: best_native's winner, else portable's, else nothing. Named beside it: the fastest correct row of
    any view, where it is shown to be faster.

    The confidence is "low" where the winner is not shown to be faster than the other backend's best row: the 95 %
    interval of the ratio of their medians must exclude 1. Where it does: "high" if every other condition holds,
    "medium" if one or two do not, "low" if more do not. It is "none" without a recommendation.
    """
    if deferred is not None:
        return Recommendation(
            text=f"There is no recommendation yet: {deferred}.",
            confidence="none",
            reasons=[deferred],
            follow_ups=["Measure what is missing, and compare again."],
        )
    ordered = in_order(views)
    view = next((view for view in ordered if view.winner is not None), None)
    if view is None or view.winner is None:
        return Recommendation(
            text=" ".join(["There is no recommendation: no configuration may win.", *_by_guardrail(ordered, by_view)]),
            confidence="none",
            reasons=[f"{v.view}: {v.deferred}" for v in ordered],
            follow_ups=[_CHECKS_FOLLOW_UP] if _bad(_all_checks(views, by_view)) else [_ROWS_FOLLOW_UP],
        )
    winner = view.winner
    mine = next(side for side in by_view[view.view] if side.backend == winner.backend)
    other = next(side for side in by_view[view.view] if side.backend != winner.backend)
    rival = view.winners_by_backend.get(other.backend)
    best = [(mine, winner), *([(other, rival)] if rival is not None else [])]
    faster, pace, words = _faster(mine, winner, other, rival)
    fastest = _fastest(_row(by_view, winner), views, by_view)
    conditions = [
        _checks(_all_checks(views, by_view)),
        _paired(pace),
        _confirmed(best),
        _same_to_itself([mine, other], [side for sides in by_view.values() for side in sides]),
        _stable(best),
        fastest,
        *_preferred(view, ordered, by_view),
    ]
    failed = [condition for condition in conditions if not condition.holds]
    confidence: Literal["high", "medium", "low"] = (
        "low" if not faster.holds or len(failed) > _MEDIUM else "medium" if failed else "high"
    )
    follow_ups = [c.follow_up for c in (faster, *conditions) if not c.holds]
    if all(v.view != "best_native" for v in views):
        follow_ups.append("Compare best_native too: each backend with the settings it runs best with.")
    return Recommendation(
        text=f"{_described(mine, winner)}; {words}." + ("" if fastest.holds else f" But {fastest.reason}."),
        confidence=confidence,
        reasons=[f"{'supports' if c.holds else 'weakens'}: {c.reason}" for c in (faster, *conditions)],
        winner=winner,
        follow_ups=list(dict.fromkeys(follow_ups)),
    )


def _by_guardrail(ordered: Sequence[ComparedView], by_view: Mapping[str, Sequence[MeasuredSide]]) -> list[str]:
    """What would win if the scores that the evidence does not decide were right; nothing where nothing would."""
    for view in ordered:
        won = view.winner_by_guardrail
        if won is not None:
            mine = next(side for side in by_view[view.view] if side.backend == won.backend)
            described = _described(mine, won)
            return [f"By the guardrail rule alone it would be {described}; its scores are not shown to be right."]
    return []


def _fastest(chosen: Row, views: Sequence[ComparedView], by_view: Mapping[str, Sequence[MeasuredSide]]) -> Condition:
    """Whether no correct row of any view is shown to be faster than the chosen one, whatever its p95 is."""
    correct = [
        (side, compared.client_chunk_size)
        for view in views
        for compared in view.rows
        for side in by_view[view.view]
        if compared.correct and side.backend in compared.sides and side.is_sound(compared.client_chunk_size)
    ]
    paces = [(speed.versus(chosen, side.rows[size]), side, size) for side, size in correct]
    shown = [(pace, side, size) for pace, side, size in paces if pace.verdict == "b_faster"]
    if not shown:
        return Condition(True, "no correct row of any view is shown to be faster", "")
    pace, side, size = max(shown, key=lambda found: found[1].rows[found[2]].throughput_items_sec or 0.0)
    interval = "" if pace.interval is None else ", 95 % interval {:.3f} to {:.3f}".format(*pace.interval)
    reason = (
        f"the fastest correct row is {display_name(side.backend)} at client chunk size {size} in {side.view}, "
        f"{pace.ratio:.3f} times as fast{interval}"
    )
    return Condition(
        False, reason, f"Find out what keeps the fastest correct row from winning: {side.label} at {size}."
    )


def _described(mine: MeasuredSide, winner: Winner) -> str:
    what = ", ".join([*filter(None, [winner.engine]), *([f"mask {winner.mask}"] if winner.mask else [])])
    mark = " (interpolated)" if guardrail.p95_interpolated(mine.rows[winner.client_chunk_size]) else ""
    p95 = "" if winner.p95_ms is None else f", p95 {winner.p95_ms:,.1f} ms{mark}"
    return (
        f"{display_name(winner.backend)}{f' ({what})' if what else ''} at client chunk size "
        f"{winner.client_chunk_size} in {winner.view}: {winner.throughput_items_sec:,.1f} items/s{p95}"
    )


def _faster(
    mine: MeasuredSide, winner: Winner, other: MeasuredSide, rival: Winner | None
) -> tuple[Condition, speed.Speed | None, str]:
    """Whether the winner is shown to be faster than the other backend's best row; the ratio; both in words."""
    more_runs = "Time more runs of both backends' best rows: which one is faster is not decided."
    if rival is None:
        words = f"{display_name(other.backend)} has no row that may win"
        follow_up = f"Find out why no row of {display_name(other.backend)} is eligible, and measure it again."
        return Condition(False, f"{words}, so there is none to be faster than", follow_up), None, words
    pace = speed.versus(other.rows[rival.client_chunk_size], mine.rows[winner.client_chunk_size])
    best = f"{display_name(rival.backend)}'s best row (client chunk size {rival.client_chunk_size})"
    if pace.ratio is None or pace.interval is None:
        words = f"its speed was not compared with {best}: {pace.why}"
        return Condition(False, words, more_runs), pace, words
    interval = "95 % interval {:.3f} to {:.3f}".format(*pace.interval)
    words = f"{pace.ratio:.3f} times as fast as {best}, {interval}"
    if pace.verdict == "b_faster":
        return Condition(True, words, ""), pace, words
    if pace.verdict == "a_faster":
        words = f"by its median it is slower ({words}), and it wins by the guardrail alone"
        return Condition(False, words, "Find out what makes the faster row's p95 high."), pace, words
    words = f"no difference to {best} is shown: ratio of medians {pace.ratio:.3f}, {interval}"
    return Condition(False, words, more_runs), pace, words


_CHECKS_FOLLOW_UP = "Find out why not every correctness check is a PASS: the report lists each with its reason."
_ROWS_FOLLOW_UP = "Find out why no row is eligible: the report lists each with its reason."


def _all_checks(views: Iterable[ComparedView], by_view: Mapping[str, Sequence[MeasuredSide]]) -> list[Check]:
    between = [check for view in views for row in view.rows for check in row.checks]
    return between + [check for sides in by_view.values() for side in sides for check in side.worst_own()[1]]


def _bad(checks: Iterable[Check]) -> list[Check]:
    return [check for check in checks if check.verdict != Verdict.PASS]


def _checks(checks: Sequence[Check]) -> Condition:
    bad = _bad(checks)
    reason = f"{len(checks) - len(bad)} of {len(checks)} correctness checks are a PASS"
    return Condition(not bad, reason, _CHECKS_FOLLOW_UP)


def _paired(pace: speed.Speed | None) -> Condition:
    holds = pace is not None and pace.paired is True
    runs = "" if pace is None else f", {pace.runs[1]} runs against {pace.runs[0]}"
    reason = f"both best rows were {'' if holds else 'not '}measured in interleaved blocks{runs}"
    return Condition(holds, reason, "Measure both backends' best rows in interleaved blocks of one run.")


def _confirmed(best: Sequence[tuple[MeasuredSide, Winner]]) -> Condition:
    swept = [
        f"{display_name(won.backend)} at {won.client_chunk_size}"
        for side, won in best
        if won.client_chunk_size not in side.confirmed
    ]
    reason = f"swept and not confirmed: {', '.join(swept)}" if swept else "both best rows were confirmed"
    return Condition(not swept, reason, f"Measure again what was swept only: {', '.join(swept)}.")


def _same_to_itself(compared: Sequence[MeasuredSide], everything: Sequence[MeasuredSide]) -> Condition:
    """Every machine that was compared shows no difference between a server and itself (A/A)."""
    intervals: list[tuple[float, float]] = []
    without = []
    for side in compared:
        machine = [s.matrix.self_comparison for s in everything if s.matrix.hardware == side.matrix.hardware]
        own = [aa.ratio_interval_95 for aa in machine if aa is not None and aa.ratio_interval_95 is not None]
        intervals += own
        if not own:
            without.append(display_name(side.backend))
    shown = ", ".join(dict.fromkeys(f"{low:.3f} to {high:.3f}" for low, high in intervals))
    if not all(low <= 1 <= high for low, high in intervals):
        reason = f"a server compared with itself shows a difference (95 % interval of the ratio {shown})"
        return Condition(False, reason, "Quieten the machine until a server compared with itself shows no difference.")
    if without:
        reason = f"no server was compared with itself on the machine of {' and '.join(without)}"
        return Condition(False, reason, "Compare a server with itself (A/A) on every machine.")
    reason = f"a server compared with itself shows no difference (95 % interval of the ratio {shown})"
    return Condition(True, reason, "")


def _stable(best: Sequence[tuple[MeasuredSide, Winner]]) -> Condition:
    flags = [
        f"{display_name(won.backend)} at {won.client_chunk_size}: {flag}"
        for side, won in best
        for row in [side.rows[won.client_chunk_size]]
        for flag in (row.unstable, row.recompilation)
        if flag
    ]
    reason = "; ".join(flags) or "both best rows ran steadily, with nothing compiled in the timed runs"
    follow_up = "Measure the unsteady rows again, with more warm-up runs and on a quiet machine."
    return Condition(not flags, reason, follow_up)


def _preferred(
    view: ComparedView, ordered: Sequence[ComparedView], by_view: Mapping[str, Sequence[MeasuredSide]]
) -> list[Condition]:
    """Whether best_native's winner is recommended, and each backend was at its best there; nothing to say where that
    view was not measured."""
    native = next((v for v in ordered if v.view == "best_native"), None)
    if native is None:
        return []
    if native is not view:
        return [Condition(False, f"best_native has no winner: {native.deferred}", _ROWS_FOLLOW_UP)]
    better = []
    for other in ordered:
        for backend, there in other.winners_by_backend.items():
            here = native.winners_by_backend.get(backend)
            if other is native or here is None:
                continue
            pace = speed.versus(_row(by_view, here), _row(by_view, there))
            if pace.verdict == "b_faster":
                better.append(
                    f"{display_name(backend)} is {pace.ratio:.3f} times as fast in {other.view} (client chunk size "
                    f"{there.client_chunk_size}) as in best_native ({here.client_chunk_size})"
                )
    if better:
        follow_up = (
            "Compare with the settings of the view in which the backend is faster: its recommended ones are not."
        )
        return [Condition(False, "; ".join(better), follow_up)]
    return [Condition(True, "each backend ran with its own best settings (best_native)", "")]


def _row(by_view: Mapping[str, Sequence[MeasuredSide]], won: Winner) -> Row:
    """The row that won."""
    side = next(side for side in by_view[won.view] if side.backend == won.backend)
    return side.rows[won.client_chunk_size]
