"""What a check has found wrong with one call of a kernel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pytest_multiitem.kernels.layout import Layout


@dataclass(frozen=True)
class Finding:
    """``reason``: what is wrong, in words. ``row``, ``head``: where, if it is one row's. ``trace``: of an exception."""

    reason: str
    row: int | None = None
    head: int | None = None
    trace: str | None = None


def first_wrong(wrong: NDArray[np.bool_]) -> tuple[int, int]:
    """Row and head of the first entry of [rows, heads, …] that is true."""
    row, head = np.argwhere(wrong)[0][:2]
    return int(row), int(head)


def place(layout: Layout, row: int) -> str:
    """A row in the words of its sequence: ``token 2 of item 3``."""
    inside = int(layout.sequence_ids[row])
    where = f" of sequence {inside}" if len(layout.lengths) > 1 else ""
    item = int(layout.segment_ids[row])
    if layout.is_delimiter[row]:
        which = "the first delimiter" if item < 0 else f"the delimiter that closes item {item + 1}"
        return f"{which}{where}"
    if item < 0:
        return f"token {row - int(layout.starts[inside]) + 1} of the query{where}"
    return f"token {row - int(layout.bounds.own_start[row]) + 1} of item {item + 1}{where}"
