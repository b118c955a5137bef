"""Sides and views → notes: what a reader of a comparison's numbers should know about how they came about."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

from pytest_multiitem.comparison.decision import speed
from pytest_multiitem.comparison.decision.measured_side import MeasuredSide
from pytest_multiitem.comparison.records import ComparedView, ScoreMatrix

_CHECKSUMS = ("request_sha256", "sha256")
#: What tells workloads apart where a file has no checksum.
_IDENTITY = ("request_id", "label_token_ids", "num_items", "query_tokens", "item_tokens")


def identity(matrix: ScoreMatrix, name: str) -> Any:
    """What a matrix says of its workload, by one of the names in `_IDENTITY`; None where it says nothing."""
    known = matrix.workload if isinstance(matrix.workload, dict) else {}
    if name == "request_id":
        return matrix.workload_ref.request_id or known.get(name)
    return known.get(name)


def workload_values(a: ScoreMatrix, b: ScoreMatrix) -> list[tuple[str, Any, Any]]:
    """By name, what both matrices say of their workload: a checksum alone, where both have it, of the request rather
    than of the file."""
    pairs = [(name, getattr(a.workload_ref, name), getattr(b.workload_ref, name)) for name in _CHECKSUMS]
    pairs += [(name, identity(a, name), identity(b, name)) for name in _IDENTITY]
    stated = [pair for pair in pairs if None not in pair]
    return stated[:1] if stated and stated[0][0] in _CHECKSUMS else stated


def different_semantics(a: ScoreMatrix, b: ScoreMatrix) -> bool:
    """Whether both sides declare what they compute, and it is not the same."""
    return None not in (a.semantics, b.semantics) and a.semantics != b.semantics


def notes_on(sides: Sequence[MeasuredSide], views: Iterable[tuple[ComparedView, Sequence[MeasuredSide]]]) -> list[str]:
    """The notes on all sides, on each view with its sides, and those that the matrices bring along."""
    notes = _differences(sides)
    unknown = [f"{a.named} and {b.named}" for a, b in combinations(sides, 2) if not workload_values(a.matrix, b.matrix)]
    if unknown:
        notes.append(f"nothing in the files says that these measured the same workload: {', '.join(unknown)}")
    for view, in_view in views:
        if len(in_view) == 2:
            notes += _on_pair(*in_view)
            notes += _on_speed(view, *in_view)
    for side in sides:
        reference = side.matrix.own_reference
        if reference is not None and not reference.scores and reference.reason:
            notes.append(f"{side.label}: it has no serial reference of its own ({reference.reason})")
        notes += [f"{side.label}: {note}" for note in side.matrix.notes]
    return list(dict.fromkeys(notes))


def _differences(sides: Sequence[MeasuredSide]) -> list[str]:
    notes = []
    for name, words in (("hardware", "on different hardware"), ("model", "with different models"),
                        ("dtype", "in different precisions")):  # fmt: skip
        known = [value for side in sides if (value := getattr(side.matrix, name)) is not None]
        distinct = dict.fromkeys(map(str, known))
        if len(distinct) > 1:
            shown = "" if name == "hardware" else f": {', '.join(distinct)}"
            notes.append(f"the sides were measured {words}{shown}")
    return notes


def _on_pair(a: MeasuredSide, b: MeasuredSide) -> list[str]:
    notes, view = [], a.view
    for side, other in ((a, b), (b, a)):
        alone = list(map(str, sorted(side.rows.keys() - other.rows.keys())))
        if alone:
            notes.append(f"{view}: client chunk size {', '.join(alone)} was measured on {side.backend} only")
        if side.matrix.semantics is None:
            notes.append(
                f"{view}: {side.backend} does not declare its semantics; it is compared as if it were the same"
            )
    if different_semantics(a.matrix, b.matrix):
        notes.append(
            f"{view}: {a.backend} declares {a.matrix.semantics} and {b.backend} {b.matrix.semantics}; each is judged "
            "by its own reference, and the difference of their scores is the semantic gap, not an error"
        )
    return notes


def _on_speed(view: ComparedView, a: MeasuredSide, b: MeasuredSide) -> list[str]:
    """Which chunk sizes were not compared in speed, and which were timed apart."""
    reasons: dict[str, list[str]] = {}
    for row in view.rows:
        size = row.client_chunk_size
        if len(row.sides) < 2:
            continue
        if row.speed_verdict == "not_compared":
            why = speed.versus(a.rows[size], b.rows[size]).why or "there is no interval"
            reasons.setdefault(f"speed is not compared: {why}", []).append(str(size))
        elif not row.paired:
            reasons.setdefault("timed apart, not in interleaved blocks of one run", []).append(str(size))
    return [f"{view.view}, client chunk size {', '.join(sizes)}: {reason}" for reason, sizes in reasons.items()]
