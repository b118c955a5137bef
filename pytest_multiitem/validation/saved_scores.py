"""Whether a verdict on saved scores follows from the differences that stand in its details."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from pytest_multiitem.baselines.score_judging import verdict_of
from pytest_multiitem.results.details import AgainstScores, MovedItem, ScoreVerdict
from pytest_multiitem.results.figures import NEAR, differs
from pytest_multiitem.results.records import GateRecord
from pytest_multiitem.results.verdict import Verdict, worst
from pytest_multiitem.scoring.limits import PLACED, PLACED_FLOAT32, row_difference


def problems(record: GateRecord, found: AgainstScores) -> Iterator[str]:
    """What of the details contradicts itself, or the verdict."""
    for cell in found.requests:
        yield from (f"{cell.key}: {text}" for text in _cell(cell))
    largest = [cell.largest for cell in found.requests if cell.largest is not None]
    yield from differs("its value", record.value, max(largest, default=None), "its requests give")
    due = worst((cell.verdict for cell in found.requests), of_none=Verdict.FAIL)
    if record.verdict is Verdict.PASS and due is not Verdict.PASS:
        yield f"its verdict is PASS; its requests give {due}"


def _cell(cell: ScoreVerdict) -> Iterator[str]:
    due = verdict_of(cell)[0]
    if cell.verdict is not due:
        yield f"it is {cell.verdict}; its figures give {due}"
    if cell.largest is None or cell.limit is None:
        return
    if cell.limit not in (PLACED_FLOAT32, PLACED):
        yield f"its limit is {cell.limit:g}; expected {PLACED_FLOAT32:g} or {PLACED:g}"
    if (cell.moved > 0) != (not cell.largest <= cell.limit) or not 0 <= cell.moved <= cell.items:
        counted = f"{cell.moved} of {cell.items} items moved by more than {cell.limit:g}"
        yield f"{counted}, but the largest is {cell.largest:g}"
    if cell.mean is not None and not cell.mean <= cell.largest * (1 + NEAR):
        yield f"its mean {cell.mean:g} is above its largest difference {cell.largest:g}"
    differences = [_difference(item) for item in cell.worst]
    for item, difference in zip(cell.worst, differences, strict=True):
        yield from differs(f"item {item.index}: difference", item.difference, difference, "its scores give")
    if not math.isclose(max(differences, default=0.0), cell.largest, rel_tol=NEAR):
        yield f"its largest difference is {cell.largest:g}; its worst items give {max(differences, default=0.0):g}"
    if sum(difference > cell.limit for difference in differences) > cell.moved:
        yield f"more than {cell.moved} of its worst items moved"


def _difference(item: MovedItem) -> float:
    if len(item.was) != len(item.now) or not item.was:
        return math.nan
    return row_difference(np.asarray(item.was), np.asarray(item.now), apply_softmax=True)
