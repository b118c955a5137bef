"""A comparison on a page: items a second and p95 by client chunk size, guardrail, winner; one matrix; an A/B."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_multiitem.comparison.decision.recommendation import display_name
from pytest_multiitem.comparison.records import ComparedView, Comparison, PairRecord, Row, ScoreMatrix
from pytest_multiitem.reports import comparison_tables as tables
from pytest_multiitem.reports.blocks import Rows
from pytest_multiitem.reports.html.page import Block, Cell, Chapter, Figure, Grid, Section, Table, Texts, css_of, slug
from pytest_multiitem.reports.html.plots import Lines, Point, Series, boxes, cloud, lines, named_below
from pytest_multiitem.reports.html.quantiles import five_of
from pytest_multiitem.reports.sentence import of_comparison, of_pair, of_score_matrix
from pytest_multiitem.reports.table import number

_POINTS = 500
#: Figures of a row of a matrix.
_SHOWN = ("throughput_items_sec", "p50_total_e2e_ms", "p95_total_e2e_ms")


def chapter(comparison: Comparison, matrices: Sequence[ScoreMatrix] = (), title: str | None = None) -> Chapter:
    """A comparison, with those of its matrices that are there."""
    made = Chapter(title or "Comparison", of_comparison(comparison), _facts(comparison))
    made.sections = sections(comparison, matrices)
    return made


def sections(comparison: Comparison, matrices: Sequence[ScoreMatrix]) -> list[Section]:
    """The chunk sizes of each view, whether the scores agree, and everything that is not a PASS."""
    made = []
    for view in comparison.views:
        blocks = [*_view(view)]
        if blocks:
            made.append(Section(
                f"Client chunk size: {view.view}", blocks,
                "How many items stand in one request. The winner has the most items a second among those whose p95 is "
                "within the guardrail.",
            ))  # fmt: skip
    agreement = [block for view in comparison.views for block in _agreement(view, matrices)]
    made.append(Section("Do the scores agree?", agreement))
    lines_ = [
        f"{check.verdict} {check.gate}: {place}: {check.reason}" for place, check in tables.not_passed(comparison)
    ]
    made.append(Section("What of the comparison is not a PASS", [Texts(lines_)] if lines_ else []))
    notes = [*comparison.notes, *([f"blocker: {comparison.blocker}"] if comparison.blocker else [])]
    if comparison.recommendation is not None:
        notes += [f"to do: {text}" for text in comparison.recommendation.follow_ups]
    made.append(Section("Notes", [Texts(notes)] if notes else []))
    return made


def _facts(comparison: Comparison) -> list[tuple[str, str]]:
    chosen = comparison.recommendation
    sides = [
        f"{display_name(side.backend)}, {side.view}: {side.model or '-'}, {side.dtype or '-'}"
        for side in comparison.sides
    ]
    return [
        ("status", comparison.status or "-"),
        ("confidence", chosen.confidence if chosen is not None else "-"),
        ("decided", comparison.generated_at_utc or "-"),
        ("sides", "; ".join(sides) or "-"),
    ]  # fmt: skip


def _view(view: ComparedView) -> list[Block]:
    speeds, latencies, rings, late = [], [], [], []
    winner, rows = view.winner, []
    for backend in view.backends:
        known = [(row.client_chunk_size, row.sides[backend]) for row in view.rows if backend in row.sides]
        speeds.append(
            Series(display_name(backend), [(n, s.throughput_items_sec) for n, s in known if s.throughput_items_sec])
        )
        latencies.append(Series(display_name(backend), [(n, s.p95_ms) for n, s in known if s.p95_ms]))
        for n, side in known:
            won = winner is not None and (winner.backend, winner.client_chunk_size) == (backend, n)
            if won and side.throughput_items_sec and side.p95_ms:
                rings.append((float(n), side.throughput_items_sec, f"winner: {n}"))
                late.append((float(n), side.p95_ms, f"winner: {n}"))
            within = view.guardrail_p95_ms is None or (side.p95_ms or 0) <= view.guardrail_p95_ms
            why = "wins" if won else side.why_not or ("less throughput" if within else "p95 over the guardrail")
            rows.append([display_name(backend), str(n), tables.plain(side.throughput_items_sec),
                         tables.plain(side.p50_ms), tables.plain(side.p95_ms), why])  # fmt: skip
    header = ["backend", "items a request", "items/s", "p50 ms", "p95 ms", "why"]
    grid = Grid(
        f"{view.view}: why each chunk size wins or does not", header,
        [[Cell(text, "v-pass" if text == "wins" else "") for text in row] for row in rows], heads=2,
    )  # fmt: skip
    found = _chunk_figures(view.view, speeds, latencies, view.guardrail_p95_ms, (rings, late), (header, rows))
    return [*found, grid] if found else []


def _chunk_figures(
    key: str, speeds: Sequence[Series], latencies: Sequence[Series], guardrail: float | None,
    rings: tuple[Sequence[tuple[float, float, str]], Sequence[tuple[float, float, str]]], table: Rows,
) -> list[Block]:  # fmt: skip
    if not any(series.points for series in speeds):
        return []
    limit = [] if guardrail is None else [(f"guardrail {number(guardrail)} ms", guardrail)]
    about = f"by client chunk size, for {', '.join(series.name for series in speeds)}."
    size = "items in one request"
    return [
        Figure(
            lines(slug("throughput", key), f"Items a second, {key}", f"Items a second {about}", speeds,
                  Lines(size, "items a second", True, False, (), rings[0])),
            "Items a second: higher is better. The ring is the winner.", table,
        ),
        Figure(
            lines(slug("latency", key), f"p95 of a whole run, {key}", f"p95 of a whole run {about}", latencies,
                  Lines(size, "p95, ms", True, True, limit, rings[1])),
            "p95 of a whole run over all items: lower is better. What is above the guardrail may not win.", table,
        ),
    ]  # fmt: skip


def _agreement(view: ComparedView, matrices: Sequence[ScoreMatrix]) -> list[Block]:
    rows, header = [], ["items a request", "correct", "largest difference", "mean", "Kendall tau", "scores compared"]
    for row in view.rows:
        seen = row.agreement
        word = {True: "PASS", False: "FAIL", None: "INCONCLUSIVE"}[row.correct]
        figures = [None] * 3 if seen is None else [seen.max_abs_diff, seen.mean_abs_diff, seen.kendall_tau]
        count = "-" if seen is None or seen.num_compared is None else str(seen.num_compared)
        rows.append(
            [Cell(str(row.client_chunk_size)), Cell(word, css_of(word)), *map(Cell, map(number, figures)), Cell(count)]
        )
    blocks: list[Block] = [Grid(f"{view.view}: the scores of both sides", header, rows)] if rows else []
    return [*_both(view, matrices), *blocks]


def _both(view: ComparedView, matrices: Sequence[ScoreMatrix]) -> list[Block]:
    """Scores of the same items on both sides, at the largest chunk size that both have."""
    mine = {m.backend: m for m in matrices if m.evaluation_view == view.view and m.backend in view.backends}
    if len(view.backends) != 2 or len(mine) != 2:
        return []
    scored = [
        {row.client_chunk_size: row.reference_scores for row in mine[b].results if row.reference_scores}
        for b in view.backends
    ]
    common = sorted(scored[0].keys() & scored[1].keys())
    if not common:
        return []
    size = common[-1]
    left, right = scored[0][size] or [], scored[1][size] or []
    every = [(a[0], b[0], at) for at, (a, b) in enumerate(zip(left, right, strict=False)) if a and b]
    if not every:
        return []
    worst = sorted(every, key=lambda pair: -abs(pair[0] - pair[1]))
    step = max(1, -(-len(every) // _POINTS))
    named = [(a, b, f"item {at}") for a, b, at in worst[:2]]
    x_name, y_name = (display_name(backend) for backend in view.backends)
    points = [(a, b) for a, b, _ in every[::step]] + [(a, b) for a, b, _ in worst[:2]]
    picture = cloud(
        slug("both", view.view), f"Scores of both sides, {view.view}", f"{len(every)} items, {y_name} over {x_name}.",
        [Series(f"chunk size {size}", points)], f"score of {x_name}", f"score of {y_name}", named,
    )  # fmt: skip
    rows = [[str(at), f"{a:.6g}", f"{b:.6g}", number(abs(a - b))] for a, b, at in worst[:60]]
    return [
        Figure(
            picture,
            f"{view.view}: the same items on both sides.",
            (["item", x_name, y_name, "difference"], rows),
            named_below(named),
        )
    ]


def matrix_chapter(matrix: ScoreMatrix, title: str | None = None) -> Chapter:
    """One side in one view."""
    name = title or f"{display_name(matrix.backend)}, {matrix.evaluation_view}"
    made = Chapter(name, of_score_matrix(matrix))
    made.facts = [
        ("model", matrix.model or "-"),
        ("precision", matrix.dtype or "-"),
        ("measured", matrix.generated_at_utc or "-"),
    ]
    final = matrix.summary.final_recommendation
    chosen = matrix.summary.final_chunk_size
    speeds, latencies, rows = [], [], []
    rings: tuple[list[tuple[float, float, str]], list[tuple[float, float, str]]] = ([], [])
    for words, of in (("swept", matrix.results), ("confirmed", matrix.confirm_results)):
        known = sorted(of, key=lambda row: row.client_chunk_size)
        speeds.append(Series(words, _points(known, "throughput_items_sec")))
        latencies.append(Series(words, _points(known, "p95_total_e2e_ms")))
        for row in known:
            won = row.client_chunk_size == chosen and words == ("confirmed" if matrix.confirm_results else "swept")
            if won and row.throughput_items_sec and row.p95_total_e2e_ms:
                rings[0].append((float(row.client_chunk_size), row.throughput_items_sec, f"winner: {chosen}"))
                rings[1].append((float(row.client_chunk_size), row.p95_total_e2e_ms, f"winner: {chosen}"))
            rows.append([str(row.client_chunk_size), words, row.status.replace("_", " "),
                         *(tables.plain(getattr(row, name)) for name in _SHOWN)])  # fmt: skip
    content = (["items a request", "", "status", "items/s", "p50 ms", "p95 ms"], rows)
    used = [pair for pair in zip(speeds, latencies, strict=True) if pair[0].points]
    guardrail = None if final is None else final.guardrail_p95_ms
    figures = (
        _chunk_figures(name, [a for a, _ in used], [b for _, b in used], guardrail, rings, content) if used else []
    )
    made.sections = [Section("Client chunk size", [*figures, *([] if figures else [Table("", content)])])]
    made.sections.append(Section("Notes", [Texts(matrix.notes)] if matrix.notes else []))
    return made


def _points(rows: Sequence[Row], name: str) -> list[Point]:
    return [
        (float(row.client_chunk_size), value) for row in rows if (value := getattr(row, name)) is not None and value > 0
    ]


def pair_chapter(record: PairRecord) -> Chapter:
    """Two arms of an A/B."""
    made = Chapter("A/B", of_pair(record))
    made.facts = [
        (f"arm {name}", ", ".join(f"{key}={value}" for key, value in given.items()) or "as it is")
        for name, given in record.arms.items()
    ]
    runs = {
        name: [run.total_e2e_ms for run in row.run_records if run.ok and run.total_e2e_ms]
        for name, row in record.rows.items()
    }
    timed = [
        (name, five) for name, of in runs.items() if (five := five_of([value for value in of if value])) is not None
    ]
    rows = [[name, str(row.client_chunk_size), tables.plain(row.p50_total_e2e_ms), tables.plain(row.p95_total_e2e_ms),
             tables.plain(row.throughput_items_sec)] for name, row in record.rows.items()]  # fmt: skip
    content = (["arm", "items a request", "p50 ms", "p95 ms", "items/s"], rows)
    blocks: list[Block] = [Table("", content)]
    if timed:
        about = "The times of whole runs, by arm."
        blocks = [Figure(boxes("ab-times", "Times of both arms", about, timed, "ms a run"), about, content)]
    made.sections = [Section("Times", blocks)]
    return made
