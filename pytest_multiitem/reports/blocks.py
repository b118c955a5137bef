"""The blocks that reports are made of: sections and tables, for Markdown and for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from io import StringIO

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

#: A table's header and rows.
Rows = tuple[list[str], list[list[str]]]


def section(title: str, *parts: str) -> str:
    """A Markdown section of the parts that hold something; nothing where none does."""
    body = "\n\n".join(text for part in parts if (text := part.strip()))
    return f"## {title}\n\n{body}" if body else ""


def cell(value: object) -> str:
    """What is known, in a table: yes or no of a truth; "-" for nothing."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(map(escape, cells))} |"


def header(*names: str) -> str:
    """The head of a Markdown table."""
    return f"{_line(names)}\n{_line(['---'] * len(names))}"


def row(*values: object) -> str:
    """A line of a Markdown table."""
    return _line(map(cell, values))


def markdown_table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; nothing without rows."""
    lines = [_line(cells) for cells in rows]
    return "\n".join([header(*names), *lines]) if lines else ""


def bullets(lines: Iterable[str]) -> str:
    """A Markdown list; nothing without lines."""
    return "\n".join(f"- {escape(line)}" for line in lines)


def terminal_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table as lines for the terminal, the last one empty; none without rows."""
    if not rows:
        return []
    grid = Table(box=SIMPLE, show_edge=False, pad_edge=False)
    for name in header:
        grid.add_column(name, no_wrap=True)
    for row in rows:
        grid.add_row(*row)
    out = StringIO()
    Console(file=out, width=10_000, color_system=None, markup=False, emoji=False).print(grid)
    return [*(line.rstrip() for line in out.getvalue().splitlines()), ""]


def escape(text: str) -> str:
    """A text that breaks no Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")
