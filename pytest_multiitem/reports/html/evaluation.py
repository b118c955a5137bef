"""A two-step evaluation on a page: one endpoint's, or two of them joined."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import UNSET

from pytest_multiitem.evaluation.check import judge
from pytest_multiitem.evaluation.records import Combined, Evaluation
from pytest_multiitem.reports.evaluation import reported
from pytest_multiitem.reports.html import run
from pytest_multiitem.reports.html.page import Block, Chapter, Figure, Section, Texts
from pytest_multiitem.reports.html.plots import Lines, Point, Series, cloud, lines, named_below
from pytest_multiitem.reports.sentence import Said, of_gates
from pytest_multiitem.reports.table import number


def combined_chapter(combined: Combined, title: str | None = None) -> Chapter:
    """The release gates of two evaluations, judged from the file."""
    records = judge(combined)
    made = Chapter(title or "Two-step evaluation", of_gates(records))
    for name in ("model", "semantics", "multi_url", "serial_url", "created_at_utc"):
        if isinstance(value := getattr(combined, name), str):
            made.facts.append((name.replace("_", " "), value))
    notes = reported(combined)
    made.sections = [
        *run.verdicts(records),
        Section("Speed-up", _speedup(combined)),
        Section("Packed and alone", _scores(combined)),
        Section("Not gated", [Texts(notes)] if notes else []),
        Section("Every verdict", [*run.entries(records)]),
    ]
    return made


def _speedup(combined: Combined) -> list[Block]:
    if combined.performance is UNSET:
        return []
    points: list[Point] = []
    spread: list[Point | None] = []
    rows = []
    for n, point in sorted((int(n), p) for n, p in combined.performance.items() if n.isdecimal()):
        value, sure = point.speedup_vs_serial_p50, point.speedup_interval_95
        if isinstance(value, float) and value > 0:
            points.append((float(n), value))
            spread.append(sure if sure is not None and sure[0] > 0 else None)
            rows.append([str(n), number(value), "-" if sure is None else " to ".join(map(number, sure))])
    if not points:
        return []
    look = Lines("items in one request", "times as fast", True, True, [("as fast as alone", 1.0)])
    picture = lines("speed-up-evaluation", "Speed-up over serial requests", "Speed-up by the number of items.",
                    [Series("packed", points, spread)], look)  # fmt: skip
    return [Figure(picture, "Speed-up over serial requests, medians; a bar is the 95 % interval.",
                   (["items", "times as fast", "95 % interval"], rows))]  # fmt: skip


def _scores(combined: Combined) -> list[Block]:
    sources = combined.sources
    if sources is UNSET or sources.serial.semantic_alignment is None:
        return []
    packed: Sequence[Sequence[float]] = sources.multi.isolation.base_scores or []
    alone = sources.serial.semantic_alignment.base_scores_query_plus_delimiter
    every = [(b[0], a[0], at) for at, (a, b) in enumerate(zip(packed, alone, strict=False)) if a and b]
    if not every:
        return []
    worst = sorted(every, key=lambda pair: -abs(pair[0] - pair[1]))
    named = [(x, y, f"item {at}") for x, y, at in worst[:2]]
    picture = cloud(
        "packed-alone-evaluation", "Packed against alone", f"{len(every)} items: packed scores over scores alone.",
        [Series("items", [(x, y) for x, y, _ in every[:600]])], "score alone", "score packed with others",
        named,
    )  # fmt: skip
    rows = [[str(at), f"{y:.6g}", f"{x:.6g}", number(abs(x - y))] for x, y, at in worst[:60]]
    return [
        Figure(
            picture,
            "The score of every item, packed and alone.",
            (["item", "packed", "alone", "difference"], rows),
            named_below(named),
        )
    ]


def chapter(evaluation: Evaluation, title: str | None = None) -> Chapter:
    """One endpoint's evaluation: what was measured; two of them joined give verdicts."""
    failure = evaluation.failure
    if failure is not None:
        said = Said("red", "FAIL", f"the evaluation ended at {failure.stage}: {failure.kind}: {failure.message}")
    elif evaluation.score_problem is not None:
        said = Said("red", "FAIL", evaluation.score_problem)
    else:
        said = Said("yellow", "MEASURED", "one endpoint; two evaluations joined by multiitem combine give verdicts.")
    made = Chapter(title or f"Evaluation of {evaluation.url}, {evaluation.mode}", said)
    made.facts = [
        ("server", evaluation.url),
        ("model", evaluation.model or "-"),
        ("measured", evaluation.created_at_utc or "-"),
    ]
    timed = sorted((int(n), t) for n, t in evaluation.performance.items() if n.isdecimal())
    points = [(float(n), t.items_per_sec_p50) for n, t in timed if t.items_per_sec_p50 > 0]
    if points:
        rows = [
            [str(n), f"{1000 * t.p50_sec:.1f}", f"{1000 * t.p95_sec:.1f}", number(t.items_per_sec_p50)]
            for n, t in timed
        ]
        picture = lines("throughput-evaluation", "Items a second", "Items a second by the number of items.",
                        [Series(evaluation.mode, points)], Lines("items", "items a second", True, False))  # fmt: skip
        figure = Figure(picture, "Items a second, medians.", (["items", "p50 ms", "p95 ms", "items/s"], rows))
        made.sections.append(Section("Times", [figure]))
    return made
