"""The tables of a comparison, as rows of text; the terminal and the Markdown reports both show them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pytest_multiitem.comparison.decision.recommendation import display_name, in_order
from pytest_multiitem.comparison.records import Agreement, Check, ComparedRow, ComparedView, Comparison, SideRow, Winner
from pytest_multiitem.results.records import Verdict

Rows = tuple[list[str], list[list[str]]]
_CORRECT = {True: "PASS", False: "FAIL", None: "INCONCLUSIVE"}
INTERPOLATED = "≈: interpolated; so few runs (below 90) show no p95."


def plain(value: float | None, digits: int = 1) -> str:
    """A number with a fixed count of decimals; "-" where there is none."""
    return "-" if value is None or not math.isfinite(value) else f"{value:,.{digits}f}"


def difference(value: float | None) -> str:
    """A score difference, a correlation, a share: three digits; "-" where there is none."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.3g}"


def percent(value: float | None) -> str:
    """A signed percentage; "-" where there is none."""
    return "-" if value is None or not math.isfinite(value) else f"{value:+.1f} %"


def dollars(value: float | None) -> str:
    """US dollars; "-" where there are none."""
    return "-" if value is None or not math.isfinite(value) else f"${value:.4g}"


def p95(side: SideRow | None) -> str:
    """A p95 in milliseconds, marked where it is interpolated."""
    if side is None or side.p95_ms is None:
        return "-"
    return ("≈" if side.p95_interpolated else "") + plain(side.p95_ms)


def _of(side: SideRow | None, name: str) -> float | None:
    value: float | None = getattr(side, name, None)
    return value


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


def contract(view: ComparedView) -> Rows:
    """A client chunk size a row: both sides' p95 and items/s, their score differences, and whether they are right."""
    header = ["client chunk size"]
    header += [f"{display_name(backend)} {what}" for what in ("p95 ms", "items/s") for backend in view.backends]
    header += ["max abs diff", "mean abs diff", "correct"]
    rows = []
    for row in view.rows:
        sides = [row.sides.get(backend) for backend in view.backends]
        found = row.agreement or Agreement()
        rows.append(
            [
                str(row.client_chunk_size),
                *map(p95, sides),
                *(plain(_of(side, "throughput_items_sec")) for side in sides),
                difference(found.max_abs_diff),
                difference(found.mean_abs_diff),
                verdict_of(row),
            ]
        )
    return header, rows


def side_by_side(view: ComparedView) -> Rows:
    """A client chunk size a row: the times of both sides, their deltas, and what the interval shows."""
    header = ["client chunk size"]
    for backend in view.backends:
        header += [f"{display_name(backend)} {what}" for what in ("p50 ms", "p95 ms", "items/s")]
    both = len(view.backends) == 2
    if both:
        header += ["p95 delta", "throughput delta", "ratio of medians", "95 % interval", "faster", "paired", "correct"]
    header += ["may win"]
    rows = []
    for row in view.rows:
        cells = [str(row.client_chunk_size)]
        for side in (row.sides.get(backend) for backend in view.backends):
            cells += [plain(_of(side, "p50_ms")), p95(side), plain(_of(side, "throughput_items_sec"))]
        if both:
            cells += [
                percent(row.p95_delta_percent),
                percent(row.throughput_delta_percent),
                plain(row.speed_ratio, 3),
                interval(row.speed_ratio_interval_95),
                faster(view, row),
                {True: "yes", False: "no", None: "-"}[row.paired],
                verdict_of(row),
            ]
        cells.append(", ".join(display_name(b) for b, side in row.sides.items() if side.eligible) or "none")
        rows.append(cells)
    return header, rows


def why_not(view: ComparedView) -> list[str]:
    """Which rows may not win, and why; rows with the same reason together."""
    sizes: dict[tuple[str, str], list[str]] = {}
    for row in view.rows:
        for backend, side in row.sides.items():
            if side.why_not:
                sizes.setdefault((backend, side.why_not), []).append(str(row.client_chunk_size))
    return [f"{display_name(b)} at {', '.join(found)} may not win: {reason}." for (b, reason), found in sizes.items()]


def in_short(view: ComparedView) -> Rows:
    """A client chunk size a row, for the terminal."""
    header = [f"{view.view}: client chunk size", *(f"{display_name(backend)} items/s" for backend in view.backends)]
    both = len(view.backends) == 2
    header += ["delta", "faster", "max abs diff", "correct"] if both else []
    rows = []
    for row in view.rows:
        sides = [row.sides.get(backend) for backend in view.backends]
        cells = [str(row.client_chunk_size), *(plain(_of(side, "throughput_items_sec")) for side in sides)]
        if both:
            found = row.agreement or Agreement()
            cells += [percent(row.throughput_delta_percent), faster(view, row), difference(found.max_abs_diff)]
            cells.append(verdict_of(row))
        rows.append(cells)
    return header, rows


def winners(comparison: Comparison) -> Rows:
    """The winner of each view, and each backend's own in it."""
    header = ["view", "winner of", "backend", "client chunk size", "items/s", "p50 ms", "p95 ms", "engine", "mask",
              "items per USD"]  # fmt: skip
    rows = []
    for view in in_order(comparison.views):
        if view.winner is not None:
            rows.append([view.view, "the view", *_winner(view, view.winner)])
        rows += [
            [view.view, display_name(backend), *_winner(view, won)] for backend, won in view.winners_by_backend.items()
        ]
    return header, rows


def _winner(view: ComparedView, won: Winner) -> list[str]:
    row = next((row for row in view.rows if row.client_chunk_size == won.client_chunk_size), None)
    side = None if row is None else row.sides.get(won.backend)
    return [
        display_name(won.backend),
        str(won.client_chunk_size),
        plain(won.throughput_items_sec),
        plain(won.p50_ms),
        p95(side) if side is not None else plain(won.p95_ms),
        won.engine or "-",
        won.mask or "-",
        plain(won.items_per_usd, 0),
    ]


def agreements(view: ComparedView) -> Rows:
    """A client chunk size a row: how far both sides' scores agree, as numbers and as a ranking."""
    sizes = list(dict.fromkeys(k for row in view.rows if row.agreement for k in row.agreement.top_k_overlap))
    header = ["client chunk size", "max abs diff", "mean abs diff", "max log-odds diff", "mean log-odds diff",
              "Kendall tau", *(f"top-{k} overlap" for k in sizes), "NDCG@10", "NDCG@10 reverse", "noise floor",
              "score spread", "correct"]  # fmt: skip
    return header, [
        [str(row.client_chunk_size), *agreement_cells(row.agreement, sizes), verdict_of(row)]
        for row in view.rows
        if row.agreement is not None
    ]


def agreement_cells(found: Agreement, sizes: Sequence[str]) -> list[str]:
    """The numbers of an agreement, with the top-k overlaps of ``sizes``."""
    return [
        difference(found.max_abs_diff),
        difference(found.mean_abs_diff),
        difference(found.max_log_odds_diff),
        difference(found.mean_log_odds_diff),
        plain(found.kendall_tau, 4),
        *(plain(found.top_k_overlap.get(k), 2) for k in sizes),
        plain(found.ndcg_at_10, 4),
        plain(found.ndcg_at_10_reverse, 4),
        difference(found.noise_floor),
        difference(found.score_spread),
    ]


def own_references(comparison: Comparison) -> Rows:
    """A side a row: how far it agrees with its own serial reference, at its worst client chunk size."""
    header = ["side", "semantics", "max abs diff", "mean abs diff", "Kendall tau", "noise floor", "verdict"]
    rows = []
    for side in comparison.sides:
        found = side.own_reference_agreement
        if found is not None:
            rows.append(
                [
                    f"{display_name(side.backend)} {side.view}",
                    side.semantics or "-",
                    difference(found.max_abs_diff),
                    difference(found.mean_abs_diff),
                    plain(found.kendall_tau, 4),
                    difference(found.noise_floor),
                    min(side.own_reference_checks, key=_rank).verdict if side.own_reference_checks else "-",
                ]
            )
    return header, rows


def worst_items(view: ComparedView) -> Rows:
    """The items that differ most at the client chunk size with the largest difference."""
    known = [row for row in view.rows if row.agreement is not None and row.agreement.worst_items]
    header = [
        "client chunk size",
        "item",
        "max abs diff",
        *(f"{display_name(backend)} scores" for backend in view.backends),
    ]
    if not known:
        return header, []
    worst = max(known, key=lambda row: (row.agreement and row.agreement.max_abs_diff) or 0.0)
    assert worst.agreement is not None
    return header, [
        [
            str(worst.client_chunk_size),
            str(item.get("index", "-")),
            difference(item.get("max_abs_diff")),
            *(", ".join(f"{score:.6f}" for score in item.get(side, [])) or "-" for side in ("a", "b")),
        ]
        for item in worst.agreement.worst_items
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
    order = [verdict.value for verdict in (Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.PASS)]
    return order.index(check.verdict) if check.verdict in order else 0


def declared(comparison: Comparison) -> list[str]:
    """The semantics that each side declares."""
    return [
        f"{display_name(side.backend)} {side.view}: {side.semantics or 'not declared'}" for side in comparison.sides
    ]


def semantic_gap(comparison: Comparison, view: ComparedView) -> tuple[str, str] | None:
    """Where the sides of a view declare different semantics: these, and the largest difference between their scores."""
    semantics = {side.semantics for side in comparison.sides if side.view == view.view and side.semantics}
    gaps = [row.agreement.max_abs_diff for row in view.rows if row.agreement is not None]
    known = [gap for gap in gaps if gap is not None]
    if len(semantics) < 2 or not known:
        return None
    return ", ".join(sorted(semantics)), difference(max(known))
