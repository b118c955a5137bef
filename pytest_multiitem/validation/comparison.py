"""Whether a comparison's deltas follow from its rows, and whether its winners could win."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pytest_multiitem.comparison.decision import guardrail
from pytest_multiitem.comparison.decision.correctness import CROSS_BACKEND, OWN_REFERENCE
from pytest_multiitem.comparison.decision.guardrail import GUARDRAIL_RATIO, Candidate
from pytest_multiitem.comparison.files import Artefact
from pytest_multiitem.comparison.records import Agreement, Check, ComparedRow, ComparedView, Comparison, SideRow, Winner
from pytest_multiitem.gates.gate import Gate
from pytest_multiitem.gates.judge import judge_difference
from pytest_multiitem.results.figures import differs
from pytest_multiitem.results.records import Evidence, Verdict
from pytest_multiitem.validation.linked_workload import linked
from pytest_multiitem.validation.score_matrix import twice

#: Percentage points: other tools round a delta to one decimal.
_DELTA = 0.05
#: Relative: a winner repeats its row's numbers, perhaps rounded.
_COPIED = 1e-3
_EXACT = 1e-6


def summary(comparison: Comparison) -> str:
    """What it holds, in a few words."""
    sides = ", ".join(f"{side.backend} {side.view}" for side in comparison.sides) or "no sides"
    return f"{comparison.status or 'of unknown status'}: {sides}"


def problems(artefact: Artefact[Comparison]) -> list[str]:
    """What is wrong with a comparison whose schema holds."""
    comparison, content = artefact.record, artefact.content
    found = [*linked(artefact.path, comparison.workload_ref)[1], *_status(comparison)]
    for side in comparison.sides:
        own = _checks(side.own_reference_checks, side.own_reference_agreement, OWN_REFERENCE)
        found += [f"{side.backend} {side.view}: {text}" for text in own]
    raw_views = content.get("views", ())
    for view, raw in zip(comparison.views, raw_views, strict=True):
        where = f"view {view.view}"
        found += twice(where, [row.client_chunk_size for row in view.rows])
        for row, raw_row in zip(view.rows, raw["rows"], strict=True):
            found += [f"{where}, chunk size {row.client_chunk_size}: {t}" for t in _row(view, row, raw_row)]
        if view.winner is not None:
            found += [f"{where}: the winner {text}" for text in _winner(view.winner, view, raw, across=True)]
        for backend, winner in view.winners_by_backend.items():
            who = f"{where}: the winner of {backend}"
            found += [f"{who} {text}" for text in _own_winner(backend, winner, view, raw)]
    found += _unmeasured(comparison)
    if "views" in content:
        found += _overall(comparison, {v.view: (v, raw) for v, raw in zip(comparison.views, raw_views, strict=True)})
    return found


def _unmeasured(comparison: Comparison) -> Iterator[str]:
    """Winners at a chunk size that their side did not measure, as far as the file says which those are."""
    measured = {(side.backend, side.view): side.chunk_sizes for side in comparison.sides}
    winners = [*comparison.winners_by_backend.values()]
    for view in comparison.views:
        winners += filter(None, (view.winner, *view.winners_by_backend.values()))
    if comparison.recommendation is not None and comparison.recommendation.winner is not None:
        winners.append(comparison.recommendation.winner)
    for winner in winners:
        sizes = measured.get((winner.backend, winner.view))
        if sizes is not None and winner.client_chunk_size not in sizes:
            size, where = winner.client_chunk_size, f"{winner.backend} {winner.view}"
            yield f"the winner ({winner.backend}, chunk size {size}) was not measured: {where} has {sizes}"


def _overall(comparison: Comparison, views: Mapping[str, tuple[ComparedView, dict[str, Any]]]) -> Iterator[str]:
    """The winners of all views, and the recommendation."""
    absent = "is of the view {!r}, which this file does not hold"
    for backend, winner in comparison.winners_by_backend.items():
        view = views.get(winner.view)
        texts: Iterable[str] = [absent.format(winner.view)] if view is None else _own_winner(backend, winner, *view)
        yield from (f"winners_by_backend: the winner of {backend} {text}" for text in texts)
    chosen = None if comparison.recommendation is None else comparison.recommendation.winner
    if chosen is not None:
        view = views.get(chosen.view)
        texts = [absent.format(chosen.view)] if view is None else _winner(chosen, *view, across=True)
        yield from (f"recommendation: the winner {text}" for text in texts)


def _status(comparison: Comparison) -> Iterator[str]:
    if comparison.status == "complete":
        for side in comparison.sides:
            if side.complete is False:
                yield f"status is complete, but the matrix of {side.backend} {side.view} is not"
    if comparison.status != "partial":
        return
    if not (comparison.blocker or "").strip():
        yield "status is partial, but no blocker is named"
    for view in comparison.views:
        if view.winner is not None:
            yield f"status is partial, but view {view.view} has a winner across backends"
    if comparison.recommendation is not None and comparison.recommendation.winner is not None:
        yield "status is partial, but the recommendation has a winner"


def _row(view: ComparedView, row: ComparedRow, raw: dict[str, Any]) -> Iterator[str]:
    if row.correct is True:
        for check in row.checks:
            if check.verdict == Verdict.FAIL:
                yield f"correct is true, but {check.gate} is FAIL"
    yield from _checks(row.checks, row.agreement, CROSS_BACKEND)
    a, b = [row.sides.get(backend) for backend in view.backends] if len(view.backends) == 2 else (None, None)
    if a is not None and b is not None:
        yield from _delta("p95_delta_percent", row.p95_delta_percent, a.p95_ms, b.p95_ms)
        throughputs = a.throughput_items_sec, b.throughput_items_sec
        yield from _delta("throughput_delta_percent", row.throughput_delta_percent, *throughputs)


def _checks(checks: Sequence[Check], agreed: Agreement | None, gates: Sequence[Gate]) -> Iterator[str]:
    """Whether verdicts follow from their values, and those from the agreement beside them."""
    for check in checks:
        at = next((at for at, gate in enumerate(gates) if gate.name == check.gate), None)
        if at is None:
            continue
        gate, name = gates[at], ("max_abs_diff", "mean_abs_diff")[at]
        assert gate.limit is not None
        if check.limit is not None and check.limit != gate.limit:
            yield f"{check.gate}: its limit is {check.limit:g}; this gate's is {gate.limit:g}"
        measured = None if agreed is None else getattr(agreed, name)
        value = measured if check.value is None else check.value
        if check.value is not None and agreed is not None:
            yield from differs(f"{check.gate}: its value", check.value, measured, f"{name} is")
        if value is None or check.verdict != Verdict.PASS:
            continue
        if agreed is None:  # another tool's: what else it rests on is not known
            verdict, reason = Verdict.PASS if value <= gate.limit else Verdict.FAIL, f"{value:.6g}"
        else:
            evidence = Evidence(noise_floor=agreed.noise_floor, score_spread=agreed.score_spread)
            verdict, reason = judge_difference(gate, value, evidence)
        if verdict is not Verdict.PASS:
            yield f"{check.gate} is PASS; its figures give {verdict}: {reason}"


def _delta(name: str, stated: float | None, a: float | None, b: float | None) -> Iterator[str]:
    """A relative to B, in percent."""
    if stated is None or a is None or b is None or not b > 0:
        return
    wanted = 100 * (a / b - 1)
    if abs(stated - wanted) > max(_DELTA, _EXACT * abs(wanted)):
        yield f"{name} is {stated:.6g}, but {a:.9g} against {b:.9g} is {wanted:.6g}"


def _own_winner(backend: str, winner: Winner, view: ComparedView, raw: dict[str, Any]) -> Iterator[str]:
    if winner.backend != backend:
        yield f"is of {winner.backend}"
    else:
        yield from _winner(winner, view, raw, across=False)


def _winner(winner: Winner, view: ComparedView, raw_view: dict[str, Any], *, across: bool) -> Iterator[str]:
    """``across``: it won against the other backend as well, so it must be shown to be correct."""
    named = f"({winner.backend}, chunk size {winner.client_chunk_size})"
    if winner.view != view.view:
        yield f"{named} is of the view {winner.view!r}"
        return
    rows = [(row, raw) for row, raw in zip(view.rows, raw_view["rows"], strict=True) if winner.backend in row.sides]
    found = next(((row, raw) for row, raw in rows if row.client_chunk_size == winner.client_chunk_size), None)
    if found is None:
        # A view of two backends holds their common chunk sizes; one backend alone may do best at another one.
        if across or len(view.backends) < 2:
            yield f"{named} is no row of this file"
        return
    row, raw = found
    side, raw_side = row.sides[winner.backend], raw["sides"][winner.backend]
    if row.correct is False or (across and row.correct is None and "correct" in raw):
        yield f"{named} is a row that {'is not correct' if row.correct is False else 'is not shown to be correct'}"
    elif not _eligible(side, raw_side) if across else side.success_rate not in (None, 1.0):
        yield f"{named} is a row that may not win{f': {side.why_not}' if side.why_not else ''}"
    for name in ("throughput_items_sec", "p50_ms", "p95_ms"):
        stated, there = getattr(winner, name), getattr(side, name)
        known = stated is not None and there is not None and math.isfinite(stated + there)
        if known and not math.isclose(stated, there, rel_tol=_COPIED):
            yield f"{named} has a {name} of {stated:.9g}, but its row {there:.9g}"
    limit = view.guardrail_p95_ms if across else _own_guardrail(winner.backend, rows)
    if limit is not None and side.p95_ms is not None and side.p95_ms > limit * (1 + _EXACT):
        yield f"{named} has a p95 of {side.p95_ms:.9g} ms, above the guardrail, {limit:.9g} ms"


def _eligible(side: SideRow, raw: dict[str, Any]) -> bool:
    """What the row says; where it says nothing, whether anything keeps it from winning."""
    return side.eligible if "eligible" in raw else side.success_rate in (None, 1.0)


def _own_guardrail(backend: str, rows: list[tuple[ComparedRow, dict[str, Any]]]) -> float | None:
    """1.25 times the lowest p95 of a backend's rows that may win."""
    return guardrail.guardrail(
        [
            Candidate(side.p95_ms, side.throughput_items_sec or 0.0, row.client_chunk_size, None)
            for row, raw in rows
            if (side := row.sides[backend]).p95_ms is not None
            and math.isfinite(side.p95_ms)
            and row.correct is not False
            and _eligible(side, raw["sides"][backend])
        ],
        GUARDRAIL_RATIO,
    )
