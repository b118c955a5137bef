"""ScoreMatrix of every side and view → Comparison: one decision, from matrices that were measured here or elsewhere."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import combinations, product
from pathlib import Path
from typing import Final

import pytest_multiitem
from pytest_multiitem.adapters.base import known_backends
from pytest_multiitem.comparison import records
from pytest_multiitem.comparison.decision import correctness, guardrail, public_form, speed
from pytest_multiitem.comparison.decision.guardrail import Candidate
from pytest_multiitem.comparison.decision.measured_side import MeasuredSide, measured_side
from pytest_multiitem.comparison.decision.notes import different_semantics, identity, notes_on, workload_values
from pytest_multiitem.comparison.decision.recommendation import display_name, in_order, recommend
from pytest_multiitem.comparison.records import (
    Check,
    ComparedRow,
    ComparedView,
    Comparison,
    ScoreMatrix,
    SideRow,
    Thresholds,
    Winner,
)
from pytest_multiitem.errors import UsageError
from pytest_multiitem.results.records import Verdict
from pytest_multiitem.results.store import utc_now

#: What others are compared with: the deltas are theirs relative to it.
_BASELINE: Final = "pytorch"


def compare(
    matrices: Sequence[tuple[Path | None, ScoreMatrix]],
    *,
    blocker: str | None = None,
    limits: Thresholds | None = None,
    alone: Mapping[str, str] | None = None,
) -> Comparison:
    """Compare matrices: one or two backends, each once a view; the deltas are relative to PyTorch, else to the backend
    that is named last.

    ``blocker``: why a side is missing, where one is. ``limits``: of the scores' differences (default: those of the
    gates). ``alone``: what a comparison of one backend alone is called, by the backend ("JAX-only partial" where it
    says nothing). Raises UsageError for a side that comes twice, more than two backends, and matrices of different
    workloads.
    """
    sides = [measured_side(path, matrix) for path, matrix in matrices]
    backends = list(dict.fromkeys(side.backend for side in sides))
    _check(sides, backends)
    backends.sort(key=lambda backend: backend == _BASELINE)
    limits = limits or guardrail.thresholds()
    missing = _missing(sides, backends)
    reason = blocker or "; ".join(dict.fromkeys(s.matrix.blocker for s in sides if s.matrix.blocker)) or None
    deferred = None
    if missing:
        deferred = "; ".join(missing) + (f"; blocker: {reason}" if reason else "")
    by_view = {view: [s for b in backends for s in sides if (s.backend, s.view) == (b, view)] for view in _views(sides)}
    views = [_view(name, in_view, deferred, limits) for name, in_view in by_view.items()]
    winners: dict[str, Winner] = {}
    for view in in_order(views):
        winners = {**view.winners_by_backend, **winners}
    recommendation = recommend(views, by_view, deferred)
    if deferred is None:
        summary = f"{recommendation.text} Confidence: {recommendation.confidence}."
    else:
        only = (alone or {}).get(backends[0], f"{display_name(backends[0])}-only partial")
        partial = only if len(backends) == 1 else "Partial"
        own_best = [
            f"{display_name(w.backend)}'s own best is client chunk size {w.client_chunk_size} in {w.view}, "
            f"{w.throughput_items_sec:,.1f} items/s."
            for w in winners.values()
        ]
        summary = " ".join([f"{partial}: {deferred}. Winners across backends are deferred.", *own_best])
    notes = notes_on(sides, [(compared, by_view[compared.view]) for compared in views])
    if blocker and not missing:
        notes.append(f"a blocker was named ({blocker}), but no side is missing")
    if limits != (usual := guardrail.thresholds()):
        notes.append(
            f"scores were judged by limits of one's own, {limits.max_abs_diff:g} for the largest difference and "
            f"{limits.mean_abs_diff:g} for the mean, instead of {usual.max_abs_diff:g} and {usual.mean_abs_diff:g}"
        )
    decided = Comparison(
        schema_version=records.COMPARISON_SCHEMA,
        generated_at_utc=utc_now(),
        status="partial" if missing else "complete",
        blocker=(reason or "; ".join(missing)) if missing else None,
        workload_ref=next(
            (m.workload_ref for _, m in matrices if m.workload_ref.measured_sha256), matrices[0][1].workload_ref
        ),
        workload=next((m.workload for _, m in matrices if m.workload is not None), None),
        sides=[_side(side) for side in sides],
        views=views,
        winners_by_backend=winners,
        recommendation=recommendation,
        summary=summary,
        notes=notes,
        correctness=records.Judged(thresholds=limits),
        package_version=pytest_multiitem.__version__,
    )
    return public_form.filled(decided)


def exit_status(comparison: Comparison, *, allow_inconclusive: bool = False) -> int:
    """0 for a complete comparison whose correctness checks all PASS, at least one of them across backends;
    INCONCLUSIVE may be allowed."""
    across = [check for view in comparison.views for row in view.rows for check in row.checks]
    checks = [*across, *(check for side in comparison.sides for check in side.own_reference_checks)]
    good = {Verdict.PASS.value} | ({Verdict.INCONCLUSIVE.value} if allow_inconclusive else set())
    return int(comparison.status != "complete" or not across or any(check.verdict not in good for check in checks))


def _check(sides: Sequence[MeasuredSide], backends: Sequence[str]) -> None:
    if not sides:
        raise UsageError("there is nothing to compare: expected at least one matrix")
    if len(backends) > 2:
        named = ", ".join(backends)
        raise UsageError(f"matrices of {len(backends)} backends ({named}); expected two at most, compare them in pairs")
    for a, b in combinations(sides, 2):
        if (a.backend, a.view) == (b.backend, b.view):
            raise UsageError(f"{a.named} and {b.named} are the same side in the same view; give one matrix of each")
        for name, ours, theirs in workload_values(a.matrix, b.matrix):
            if ours != theirs:
                raise UsageError(
                    f"{a.named} and {b.named} measured different workloads ({name} {ours} and {theirs}); only matrices "
                    "of one workload can be compared"
                )


def _views(sides: Sequence[MeasuredSide]) -> list[str]:
    known: tuple[str, ...] = records.VIEWS
    names = dict.fromkeys(side.view for side in sides)
    return sorted(names, key=lambda view: known.index(view) if view in known else len(known))


def _missing(sides: Sequence[MeasuredSide], backends: Sequence[str]) -> list[str]:
    """What a complete comparison would have and this one has not."""
    there = {(side.backend, side.view) for side in sides}
    wanted = product(_views(sides), backends)
    missing = [f"there is no {view} matrix of {backend}" for view, backend in wanted if (backend, view) not in there]
    if len(backends) == 1:
        known = known_backends()
        other = next((name for name in known if name not in backends), None) if backends[0] in known else None
        missing = [f"there is no matrix of {other or 'a second backend'}"]
    for side in sides:
        if side.matrix.complete is False or (side.matrix.complete is None and side.matrix.blocker):
            missing.append(f"the matrix of {side.label} is not complete")
        elif not side.rows:
            missing.append(f"the matrix of {side.label} holds no row")
    return missing


def _view(view: str, sides: Sequence[MeasuredSide], deferred: str | None, limits: Thresholds) -> ComparedView:
    """``sides``: one or two, in the order of the deltas."""
    if len(sides) == 1:
        sizes = list(sides[0].rows)
    else:
        a, b = (side.rows.keys() for side in sides)
        # Best native is about each side's best size, whatever the other's; portable about the same contract.
        sizes = sorted(a | b if view == "best_native" else a & b)
    rows = [_row(size, sides, limits) for size in sizes]
    wrong = [row.client_chunk_size for row in rows if row.correct is False]
    right = {row.client_chunk_size for row in rows if row.correct}
    own = {
        side.backend: guardrail.choose(side.candidates(but=[*wrong, *(side.contradictions.keys() - right)]))
        for side in sides
    }
    may_win = {(backend, row.client_chunk_size) for row in rows for backend, s in row.sides.items() if s.eligible}
    eligible = _candidates(sides, may_win)
    chosen = None if deferred else guardrail.choose(eligible)
    best = {b: found.what.winner(found.chunk_size) for b, found in own.items() if found is not None}
    still_open = {(backend, size) for size, backend, _ in public_form.undecided(view, rows, best)}
    undecided = None if deferred or chosen else guardrail.choose(_candidates(sides, still_open))
    return ComparedView(
        view=view,
        backends=[side.backend for side in sides],
        rows=rows,
        guardrail_p95_ms=guardrail.guardrail(eligible),
        winner=None if chosen is None else chosen.what.winner(chosen.chunk_size),
        winner_by_guardrail=None if undecided is None else undecided.what.winner(undecided.chunk_size),
        winners_by_backend=best,
        deferred=deferred or (None if chosen else _nobody(rows)),
    )


def _candidates(sides: Sequence[MeasuredSide], named: Collection[tuple[str, int]]) -> list[Candidate[MeasuredSide]]:
    """The rows of all sides that are named by backend and client chunk size."""
    return [c for side in sides for c in side.candidates() if (side.backend, c.chunk_size) in named]


def _nobody(rows: Sequence[ComparedRow]) -> str:
    """Why nothing wins in a view."""
    if not rows:
        return "no client chunk size was measured on both sides"
    reasons = dict.fromkeys(f"{b}: {side.why_not}" for row in rows for b, side in row.sides.items() if side.why_not)
    shown = list(reasons)[:4]
    return "no row may win (" + "; ".join(shown) + ("; …)" if len(reasons) > len(shown) else ")")


def _row(size: int, sides: Sequence[MeasuredSide], limits: Thresholds) -> ComparedRow:
    """One client chunk size."""
    here = [side for side in sides if size in side.rows]
    row = ComparedRow(client_chunk_size=size, sides={})
    if len(sides) == 2:
        _judge(row, sides, limits)
    for side in here:
        row.sides[side.backend] = _side_row(side, size, row, across=len(sides) == 2)
    if len(here) == 2:
        a, b = (side.rows[size] for side in here)
        compared = speed.versus(a, b)
        row.speed_ratio, row.speed_ratio_interval_95 = compared.ratio, compared.interval
        row.speed_verdict, row.paired = compared.verdict, compared.paired
        row.p95_delta_percent = speed.delta_percent(a.p95_total_e2e_ms, b.p95_total_e2e_ms)
        row.throughput_delta_percent = speed.delta_percent(a.throughput_items_sec, b.throughput_items_sec)
    return row


def _judge(row: ComparedRow, sides: Sequence[MeasuredSide], limits: Thresholds) -> None:
    """Fill in the agreement of both sides, the checks and their verdict."""
    sizes = {side.backend: _scored_size(side, row.client_chunk_size) for side in sides}
    pairs = [(side, size) for side in sides if (size := sizes[side.backend]) is not None]
    if without := [backend for backend, size in sizes.items() if size is None]:
        missing = f"there are no scores of {' and '.join(without)}"
        row.checks = correctness.cross_backend_checks(None, missing, limits)
        return
    rows = [side.rows[size] for side, size in pairs]
    items, labels = _declared(sides)
    row.agreement = correctness.between(rows[0], rows[1], items=items, labels=labels)
    if different_semantics(*(side.matrix for side in sides)):
        row.checks = [check for side, size in pairs for check in side.own_checks(size)]
    else:
        row.checks = correctness.cross_backend_checks(row.agreement, "there are no scores to compare", limits)
    for side, size in pairs:
        if size != row.client_chunk_size:
            for check in row.checks:
                check.reason += f" (against {side.backend} at client chunk size {size})"
    row.correct = correctness.correct(row.checks)


def _scored_size(side: MeasuredSide, size: int) -> int | None:
    """The row whose scores stand for a side. An item's score does not depend on how many are sent with it, so in
    best_native a side that has none at this size, or not this size at all, lends those of its best row."""
    scored = {of: row for of, row in side.rows.items() if row.reference_scores}
    if size in scored or side.view != "best_native":
        return size if size in scored else None
    best = guardrail.choose(side.candidates(but=side.rows.keys() - scored.keys()))
    return None if best is None else best.chunk_size


def _declared(sides: Sequence[MeasuredSide]) -> tuple[int | None, list[int] | None]:
    """How many items and which labels the workload has, where a matrix says so."""
    items, labels = None, None
    for side in sides:
        counted, named = identity(side.matrix, "num_items"), identity(side.matrix, "label_token_ids")
        items = counted if isinstance(counted, int) else items
        labels = named if isinstance(named, list) else labels
    return items, labels


def _side_row(side: MeasuredSide, size: int, compared: ComparedRow, *, across: bool) -> SideRow:
    row = side.rows[size]
    why = side.why_not(size)
    if why is None and compared.correct is not True:
        why = side.contradictions.get(size)
    undecided = why is None and across and compared.correct is None and _is_within(compared.checks)
    if why is None and across and compared.correct is not True:
        wanted = Verdict.INCONCLUSIVE if compared.correct is None else Verdict.FAIL
        reason = next(check.reason for check in compared.checks if check.verdict == wanted)
        why = f"{'correctness is not decided' if compared.correct is None else 'correctness fails'}: {reason}"
    return SideRow(
        p50_ms=row.p50_total_e2e_ms,
        p95_ms=row.p95_total_e2e_ms,
        p95_interpolated=guardrail.p95_interpolated(row),
        throughput_items_sec=row.throughput_items_sec,
        success_rate=guardrail.success_rate(row),
        usd_per_run=row.usd_per_run,
        items_per_usd=row.items_per_usd,
        confirmed=size in side.confirmed,
        eligible=why is None,
        undecided=undecided,
        why_not=why,
    )


def _is_within(checks: Sequence[Check]) -> bool:
    """Whether all differences are known and within their limits, whatever else is not known."""
    return all(c.value is not None and c.limit is not None and c.value <= c.limit for c in checks)


def _side(side: MeasuredSide) -> records.Side:
    agreement, checks = side.worst_own()
    shared = {*records.Side.__struct_fields__} & {*ScoreMatrix.__struct_fields__}
    return records.Side(
        view=side.view,
        path=None if side.path is None else str(side.path),
        workload_sha256=side.matrix.workload_ref.measured_sha256,
        own_reference_checks=checks,
        own_reference_agreement=agreement,
        chunk_sizes=[*side.rows],
        **{name: getattr(side.matrix, name) for name in shared},
    )
