"""The tables of a comparison, as rows of text; the terminal and the Markdown reports show them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from pytest_multiitem.comparison.decision.recommendation import display_name, in_order
from pytest_multiitem.comparison.records import (
    Agreement,
    Check,
    ComparedRow,
    ComparedView,
    Comparison,
    Side,
    SideRow,
    Winner,
)
from pytest_multiitem.reports.blocks import Rows, cell
from pytest_multiitem.results.verdict import WORST_FIRST, Verdict

Column = tuple[str, Callable[[ComparedRow], str]]
_CORRECT = {True: "PASS", False: "FAIL", None: "INCONCLUSIVE"}
INTERPOLATED = "≈: interpolated; so few runs (below 90) show no p95."


def finite(value: Any) -> float | None:
    """A finite number; None for anything else."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None


def _formatted(form: str, value: Any) -> str:
    return "-" if finite(value) is None else form.format(value)


def plain(value: Any, digits: int = 1) -> str:
    """A number with a fixed count of decimals; "-" where there is none."""
    return _formatted(f"{{:,.{digits}f}}", value)


#: A score difference, a correlation; a signed percentage; US dollars; "-" where there is none.
difference, percent, dollars = (partial(_formatted, form) for form in ("{:.3g}", "{:+.1f} %", "${:.4g}"))


def p95(side: SideRow) -> str:
    """A p95 in milliseconds, marked where it is interpolated."""
    return ("≈" if side.p95_ms is not None and side.p95_interpolated else "") + plain(side.p95_ms)


def interval(bounds: tuple[float, float] | None) -> str:
    """An interval; "-" where there is none."""
    return "-" if bounds is None or not all(map(math.isfinite, bounds)) else f"{bounds[0]:.3f} to {bounds[1]:.3f}"


def verdict_of(row: ComparedRow) -> str:
    """Whether the scores of a row are right, in a verdict's words; "-" where only one side was measured."""
    return _CORRECT[row.correct] if row.checks else "-"


def faster(view: ComparedView, row: ComparedRow) -> str:
    """Which side is shown to be the faster one."""
    named = dict(zip(("a_faster", "b_faster"), map(display_name, view.backends), strict=False))
    return named.get(row.speed_verdict, row.speed_verdict.replace("_", " "))


def _scores(row: ComparedRow) -> Agreement:
    return row.agreement or Agreement()


#: Figures of one side, and of a row, by the name of their column.
_OF_SIDE: Mapping[str, Callable[[SideRow], str]] = {
    "p50 ms": lambda side: plain(side.p50_ms),
    "p95 ms": p95,
    "items/s": lambda side: plain(side.throughput_items_sec),
}
_OF_ROW: Mapping[str, Callable[[ComparedRow], str]] = {
    "client chunk size": lambda row: str(row.client_chunk_size),
    "max abs diff": lambda row: difference(_scores(row).max_abs_diff),
    "mean abs diff": lambda row: difference(_scores(row).mean_abs_diff),
    "max log-odds diff": lambda row: difference(_scores(row).max_log_odds_diff),
    "mean log-odds diff": lambda row: difference(_scores(row).mean_log_odds_diff),
    "Kendall tau": lambda row: plain(_scores(row).kendall_tau, 4),
    "NDCG@10": lambda row: plain(_scores(row).ndcg_at_10, 4),
    "NDCG@10 reverse": lambda row: plain(_scores(row).ndcg_at_10_reverse, 4),
    "noise floor": lambda row: difference(_scores(row).noise_floor),
    "score spread": lambda row: difference(_scores(row).score_spread),
    "p95 delta": lambda row: percent(row.p95_delta_percent),
    "throughput delta": lambda row: percent(row.throughput_delta_percent),
    "ratio of medians": lambda row: plain(row.speed_ratio, 3),
    "95 % interval": lambda row: interval(row.speed_ratio_interval_95),
    "paired": lambda row: cell(row.paired),
    "correct": verdict_of,
    "may win": lambda row: ", ".join(display_name(b) for b, side in row.sides.items() if side.eligible) or "none",
}


def _of_row(*names: str) -> list[Column]:
    return [(name, _OF_ROW[name]) for name in names]


def _of_sides(backends: Sequence[str], *figures: str) -> list[Column]:
    def shown(backend: str, figure: str, row: ComparedRow) -> str:
        return _OF_SIDE[figure](row.sides.get(backend) or SideRow())

    return [(f"{display_name(b)} {figure}", partial(shown, b, figure)) for figure in figures for b in backends]


def _table(rows: Iterable[ComparedRow], columns: Sequence[Column]) -> Rows:
    """A client chunk size a row."""
    return [name for name, _ in columns], [[text_of(row) for _, text_of in columns] for row in rows]


def contract(view: ComparedView) -> Rows:
    """Both sides' p95 and items/s, their score differences, and whether they are right."""
    figures = _of_sides(view.backends, "p95 ms", "items/s")
    agreement = _of_row("max abs diff", "mean abs diff", "correct")
    return _table(view.rows, [*_of_row("client chunk size"), *figures, *agreement])


def side_by_side(view: ComparedView) -> Rows:
    """The times of both sides, their deltas, and what the interval shows."""
    columns = _of_row("client chunk size")
    for backend in view.backends:
        columns += _of_sides([backend], "p50 ms", "p95 ms", "items/s")
    if len(view.backends) == 2:
        columns += _of_row("p95 delta", "throughput delta", "ratio of medians", "95 % interval")
        columns += [("faster", partial(faster, view)), *_of_row("paired", "correct")]
    return _table(view.rows, [*columns, *_of_row("may win")])


def in_short(view: ComparedView) -> Rows:
    """For the terminal."""
    columns = [(f"{view.view}: client chunk size", _OF_ROW["client chunk size"]), *_of_sides(view.backends, "items/s")]
    if len(view.backends) == 2:
        columns += [("delta", _OF_ROW["throughput delta"]), ("faster", partial(faster, view))]
        columns += _of_row("max abs diff", "correct")
    return _table(view.rows, columns)


def agreements(view: ComparedView) -> Rows:
    """How far both sides' scores agree, as numbers and as a ranking."""
    rows = [row for row in view.rows if row.agreement is not None]
    sizes = dict.fromkeys(k for row in rows for k in _scores(row).top_k_overlap)
    overlaps = [
        (f"top-{k} overlap", partial(lambda k, row: plain(_scores(row).top_k_overlap.get(k), 2), k)) for k in sizes
    ]
    differences = ("max abs diff", "mean abs diff", "max log-odds diff", "mean log-odds diff", "Kendall tau")
    further = _of_row("NDCG@10", "NDCG@10 reverse", "noise floor", "score spread", "correct")
    return _table(rows, [*_of_row("client chunk size", *differences), *overlaps, *further])


def why_not(view: ComparedView) -> list[str]:
    """Which rows may not win, and why; rows with the same reason together."""
    sizes: dict[tuple[str, str], list[str]] = {}
    for row in view.rows:
        for backend, side in row.sides.items():
            if side.why_not:
                sizes.setdefault((backend, side.why_not), []).append(str(row.client_chunk_size))
    return [f"{display_name(b)} at {', '.join(found)} may not win: {reason}." for (b, reason), found in sizes.items()]


def winners(comparison: Comparison) -> Rows:
    """The winner of each view, and each backend's own in it."""
    header = ["view", "winner of", "backend", "client chunk size", "items/s", "p50 ms", "p95 ms", "engine", "mask",
              "items per USD"]  # fmt: skip
    rows = []
    for view in in_order(comparison.views):
        named = [] if view.winner is None else [("the view", view.winner)]
        named += [(display_name(backend), won) for backend, won in view.winners_by_backend.items()]
        rows += [[view.view, of, *_winner(view, won)] for of, won in named]
    return header, rows


def winning_side(view: ComparedView, won: Winner) -> SideRow | None:
    """The winner's figures among the rows of a view; None where they are not there."""
    row = next((row for row in view.rows if row.client_chunk_size == won.client_chunk_size), None)
    return None if row is None else row.sides.get(won.backend)


def success_rate(view: ComparedView, backend: str, size: str) -> str:
    """That of a backend's row, of both as they are shown."""
    shown = [
        side.success_rate
        for row in view.rows
        for name, side in row.sides.items()
        if (display_name(name), str(row.client_chunk_size)) == (backend, size)
    ]
    return plain(shown[0], 3) if shown else "-"


def _winner(view: ComparedView, won: Winner) -> list[str]:
    side = winning_side(view, won)
    time = plain(won.p95_ms) if side is None else p95(side)
    numbers = [str(won.client_chunk_size), plain(won.throughput_items_sec), plain(won.p50_ms), time]
    return [display_name(won.backend), *numbers, won.engine or "-", won.mask or "-", plain(won.items_per_usd, 0)]


def worst_verdict(side: Side) -> str:
    """The worst one of a side against its own serial reference."""
    return min(side.own_reference_checks, key=_rank).verdict if side.own_reference_checks else "-"


def worst_items(view: ComparedView) -> Rows:
    """The items that differ most at the client chunk size with the largest difference."""
    scores = (f"{display_name(backend)} scores" for backend in view.backends)
    header = ["client chunk size", "item", "max abs diff", *scores]
    known = [row for row in view.rows if _scores(row).worst_items]
    if not known:
        return header, []
    worst = max(known, key=lambda row: _scores(row).max_abs_diff or 0.0)
    return header, [
        [
            str(worst.client_chunk_size),
            str(item.get("index", "-")),
            difference(item.get("max_abs_diff")),
            *(", ".join(f"{score:.6f}" for score in item.get(side, [])) or "-" for side in ("a", "b")),
        ]
        for item in _scores(worst).worst_items
    ]


def not_passed(comparison: Comparison) -> list[tuple[str, Check]]:
    """Every correctness check that is not a PASS, the worst first, with what it is of; equal ones of a view once."""
    sizes: dict[tuple[str, str, str, str], list[int]] = {}
    checks = {}
    for view in comparison.views:
        for row in view.rows:
            for check in row.checks:
                key = (view.view, check.gate, check.verdict, check.reason)
                checks[key] = check
                sizes.setdefault(key, []).append(row.client_chunk_size)
    named = [(f"{key[0]}, client chunk size {', '.join(map(str, sizes[key]))}", check) for key, check in checks.items()]
    named += [(f"{s.backend} {s.view}", check) for s in comparison.sides for check in s.own_reference_checks]
    return sorted((entry for entry in named if entry[1].verdict != Verdict.PASS), key=lambda entry: _rank(entry[1]))


def _rank(check: Check) -> int:
    return next((at for at, verdict in enumerate(WORST_FIRST) if check.verdict == verdict), 0)


def semantic_gap(comparison: Comparison, view: ComparedView) -> tuple[str, str] | None:
    """Where the sides of a view declare different semantics: these, and the largest difference between their scores."""
    semantics = {side.semantics for side in comparison.sides if side.view == view.view and side.semantics}
    known = [gap for row in view.rows if (gap := _scores(row).max_abs_diff) is not None]
    if len(semantics) < 2 or not known:
        return None
    return ", ".join(sorted(semantics)), difference(max(known))
