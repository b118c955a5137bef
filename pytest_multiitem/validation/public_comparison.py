"""Whether a comparison of the public scripts, which holds views and no sides, names the winners that its rows give."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from pytest_multiitem.comparison.decision import guardrail
from pytest_multiitem.comparison.decision.agreement import agreement
from pytest_multiitem.comparison.decision.guardrail import GUARDRAIL_RATIO, Candidate
from pytest_multiitem.comparison.decision.public_form import BACKENDS, passes
from pytest_multiitem.comparison.records import (
    BestNativeView,
    Comparison,
    PortableView,
    PublicChoice,
    PublicCorrectness,
    PublicSide,
    Row,
    Thresholds,
)
from pytest_multiitem.results.figures import differs
from pytest_multiitem.validation.score_matrix import Measured, is_usable, row_problems, twice

#: A row, with its backend, its client chunk size, and whether the scores of both backends agree.
_Entry = tuple[str, int, PublicSide, bool]


def summary(comparison: Comparison) -> str:
    """What it holds, in a few words."""
    views = [name for name in ("portable_view", "best_native_view") if getattr(comparison, name) is not None]
    overall = comparison.recommendations.get("overall", "no recommendation").rstrip(".")
    return f"{' and '.join(views)}; {overall}; it holds no noise floor and no single runs, which would show more"


def problems(comparison: Comparison, content: dict[str, Any]) -> Iterator[str]:
    """What is wrong with such a comparison."""
    portable, native = comparison.portable_view, comparison.best_native_view
    if portable is None and native is None:
        yield "it holds no view: neither views, nor portable_view, nor best_native_view"
        return
    limits = None if comparison.correctness is None else comparison.correctness.thresholds
    if limits is None:
        yield "correctness.thresholds: there are none, so that nothing says what the scores were judged by"
    if portable is not None:
        yield from _portable(portable, limits)
    if native is not None:
        yield from _best_native(native, content.get("best_native_view") or {}, limits)
    yield from _recommendations(comparison)


def _portable(view: PortableView, limits: Thresholds | None) -> Iterator[str]:
    yield from twice("portable_view", [row.client_chunk_size for row in view.rows])
    entries: list[_Entry] = []
    for row in view.rows:
        where = f"portable_view, chunk size {row.client_chunk_size}"
        yield from _correctness(where, row.correctness, limits)
        for name, side in zip(BACKENDS, (row.jax, row.pytorch), strict=True):
            yield from _side(f"{where}: {name}", side)
            entries.append((name, row.client_chunk_size, side, row.correctness.passed))
    ratio = GUARDRAIL_RATIO if view.guardrail_ratio is None else view.guardrail_ratio
    yield from _choice("portable_view: winner", view.winner, entries, ratio)
    for name, best in view.backend_best.items():
        yield from _choice(f"portable_view: backend_best.{name}", best, [e for e in entries if e[0] == name], ratio)


def _best_native(view: BestNativeView, raw: dict[str, Any], limits: Thresholds | None) -> Iterator[str]:
    correct, entries, rows = view.correctness, list[_Entry](), []
    if correct is not None:
        yield from _correctness("best_native_view", correct, limits)
    for name, selected in zip(BACKENDS, (view.jax_selected, view.pytorch_selected), strict=True):
        if selected is None:
            continue
        where = f"best_native_view: {name}_selected"
        yield from _side(where, selected)
        entries.append((name, selected.client_chunk_size, selected, correct is not None and correct.passed))
        whole = raw[f"{name}_selected"]
        try:
            rows.append(row := msgspec.convert(whole, Row))
        except msgspec.ValidationError as error:
            yield f"{where}: {error}"
        else:
            yield from (f"{where}: {text}" for text in row_problems(row, whole, Measured(None, None, softmax=False)))
    if correct is not None and len(rows) == len(BACKENDS) and all(row.reference_scores for row in rows):
        found = agreement(rows[0].reference_scores or [], rows[1].reference_scores or [])
        for field in ("max_abs_diff", "mean_abs_diff", "num_compared"):
            what = f"best_native_view: correctness.{field}"
            yield from differs(what, getattr(correct, field), getattr(found, field), "the scores give")
    ratio = GUARDRAIL_RATIO if view.guardrail_ratio is None else view.guardrail_ratio
    yield from _choice("best_native_view: winner", view.winner, entries, ratio)


def _side(where: str, side: PublicSide) -> Iterator[str]:
    rate = side.success_rate
    if rate is not None and not 0 <= rate <= 1:
        yield f"{where}: success_rate is {rate:g}; expected 0 to 1"
    elif rate is not None and side.status is not None and (rate == 1) is not (side.status == "ok"):
        yield f"{where}: status is {side.status!r}, and success_rate {rate:g}"


def _correctness(where: str, stated: PublicCorrectness, limits: Thresholds | None) -> Iterator[str]:
    largest, mean = stated.max_abs_diff, stated.mean_abs_diff
    if any(value is not None and value < 0 for value in (largest, mean)):
        yield f"{where}: a score difference is below 0"
    elif largest is not None and mean is not None and mean > largest * (1 + 1e-9):
        yield f"{where}: mean_abs_diff is {mean:g}, above max_abs_diff, {largest:g}"
    if limits is not None and stated.passed is not passes(stated, limits):
        yield f"{where}: pass is {stated.passed}; its differences and the thresholds give {not stated.passed}"


def _choice(where: str, stated: PublicChoice | None, entries: Sequence[_Entry], ratio: float) -> Iterator[str]:
    """Whether the guardrail rule chooses this among the entries."""
    if stated is None:
        return
    if not 1 <= ratio < math.inf or stated.guardrail_ratio not in (None, ratio):
        yield f"{where}: guardrail_ratio is {stated.guardrail_ratio}, that of the view {ratio:g}; expected 1 or more"
        return
    candidates = [
        Candidate(side.p95_total_e2e_ms, side.throughput_items_sec, size, name)
        for name, size, side, correct in entries
        if correct and side.success_rate == 1
        if is_usable(side.p95_total_e2e_ms) and is_usable(side.throughput_items_sec)
    ]
    chosen, won = guardrail.choose(candidates, ratio), stated.winner
    if chosen is None or won is None:
        if chosen is not None or won is not None:
            given = "none" if chosen is None else f"{chosen.what} at {chosen.chunk_size}"
            named = "none" if won is None else f"{won.backend} at {won.client_chunk_size}"
            yield f"{where} is {named}; the rows give {given}"
    elif not any(_is(won, c) and c.throughput == chosen.throughput for c in candidates):  # ties go either way
        yield f"{where} is {won.backend} at {won.client_chunk_size}; the rows give {chosen.what} at {chosen.chunk_size}"
    else:
        row = next(c for c in candidates if _is(won, c))
        yield from differs(f"{where}: throughput_items_sec", won.throughput_items_sec, row.throughput, "its row has")
        yield from differs(f"{where}: p95_total_e2e_ms", won.p95_total_e2e_ms, row.p95_ms, "its row has")
    yield from differs(f"{where}: eligible_count", stated.eligible_count, len(candidates), "the rows give")
    limit = guardrail.guardrail(candidates, ratio)
    yield from differs(f"{where}: guardrail_p95_ms", stated.guardrail_p95_ms, limit, "the rows give")


def _is(won: Any, candidate: Candidate[str]) -> bool:
    return (won.backend, won.client_chunk_size) == (candidate.what, candidate.chunk_size)


def _recommendations(comparison: Comparison) -> Iterator[str]:
    """Whether the words name another winner than the one that the rows give. That they name none of a view that has one
    is a known slip of the public script, whose overall recommendation names it."""
    views = {"portable": comparison.portable_view, "best_native": comparison.best_native_view}
    won = {name: None if view is None or view.winner is None else view.winner.winner for name, view in views.items()}
    for name, winner in {**won, "overall": won["best_native"] or won["portable"]}.items():
        text = comparison.recommendations.get(name)
        if text is None:
            continue
        words = set(text.replace("(", " ").replace(")", " ").replace(".", " ").split())
        if winner is None and words & {*BACKENDS}:
            yield f"recommendations.{name} names a winner, and there is none: {text!r:.120}"
        elif winner is None or (name != "overall" and not words & {*BACKENDS}):
            continue
        elif not {winner.backend, str(winner.client_chunk_size)} <= words:
            yield (
                f"recommendations.{name} does not name {winner.backend} at {winner.client_chunk_size}, which won: "
                f"{text!r:.120}"
            )
