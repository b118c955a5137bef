"""A kernel's mask as text: what is due beside what the kernel has."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pytest_multiitem.kernels.abilities import Dtype
from pytest_multiitem.kernels.layout import Layout
from pytest_multiitem.kernels.masks import TooSlow, recovered
from pytest_multiitem.kernels.shapes import Shape
from pytest_multiitem.kernels.subject import KernelError, Subject

#: Rows and keys of a picture at most; two of them stand side by side on a terminal of 80 columns.
_SIDE = 28
#: Rows of a part of a mask.
_FEW = 9
#: Beyond, a whole mask would take minutes and gigabytes.
_MOST_ROWS = 4500
_DUE, _FOREIGN, _MISSING, _HIDDEN, _UNREAD = "#", "X", "o", "·", " "


def picture(
    subject: Subject, shape: Shape, dtype: Dtype, row: int | None, head: int | None, seconds: float = np.inf
) -> list[str]:
    """Two masks side by side, a line for each row: the one that is due, and the one that the kernel has.

    Of a large one the part about the first row that differs, or about ``row``. Rows whose result nobody reads are
    blank. Where the two agree a line says so: then it is the numbers that are wrong. ``seconds``: what it may take.
    """
    layout = shape.layout()
    if layout.rows > _MOST_ROWS:
        return [f"no picture: {layout.rows:,} rows"]
    try:
        masks = recovered(subject, shape, layout, dtype, seconds)
    except TooSlow:
        return [f"no picture: {layout.rows:,} rows took more than {seconds:g} s"]
    except KernelError as error:
        return [f"no picture: {error}"]
    due = layout.mask()
    wrong = (masks != due[:, None, :]) & layout.judged[:, None, None]
    if not wrong.any():
        return ["the mask is as it must be: what is wrong is the numbers"]
    if head is None or not wrong[:, head].any():
        head = int(np.flatnonzero(wrong.any(axis=(0, 2)))[0])
    mine = wrong[:, head]
    at = row if row is not None and mine[row].any() else int(np.flatnonzero(mine.any(axis=1))[0])
    key = int(np.flatnonzero(mine[at])[0])
    rows = _window(at, layout.rows, _SIDE if layout.rows <= _SIDE else _FEW)
    keys = _window(key, layout.rows, _SIDE)
    return _drawn(layout, masks[:, head], due, rows, keys, head)


def _window(at: int, count: int, size: int) -> range:
    start = min(max(at - size // 2, 0), max(count - size, 0))
    return range(start, min(start + size, count))


def _drawn(
    layout: Layout, found: NDArray[np.bool_], due: NDArray[np.bool_], rows: range, keys: range, head: int
) -> list[str]:
    names = _names(layout)
    top = "".join(names[key] for key in keys)
    width = max(len(keys), len("must see"))
    whole = len(rows) == layout.rows
    part = "" if whole else f", rows {rows[0]} to {rows[-1]}, keys {keys[0]} to {keys[-1]}"
    lines = [
        f"{_DUE} seen  {_HIDDEN} hidden  {_FOREIGN} seen and must not be  {_MISSING} not seen and must be "
        f"(head {head}{part})",
        f"  {'must see':{width}}   sees",
        f"  {top:{width}}   {top}",
    ]
    for row in rows:
        if not layout.judged[row]:
            lines.append(f"{names[row]} {_UNREAD * width}   ".rstrip())
            continue
        left = "".join(_DUE if due[row, key] else _HIDDEN for key in keys)
        right = "".join(_mark(bool(due[row, key]), bool(found[row, key])) for key in keys)
        lines.append(f"{names[row]} {left:{width}}   {right}")
    return lines


def _mark(due: bool, found: bool) -> str:
    if due == found:
        return _DUE if due else _HIDDEN
    return _MISSING if due else _FOREIGN


def _names(layout: Layout) -> str:
    """A letter a token: q of a query, a of item 1, b of item 2 and so on, | a delimiter."""
    letters = "abcdefghijklmnoprstuvwxyz"
    items = ("q" if item < 0 else letters[item % len(letters)] for item in layout.segment_ids.tolist())
    return "".join("|" if closes else name for name, closes in zip(items, layout.is_delimiter.tolist(), strict=True))
