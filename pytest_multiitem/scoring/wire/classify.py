"""The wire of ``POST /classify``: a row of class probabilities for each text.

vLLM answers ``probs`` by the number of the class; infinity a list of ``label`` and ``score`` by descending score, which
is read in the order of the labels' names.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

CLASSIFY_PATH: Final = "/classify"


class ClassifyRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """N texts to classify, in a field of this name."""

    input: list[str]
    model: str | None = None


def decode_classes(body: bytes, count: int) -> NDArray[np.float64]:
    """The probabilities [N, C] of ``count`` texts in their order. Raises ValueError where the answer does not have a
    row for each, of as many finite numbers."""
    try:
        decoded: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"the classes are no JSON: {error}") from None
    entries = decoded.get("data") if isinstance(decoded, dict) else None
    if type(entries) is not list or len(entries) != count:
        raise ValueError(f"the answer has no list called data of {count} entries, one for each text")
    rows: dict[int, Sequence[float]] = {}
    for place, entry in enumerate(entries):
        index, row = _row(entry, place)
        if index in rows or not 0 <= index < count:
            raise ValueError(f"the index {index} is that of no further text; expected each of 0 to {count - 1} once")
        rows[index] = row
    if len({len(row) for row in rows.values()}) != 1:
        raise ValueError("the rows of classes are not of one length")
    return np.array([rows[index] for index in range(count)], dtype=np.float64)


def _row(entry: Any, place: int) -> tuple[int, Sequence[float]]:
    """The index and the probabilities of an entry of either form."""
    index: Any = entry.get("index") if isinstance(entry, dict) else place
    row: Any = entry.get("probs") if isinstance(entry, dict) else None
    if isinstance(entry, list) and all(isinstance(each, dict) and isinstance(each.get("label"), str) for each in entry):
        row = [each.get("score") for each in sorted(entry, key=lambda each: str(each["label"]))]
    is_row = isinstance(row, list) and row and all(type(each) in (int, float) and math.isfinite(each) for each in row)
    if type(index) is not int or not is_row:
        raise ValueError(f"{str(entry)[:80]!r} has no index and no row of finite probs, or of label and score")
    return index, row
