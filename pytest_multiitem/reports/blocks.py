"""The blocks that reports are made of: sections and tables, for Markdown and for the terminal.

What is no `Markdown` is data and shows as it is: no word of a server makes a row, a heading, a link or an HTML tag.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from pytest_multiitem.reports.fitting import fitted, terminal_width
from pytest_multiitem.untrusted.words import plain, plain_lines

#: A table's header and rows.
Rows = tuple[list[str], list[list[str]]]


class Markdown(str):
    """A text that is Markdown on purpose."""

    __slots__ = ()


def markdown(text: object) -> Markdown:
    """A text of this package's own, taken for the Markdown that it is."""
    return Markdown(text)


def paragraphs(*parts: str) -> Markdown:
    """The parts that hold something, with an empty line between them."""
    return Markdown("\n\n".join(text for part in parts if (text := escape(part).strip())))


def section(title: str, *parts: str) -> Markdown:
    """A Markdown section of the parts that hold something; nothing where none does."""
    body = paragraphs(*parts)
    return Markdown(f"## {escape(title)}\n\n{body}" if body else "")


def cell(value: object) -> str:
    """What is known, in a table: yes or no of a truth; "-" for nothing."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(map(escape, cells))} |"


def header(*names: str) -> Markdown:
    """The head of a Markdown table."""
    return Markdown(f"{_line(names)}\n{_line(['---'] * len(names))}")


def row(*values: object) -> Markdown:
    """A line of a Markdown table."""
    return Markdown(_line(value if isinstance(value, str) else cell(value) for value in values))


def markdown_table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> Markdown:
    """A Markdown table; nothing without rows."""
    lines = [_line(cells) for cells in rows]
    return Markdown("\n".join([header(*names), *lines]) if lines else "")


def bullets(lines: Iterable[str]) -> Markdown:
    """A Markdown list; nothing without lines."""
    return Markdown("\n".join(f"- {_BLOCK.sub(_escaped_block, escape(line).lstrip())}" for line in lines))


def strong(text: str) -> Markdown:
    """A text in bold."""
    return Markdown(f"**{escape(text.strip())}**" if text.strip() else "")


def code(text: str) -> Markdown:
    """A text in a code span; one with a bar, which no code span in a table can hold, as it is."""
    shown = plain(text.replace("\n", " ")).strip()
    if "|" in shown:
        return escape(shown)
    fence = "`" * (max(map(len, re.findall("`+", shown)), default=0) + 1)
    space = " " if len(fence) > 1 else ""
    return Markdown(f"{fence}{space}{shown}{space}{fence}" if shown else "")


def code_block(text: str, language: str) -> Markdown:
    """A text of several lines in a fenced block."""
    shown = plain_lines(text)
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", shown)), 0)
    return Markdown(f"{fence}{language}\n{shown}\n{fence}")


def terminal_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table as lines for the terminal, as wide as this is, the last one empty; none without rows."""
    if not rows:
        return []
    width = terminal_width()
    return [*fitted([*map(plain, header)], [[*map(plain, row)] for row in rows], width), ""]


#: What means something to a Markdown renderer: code, emphasis, strikethrough, links and images, a table's bar, maths, a
#: backslash before any of these; the beginning of a tag, a comment, an address or an entity; "_" but between letters.
_MEANS = re.compile(
    r"[`*~\[|]|\$(?=.*\$)|\\(?=[!-/:-@\[-`{-~]|$)|<(?=[A-Za-z/!?])|&(?=[#A-Za-z])|(?<![^\W_])_+|_+(?![^\W_])"
)
#: What makes a block of the line that begins with it.
_BLOCK = re.compile(r"^(?:[#+>=-]|\d+(?=[.)]))")


def escape(text: str) -> Markdown:
    """A text that shows as itself in Markdown, on one line, also within a table; what is Markdown stays as it is."""
    if isinstance(text, Markdown):
        return text
    return Markdown(_MEANS.sub(lambda found: "".join(f"\\{char}" for char in found[0]), plain(text.replace("\n", " "))))


def _escaped_block(found: re.Match[str]) -> str:
    return f"{found[0]}\\" if found[0].isdecimal() else f"\\{found[0]}"
