"""Whether a comparison's deltas follow from its rows, and whether its winners could win."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from pytest_multiitem.comparison.decision import guardrail, public_form
from pytest_multiitem.comparison.decision.correctness import OWN_REFERENCE, cross_backend_gates
from pytest_multiitem.comparison.decision.guardrail import GUARDRAIL_RATIO, Candidate
from pytest_multiitem.comparison.files import Artefact
from pytest_multiitem.comparison.records import (
    Agreement,
    Check,
    ComparedRow,
    ComparedView,
    Comparison,
    SideRow,
    Thresholds,
    Winner,
)
from pytest_multiitem.gates.gate import Gate
from pytest_multiitem.gates.judge import judge_difference
from pytest_multiitem.results.figures import contradictions, differs
from pytest_multiitem.results.records import Evidence, Verdict
from pytest_multiitem.validation import public_comparison
from pytest_multiitem.validation.linked_workload import linked
from pytest_multiitem.validation.score_matrix import is_usable, twice

#: Percentage points: other tools round a delta to one decimal.
_DELTA = 0.05
#: Relative: a winner repeats its row's numbers, perhaps rounded.
_COPIED = 1e-3
_EXACT = 1e-6


def summary(comparison: Comparison) -> str:
    """What it holds, in a few words."""
    if not comparison.views:
        return public_comparison.summary(comparison)
    sides = ", ".join(f"{side.backend} {side.view}" for side in comparison.sides) or "no sides"
    return f"{comparison.status or 'of unknown status'}: {sides}"


@dataclass(frozen=True)
class _Named:
    """A winner, where the file names it, and of which view; ``backend``: whose winner it is; None: of all."""

    where: str
    winner: Winner
    view: str
    backend: str | None = None


def problems(artefact: Artefact[Comparison]) -> list[str]:
    """What is wrong with a comparison whose schema holds."""
    comparison, content = artefact.record, artefact.content
    if not comparison.views:
        return [*public_comparison.problems(comparison, content)]
    found = [*linked(artefact.path, comparison.workload_ref)[1], *_status(comparison), *_public(comparison)]
    limits = _limits(comparison)
    for side in comparison.sides:
        own = _checks(side.own_reference_checks, side.own_reference_agreement, OWN_REFERENCE)
        found += [f"{side.backend} {side.view}: {text}" for text in own]
    raw_views = content.get("views", ())
    for view, raw in zip(comparison.views, raw_views, strict=True):
        where = f"view {view.view}"
        found += twice(where, [row.client_chunk_size for row in view.rows])
        for row, raw_row in zip(view.rows, raw["rows"], strict=True):
            found += [f"{where}, chunk size {row.client_chunk_size}: {t}" for t in _row(view, row, raw_row, limits)]
        found += [f"{where}: {text}" for text in _by_guardrail(view)]
    views = {view.view: (view, raw) for view, raw in zip(comparison.views, raw_views, strict=True)}
    for named in _winners(comparison):
        found += _unmeasured(comparison, named.winner)
        if "views" in content:
            found += [f"{named.where} {text}" for text in _won(named, views)]
    return list(dict.fromkeys(found))


def _winners(comparison: Comparison) -> Iterator[_Named]:
    """Every winner that the file names."""
    for view in comparison.views:
        where = f"view {view.view}: the winner"
        if view.winner is not None:
            yield _Named(where, view.winner, view.view)
        for backend, winner in view.winners_by_backend.items():
            yield _Named(f"{where} of {backend}", winner, view.view, backend)
    for backend, winner in comparison.winners_by_backend.items():
        yield _Named(f"winners_by_backend: the winner of {backend}", winner, winner.view, backend)
    chosen = None if comparison.recommendation is None else comparison.recommendation.winner
    if chosen is not None:
        yield _Named("recommendation: the winner", chosen, chosen.view)


def _unmeasured(comparison: Comparison, winner: Winner) -> Iterator[str]:
    """Where a winner has a chunk size that its side did not measure, as far as the file says which those are."""
    for side in comparison.sides:
        sizes = side.chunk_sizes
        is_side = (side.backend, side.view) == (winner.backend, winner.view)
        if is_side and sizes is not None and winner.client_chunk_size not in sizes:
            size, where = winner.client_chunk_size, f"{winner.backend} {winner.view}"
            yield f"the winner ({winner.backend}, chunk size {size}) was not measured: {where} has {sizes}"


def _won(named: _Named, views: Mapping[str, tuple[ComparedView, dict[str, Any]]]) -> Iterator[str]:
    """What is wrong with a winner, by the rows of its view."""
    view = views.get(named.view)
    if view is None:
        yield f"is of the view {named.view!r}, which this file does not hold"
    elif named.backend is None:
        yield from _winner(named.winner, *view, across=True)
    elif named.winner.backend != named.backend:
        yield f"is of {named.winner.backend}"
    else:
        yield from _winner(named.winner, *view, across=False)


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


def _limits(comparison: Comparison) -> Thresholds:
    """What the scores of both sides were judged by."""
    stated = None if comparison.correctness is None else comparison.correctness.thresholds
    return guardrail.thresholds() if stated is None else stated


def _public(comparison: Comparison) -> Iterator[str]:
    """Where a field of the public form does not follow from the others."""
    wanted = msgspec.to_builtins(public_form.fields(comparison))
    stated = {name: value for name in public_form.FIELDS if (value := getattr(comparison, name))}
    same = {name: wanted[name] for name in stated}
    for _, text in contradictions(msgspec.to_builtins(stated), same, "views and sides give"):
        yield text


def _by_guardrail(view: ComparedView) -> Iterator[str]:
    """Whether what wins by the guardrail alone is the best of the rows that are undecided, and nothing else wins."""
    for row in view.rows:
        for name, side in row.sides.items():
            if side.undecided and (row.correct is not None or side.eligible or side.success_rate != 1.0):
                yield f"chunk size {row.client_chunk_size}: {name} is undecided, but its row is not"
    best, candidates = (
        view.winner_by_guardrail,
        [
            Candidate(side.p95_ms, side.throughput_items_sec, size, name)
            for size, name, side in public_form.undecided(view.view, view.rows, view.winners_by_backend)
            if is_usable(side.p95_ms) and is_usable(side.throughput_items_sec)
        ],
    )
    if best is None:
        return
    named = f"winner_by_guardrail ({best.backend}, chunk size {best.client_chunk_size})"
    chosen = guardrail.choose(candidates)
    if view.winner is not None:
        yield f"{named} stands beside a winner"
    elif chosen is None or (chosen.what, chosen.chunk_size) != (best.backend, best.client_chunk_size):
        yield f"{named} is not what the undecided rows give"
    else:
        what = f"{named}: throughput_items_sec"
        yield from differs(what, best.throughput_items_sec, chosen.throughput, "its row has")
        yield from differs(f"{named}: p95_ms", best.p95_ms, chosen.p95_ms, "its row has")


def _row(view: ComparedView, row: ComparedRow, raw: dict[str, Any], limits: Thresholds) -> Iterator[str]:
    if row.correct is True:
        for check in row.checks:
            if check.verdict == Verdict.FAIL:
                yield f"correct is true, but {check.gate} is FAIL"
    yield from _checks(row.checks, row.agreement, cross_backend_gates(limits))
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
