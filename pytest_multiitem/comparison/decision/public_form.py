"""Comparison → the same in the form of the public scripts, which know JAX and PyTorch in two views."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from pytest_multiitem.comparison.decision.guardrail import GUARDRAIL_RATIO, Candidate, guardrail
from pytest_multiitem.comparison.records import (
    BestNativeView,
    ComparedRow,
    ComparedView,
    Comparison,
    PortableView,
    PublicChoice,
    PublicCorrectness,
    PublicRow,
    PublicSelected,
    PublicSide,
    PublicWinner,
    SideRow,
    Thresholds,
    Winner,
)

BACKENDS: Final = ("jax", "pytorch")
#: The fields that follow from the others.
FIELDS: Final = ("portable_view", "best_native_view", "recommendations", "inputs")
_NAMES = {"portable": "Portable view", "best_native": "Best-native view"}


def fields(comparison: Comparison) -> dict[str, Any]:
    """The values of `FIELDS`; empty where another backend than JAX and PyTorch was compared."""
    if not comparison.sides or any(side.backend not in BACKENDS for side in comparison.sides):
        return {"portable_view": None, "best_native_view": None, "recommendations": {}, "inputs": {}}
    views = {view.view: view for view in comparison.views}
    limits = None if comparison.correctness is None else comparison.correctness.thresholds
    portable, native = views.get("portable"), views.get("best_native")
    return {
        "portable_view": None if portable is None else _portable(portable, limits),
        "best_native_view": None if native is None else _best_native(native, limits),
        "recommendations": _recommendations(views),
        "inputs": {f"{side.backend}_{side.view}_json": side.path for side in comparison.sides},
    }


def filled(comparison: Comparison) -> Comparison:
    """The comparison with `FIELDS` that follow from the others."""
    return msgspec.structs.replace(comparison, **fields(comparison))


def passes(correctness: PublicCorrectness, limits: Thresholds | None) -> bool:
    """Whether scores that were compared are within the limits."""
    largest, mean = correctness.max_abs_diff, correctness.mean_abs_diff
    if correctness.status != "ok" or limits is None or largest is None or mean is None:
        return False
    return largest <= limits.max_abs_diff and mean <= limits.mean_abs_diff


def best_of(view: ComparedView) -> Winner | None:
    """What won a view, be it that the evidence does not show that its scores are right."""
    return view.winner or view.winner_by_guardrail


def undecided(view: str, rows: Iterable[ComparedRow], best: Mapping[str, Winner]) -> list[tuple[int, str, SideRow]]:
    """By client chunk size and backend, the rows that may win by the guardrail rule alone; in best_native, each
    backend's ``best`` row is compared with the other's, as the public scripts do."""
    return [
        (row.client_chunk_size, name, side)
        for row in rows
        for name, side in row.sides.items()
        if side.undecided
        if view != "best_native" or (name in best and best[name].client_chunk_size == row.client_chunk_size)
    ]


def _portable(view: ComparedView, limits: Thresholds | None) -> PortableView:
    both = [row for row in view.rows if row.sides.keys() >= {*BACKENDS}]
    return PortableView(
        guardrail_ratio=GUARDRAIL_RATIO,
        rows=[
            PublicRow(
                client_chunk_size=row.client_chunk_size,
                jax=_side(row.sides["jax"]),
                pytorch=_side(row.sides["pytorch"]),
                correctness=_correctness(row, limits),
            )
            for row in both
        ],
        backend_best={name: _choice(view, view.winners_by_backend.get(name), (name,)) for name in BACKENDS},
        winner=_choice(view, best_of(view), BACKENDS),
    )


def _best_native(view: ComparedView, limits: Thresholds | None) -> BestNativeView:
    best = best_of(view)
    shown = best or view.winners_by_backend.get("jax") or view.winners_by_backend.get("pytorch")
    row = _row(view, shown)
    return BestNativeView(
        guardrail_ratio=GUARDRAIL_RATIO,
        jax_selected=_selected(view, "jax"),
        pytorch_selected=_selected(view, "pytorch"),
        correctness=_correctness(row, limits) if row is not None else None,
        winner=_choice(view, best, BACKENDS),
    )


def _row(view: ComparedView, won: Winner | None) -> ComparedRow | None:
    if won is None:
        return None
    return next((row for row in view.rows if row.client_chunk_size == won.client_chunk_size), None)


def _selected(view: ComparedView, backend: str) -> PublicSelected | None:
    row = _row(view, view.winners_by_backend.get(backend))
    if row is None or backend not in row.sides:
        return None
    side = msgspec.structs.asdict(_side(row.sides[backend]))
    return PublicSelected(client_chunk_size=row.client_chunk_size, **side)


def _side(side: SideRow) -> PublicSide:
    rate = side.success_rate
    return PublicSide(
        status=None if rate is None else "ok" if rate == 1 else "partial_failure" if rate else "failed",
        success_rate=rate,
        p95_total_e2e_ms=side.p95_ms,
        throughput_items_sec=side.throughput_items_sec,
    )


def _correctness(row: ComparedRow, limits: Thresholds | None) -> PublicCorrectness:
    agreed = row.agreement
    status = "missing_scores" if agreed is None else "ok" if agreed.max_abs_diff is not None else "shape_mismatch"
    found = PublicCorrectness(
        passed=False,
        status=status,
        max_abs_diff=None if agreed is None else agreed.max_abs_diff,
        mean_abs_diff=None if agreed is None else agreed.mean_abs_diff,
        num_compared=None if agreed is None else agreed.num_compared,
        detail="; ".join(dict.fromkeys(f"{c.verdict}: {c.reason}" for c in row.checks if c.verdict != "PASS")),
    )
    found.passed = passes(found, limits)
    return found


def _choice(view: ComparedView, won: Winner | None, backends: Sequence[str]) -> PublicChoice:
    """``won``, of the rows of some backends that may win, or that are undecided where ``won`` is."""
    if won is not None and won is view.winner_by_guardrail:
        sides = [(size, side) for size, _, side in undecided(view.view, view.rows, view.winners_by_backend)]
    else:
        sides = [
            (row.client_chunk_size, side)
            for row in view.rows
            for name, side in row.sides.items()
            if name in backends and side.eligible
        ]
    return PublicChoice(
        eligible_count=len(sides),
        guardrail_ratio=GUARDRAIL_RATIO,
        guardrail_p95_ms=guardrail(_candidates(sides)),
        winner=None
        if won is None
        else PublicWinner(
            backend=won.backend,
            client_chunk_size=won.client_chunk_size,
            throughput_items_sec=won.throughput_items_sec,
            p95_total_e2e_ms=won.p95_ms,
        ),
    )


def _candidates(sides: Iterable[tuple[int, SideRow]]) -> list[Candidate[SideRow]]:
    return [
        Candidate(side.p95_ms, side.throughput_items_sec, size, side)
        for size, side in sides
        if side.p95_ms is not None and side.throughput_items_sec is not None
    ]


def _recommendations(views: dict[str, ComparedView]) -> dict[str, str]:
    """In words: what wins each view, and what to use: the winner of best_native, else of portable."""
    texts = {name: f"{words}: {_won(views.get(name))}." for name, words in _NAMES.items()}
    for name in ("best_native", "portable"):
        view = views.get(name)
        best = None if view is None else best_of(view)
        if view is not None and best is not None:
            where = f"{best.backend} at client chunk size {best.client_chunk_size}"
            return texts | {"overall": f"Overall: {where}, the winner of {name}{_mark(view)}."}
    return texts | {"overall": "Overall: no winner in either view."}


def _won(view: ComparedView | None) -> str:
    if view is None:
        return "not measured"
    best = best_of(view)
    if best is None:
        return f"no winner ({view.deferred})"
    p95 = "" if best.p95_ms is None else f" and a p95 of {best.p95_ms:.2f} ms"
    won = f"{best.backend} wins at client chunk size {best.client_chunk_size}"
    return f"{won} with {best.throughput_items_sec:.2f} items/s{p95}{_mark(view)}"


def _mark(view: ComparedView) -> str:
    return "" if view.winner is not None else f", by the guardrail rule alone ({view.deferred})"
