"""A comparison of the public scripts → the same in the form of ours: its views judged again, its winners marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from pytest_multiitem.comparison.decision import guardrail, speed
from pytest_multiitem.comparison.decision.correctness import correct, cross_backend_checks
from pytest_multiitem.comparison.decision.guardrail import Candidate
from pytest_multiitem.comparison.decision.public_form import BACKENDS
from pytest_multiitem.comparison.decision.recommendation import display_name
from pytest_multiitem.comparison.records import (
    Agreement,
    BestNativeView,
    ComparedRow,
    ComparedView,
    Comparison,
    PortableView,
    PublicCorrectness,
    PublicSide,
    Recommendation,
    Side,
    SideRow,
    Thresholds,
    Winner,
)

_WHY = "the file holds no noise floor, so that its scores are not shown to be right"


def from_public(comparison: Comparison) -> Comparison:
    """With views and sides, as far as the public form tells them. Nothing wins for certain: it holds no noise floor and
    no runs. What wins by the guardrail rule is worked out again."""
    stated = None if comparison.correctness is None else comparison.correctness.thresholds
    limits = stated or guardrail.thresholds()
    views = []
    if comparison.portable_view is not None:
        views.append(_portable(comparison.portable_view, limits))
    if comparison.best_native_view is not None:
        views.append(_best_native(comparison.best_native_view, limits))
    best = next((v.winner_by_guardrail for v in reversed(views) if v.winner_by_guardrail is not None), None)
    text = "There is no recommendation: no configuration may win."
    if best is not None:
        text += (
            f" By the guardrail rule alone it would be {display_name(best.backend)} at client chunk size "
            f"{best.client_chunk_size} in {best.view}; its scores are not shown to be right."
        )
    follow_up = "Compare the matrices themselves, measured with noise floors: multiitem compare run."
    return msgspec.structs.replace(
        comparison,
        status="complete",
        sides=[
            Side(backend=backend, view=view.view, path=comparison.inputs.get(f"{backend}_{view.view}_json"))
            for view in views
            for backend in BACKENDS
        ],
        views=views,
        summary=f"{text} Confidence: none.",
        recommendation=Recommendation(text=text, confidence="none", reasons=[_WHY], follow_ups=[follow_up]),
    )


def _portable(view: PortableView, limits: Thresholds) -> ComparedView:
    rows = [
        _row(row.client_chunk_size, {"jax": row.jax, "pytorch": row.pytorch}, row.correctness, limits)
        for row in view.rows
    ]
    return _view("portable", rows)


def _best_native(view: BestNativeView, limits: Thresholds) -> ComparedView:
    """A row for each backend's client chunk size; scores do not depend on it, so both are judged by one difference."""
    found = view.correctness or PublicCorrectness(passed=False, status="missing_scores")
    sides = {
        name: side for name, side in zip(BACKENDS, (view.jax_selected, view.pytorch_selected), strict=True) if side
    }
    sizes = sorted({side.client_chunk_size for side in sides.values()})
    here: list[Mapping[str, PublicSide]] = [
        {name: side for name, side in sides.items() if side.client_chunk_size == size} for size in sizes
    ]
    rows = [_row(size, of, found, limits) for size, of in zip(sizes, here, strict=True)]
    return _view("best_native", rows)


def _row(size: int, sides: Mapping[str, PublicSide], found: PublicCorrectness, limits: Thresholds) -> ComparedRow:
    agreed = None
    if found.status == "ok":
        agreed = Agreement(
            num_compared=found.num_compared, max_abs_diff=found.max_abs_diff, mean_abs_diff=found.mean_abs_diff
        )
    checks = cross_backend_checks(agreed, found.detail or "there are no scores to compare", limits)
    row = ComparedRow(client_chunk_size=size, sides={}, agreement=agreed, checks=checks, correct=correct(checks))
    for name, side in sides.items():
        whole = side.success_rate == 1
        may_be = whole and found.passed and row.correct is None
        row.sides[name] = SideRow(
            p95_ms=side.p95_total_e2e_ms,
            throughput_items_sec=side.throughput_items_sec,
            success_rate=side.success_rate,
            undecided=may_be,
            why_not=_WHY if may_be else checks[0].reason if whole else f"its success rate is {side.success_rate}",
        )
    if len(row.sides) == len(BACKENDS):
        a, b = row.sides["jax"], row.sides["pytorch"]
        row.p95_delta_percent = speed.delta_percent(a.p95_ms, b.p95_ms)
        row.throughput_delta_percent = speed.delta_percent(a.throughput_items_sec, b.throughput_items_sec)
    return row


def _view(name: str, rows: Sequence[ComparedRow]) -> ComparedView:
    own = {backend: won for backend in BACKENDS if (won := _best(name, rows, (backend,))) is not None}
    return ComparedView(
        view=name,
        backends=list(BACKENDS),
        rows=list(rows),
        winner_by_guardrail=_best(name, rows, BACKENDS),
        winners_by_backend=own,
        deferred=_WHY,
    )


def _best(view: str, rows: Sequence[ComparedRow], backends: Sequence[str]) -> Winner | None:
    chosen = guardrail.choose(
        [
            Candidate(side.p95_ms, side.throughput_items_sec, row.client_chunk_size, backend)
            for row in rows
            for backend, side in row.sides.items()
            if backend in backends and side.undecided
            if side.p95_ms is not None and side.throughput_items_sec is not None
        ]
    )
    if chosen is None:
        return None
    return Winner(
        backend=chosen.what,
        view=view,
        client_chunk_size=chosen.chunk_size,
        throughput_items_sec=chosen.throughput,
        p95_ms=chosen.p95_ms,
    )
