"""Timed rows → figures, the one to deploy, and why the others are not: by the comparison's rules and statistics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pytest_multiitem.acceptance.words import percent
from pytest_multiitem.bench.statistics import P95_SAMPLES, p50, p95
from pytest_multiitem.comparison.decision import guardrail, speed
from pytest_multiitem.comparison.decision.guardrail import Candidate
from pytest_multiitem.comparison.records import Row, RunRecord
from pytest_multiitem.results.answer import ChunkFigures, Given, TimedRow
from pytest_multiitem.scoring.limits import PLACED


@dataclass(frozen=True)
class Curve:
    """Figures of all rows, the serial side first where it was timed. ``chosen``: the row to deploy; ``limit_ms``: the
    p95 that it must not exceed; both None where no row may win."""

    figures: list[ChunkFigures]
    chosen: ChunkFigures | None
    limit_ms: float | None


def curve_of(given: Given) -> Curve:
    """What the timed rows of an acceptance come to."""
    serial = next((row for row in given.rows if row.client_chunk_size is None), None)
    figures, candidates = [], []
    for row in given.rows:
        found = _figures(row, given, serial)
        figures.append(found)
        problem = _problem(row, found)
        if row.client_chunk_size is None or problem is not None:
            found.why_not = problem or "it is the serial side"
            continue
        assert found.p95_ms is not None
        assert found.items_per_sec is not None
        candidates.append(Candidate(found.p95_ms, found.items_per_sec, row.client_chunk_size, (row, found)))
    winner = guardrail.choose(candidates, given.guardrail_ratio)
    limit = guardrail.guardrail(candidates, given.guardrail_ratio)
    if winner is None or limit is None:
        return Curve(figures, None, None)
    for candidate in candidates:
        if candidate is not winner:
            row, found = candidate.what
            found.why_not = _why_not(winner.what, (row, found), limit, given)
    return Curve(figures, winner.what[1], limit)


def difference_problem(given: Given) -> str | None:
    """The worst of what the timed answers say against the packed scores; None where nothing does."""
    packed = [row for row in given.rows if row.client_chunk_size is not None]
    for row in packed:
        if row.wrong is not None:
            return row.wrong
    worst = max(packed, key=lambda row: _magnitude(row.max_abs_diff), default=None)
    if worst is None or worst.max_abs_diff is None or _magnitude(worst.max_abs_diff) <= PLACED:
        return None
    return (
        f"in requests of {worst.client_chunk_size} a timed candidate's score is {worst.max_abs_diff:.3g} away from the "
        "one it gets alone"
    )


def _magnitude(value: float | None) -> float:
    return -1.0 if value is None else math.inf if math.isnan(value) else value


def _whole(row: TimedRow, given: Given) -> list[list[float | None]]:
    """A row's times of all items of each request, by request and block."""
    if row.client_chunk_size is not None:
        return row.runs_ms
    shares = [request.items / max(1, len(request.serial_places)) for request in given.timed]
    return [
        [None if ms is None else ms * share for ms in runs] for runs, share in zip(row.runs_ms, shares, strict=False)
    ]


def as_row(row: TimedRow, given: Given) -> Row:
    """A row of the comparison: a run is a block, of all requests that every block has timed."""
    blocks = list(zip(*_whole(row, given), strict=False))
    runs = [
        RunRecord(ok=None not in block, total_e2e_ms=None if None in block else sum(filter(None, block)), block=number)
        for number, block in enumerate(blocks)
    ]
    return Row(client_chunk_size=row.client_chunk_size or 1, status="ok", run_records=runs, session="one")


def _figures(row: TimedRow, given: Given, serial: TimedRow | None) -> ChunkFigures:
    converted, items = as_row(row, given), sum(request.items for request in given.timed)
    whole = [run.total_e2e_ms for run in converted.run_records if run.ok and run.total_e2e_ms]
    single = [each for request in _whole(row, given) for each in request if each is not None]
    found = ChunkFigures(client_chunk_size=row.client_chunk_size, blocks=len(whole))
    if single:
        found.p50_ms, found.p95_ms = p50(single), p95(single)
        found.p95_interpolated = len(single) < P95_SAMPLES
    if whole and items:
        found.items_per_sec = 1000 * items / float(np.mean(whole))
    if serial is not None and row.client_chunk_size is not None and whole:
        pace = speed.versus(as_row(serial, given), converted)
        found.times_as_fast, found.interval_95 = pace.ratio, pace.interval
    return found


def _problem(row: TimedRow, found: ChunkFigures) -> str | None:
    """What keeps a row from winning, whatever other rows say."""
    if row.wrong is not None:
        return f"wrong scores: {row.wrong}"
    if row.problem is not None:
        return row.problem
    if row.failures:
        return "runs failed: " + ", ".join(f"{count} {kind}" for kind, count in sorted(row.failures.items()))
    if _magnitude(row.max_abs_diff) > PLACED:
        return f"wrong scores: {row.max_abs_diff:.3g} away from what a candidate gets alone"
    for value in (found.p95_ms, found.items_per_sec):
        if value is None or not (math.isfinite(value) and value > 0):
            return "it was not timed"
    return None


def _why_not(
    winner: tuple[TimedRow, ChunkFigures], other: tuple[TimedRow, ChunkFigures], limit: float, given: Given
) -> str:
    """Why a row that could have won did not. ``limit``: milliseconds."""
    mine, theirs = winner[1], other[1]
    assert theirs.items_per_sec is not None
    assert mine.items_per_sec is not None
    share = percent(theirs.items_per_sec / mine.items_per_sec)
    if theirs.p95_ms is not None and theirs.p95_ms > limit:
        but = "but" if theirs.items_per_sec > mine.items_per_sec else "and"
        rule = f"the {given.guardrail_ratio:g} guardrail ({limit:,.1f} ms)"
        return f"{share}, {but} its p95 of {theirs.p95_ms:,.1f} ms breaks {rule}"
    pace = speed.versus(as_row(winner[0], given), as_row(other[0], given))
    return share if pace.verdict == "a_faster" else f"{share} by what was measured, which shows no difference"


def rival(figures: Sequence[ChunkFigures], chosen: ChunkFigures) -> ChunkFigures | None:
    """The row that a reader asks about: the fastest other one."""
    others = [f for f in figures if f is not chosen and f.client_chunk_size is not None and f.items_per_sec is not None]
    return max(others, key=lambda found: found.items_per_sec or 0.0, default=None)
