"""Tables as wide as the terminal that shows them, and none of their content left out.

What fits stands as it is. What does not is put side by side no further than the width goes: as several tables, each
with the columns that name a row; or, where those leave no room, with the rest of each row below it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from io import StringIO
from typing import TextIO, TypeAlias

from rich.box import SIMPLE
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

#: What a table's columns stand apart: what rich puts between them.
_GAP = 3
_INDENT = "    "
#: No narrower: a terminal that says so says nothing.
_NARROWEST = 40
_UNLIMITED = 10_000
Header: TypeAlias = Sequence[str]
Body: TypeAlias = Sequence[Sequence[str]]


def terminal_width(stream: TextIO | None = None) -> int | None:
    """Columns of the terminal that a stream (default: standard output) writes to; None where nothing has a width: in a
    pipe or a file, where a row is a line. ``COLUMNS`` says otherwise for both, as it does to other programs."""
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given) > 0:
        return max(int(given), _NARROWEST)
    stream = sys.stdout if stream is None else stream
    try:
        columns = os.get_terminal_size(stream.fileno()).columns if stream.isatty() else 0
    except (OSError, ValueError, AttributeError):  # closed, or no file at all
        return None
    return max(columns, _NARROWEST) if columns > 0 else None


def fitted(header: Header, rows: Body, width: int | None) -> list[str]:
    """A table as lines of at most ``width`` cells, without markup; None: as wide as it is."""
    if width is None or sum(widths := _widths(header, rows)) + _GAP * (len(widths) - 1) <= width:
        return _grid(header, rows)
    keys = _keys(rows)
    named = sum(widths[:keys]) + _GAP * keys
    if keys < len(widths) and named + max(widths[keys:]) <= width:
        return _side_by_side(header, rows, widths, keys, width)
    return _below(header, rows, widths, width)


def _widths(header: Header, rows: Body) -> list[int]:
    return [max(cell_len(name), *(cell_len(row[at]) for row in rows)) for at, name in enumerate(header)]


def _keys(rows: Body) -> int:
    """How many columns, from the first on, tell the rows apart; 1 where none do."""
    for count in range(1, len(rows[0]) + 1):
        if len({tuple(row[:count]) for row in rows}) == len(rows):
            return count
    return 1


def _side_by_side(header: Header, rows: Body, widths: Sequence[int], keys: int, width: int) -> list[str]:
    """Several tables, each of the keys and as many of the other columns as fit."""
    lines: list[str] = []
    at = keys
    while at < len(header):
        end, used = at, sum(widths[:keys]) + _GAP * (keys - 1)
        while end < len(header) and used + _GAP + widths[end] <= width:
            used += _GAP + widths[end]
            end += 1
        chosen = [*range(keys), *range(at, end)]
        lines += [""] if lines else []
        lines += _grid([header[each] for each in chosen], [[row[each] for each in chosen] for row in rows])
        at = end
    return lines


def _below(header: Header, rows: Body, widths: Sequence[int], width: int) -> list[str]:
    """The first columns that fit as a table; the others of a row below it, each with its name. Where the first of these
    holds whole sentences, its name stands in the head alone."""
    count, used = 1, widths[0]
    while count < len(header) and used + _GAP + widths[count] <= width:
        used += _GAP + widths[count]
        count += 1
    head, rule, *body = _grid(header[:count], [row[:count] for row in rows])
    is_prose = count < len(header) and widths[count] > width
    below = _wrapped(header[count], width, _INDENT) if is_prose else []
    names = ["" if is_prose and at == 0 else name for at, name in enumerate(header[count:])]
    lines = [*_wrapped(head, width, ""), *below, rule[:width]]
    for line, row in zip(body, rows, strict=True):
        rest = [f"{name} {cell}".strip() for name, cell in zip(names, row[count:], strict=True) if cell]
        lines += [*_wrapped(line, width, ""), *_wrapped("; ".join(rest), width, _INDENT)]
    return lines


def _wrapped(text: str, width: int, indent: str) -> list[str]:
    """A text in lines of at most that width, broken between words, and within one that is wider."""
    console = Console(width=width, color_system=None)
    if not text:
        return []
    return [indent + piece.plain.rstrip() for piece in Text(text).wrap(console, width - len(indent), overflow="fold")]


def _grid(header: Header, rows: Body) -> list[str]:
    grid = Table(box=SIMPLE, show_edge=False, pad_edge=False)
    for name in header:
        grid.add_column(Text(name), no_wrap=True)
    for row in rows:
        grid.add_row(*map(Text, row))
    out = StringIO()
    Console(file=out, width=_UNLIMITED, color_system=None, markup=False, emoji=False).print(grid)
    return [line.rstrip() for line in out.getvalue().splitlines()]
