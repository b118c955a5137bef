"""Every command line that the README and the documentation print, and what is known of it.

In a code block, a line that begins with ``$`` is one; in a block without such lines, each that begins with a known
program. Comments before a block, or below a page's title for all of its blocks that have none, say:

``<!-- not run: REASON -->``   it needs what a test has not; its options are checked all the same
``<!-- run by: TEST -->``      another test runs it
``<!-- exits: N -->``          it ends so
``<!-- before: COMMAND -->``   this is run first: the lines are of what it leaves
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROGRAMS = ("multiitem", "pytest", "make", "pip", "python", "nox", "curl", "git", "mkdocs", "ray", "pre-commit")
#: Languages of blocks in which a line is no command.
_OTHERS = ("python", "toml", "text", "json", "yaml", "ini")
_BLOCK = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<body>.*?)^(?P=indent)```$", re.DOTALL | re.MULTILINE)
_COMMENT = re.compile(r"<!-- (?P<key>not run|run by|exits|before): (?P<value>[^\n]*?) -->")
_ASSIGNED = re.compile(r"^[A-Z_][A-Z0-9_]*=")
_INLINE = re.compile(r"(?<!`)`((?:multiitem|pytest) [^`\n]*)`(?!`)")


@dataclass(frozen=True)
class Line:
    """A command line: where it stands, its words without what a shell makes of them, and the marks of its block."""

    page: Path
    number: int
    text: str
    marks: dict[str, str] = field(hash=False)

    @property
    def id(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.number}"

    @property
    def words(self) -> list[str]:
        """As a shell splits them, without variables before the program, redirections and what follows a pipe."""
        words = shlex.split(self.text, comments=True)
        while words and _ASSIGNED.match(words[0]):
            words.pop(0)
        end = next(
            (at for at, word in enumerate(words) if word in ("|", ">", ">>", "&", "&&", "||", "2>&1", ";")), None
        )
        return words[:end]

    @property
    def program(self) -> str:
        return Path(self.words[0]).name if self.words else ""


def _marks(text: str) -> dict[str, str]:
    return {found["key"]: found["value"] for found in _COMMENT.finditer(text)}


def _before(page: str, at: int) -> str:
    """The comments that stand right before a block."""
    found = re.search(r"(?:<!--[^\n]*-->\n\s*)+\Z", page[:at])
    return found[0] if found else ""


def _logical(body: str) -> Iterator[tuple[int, str]]:
    """The lines of a block with those that go on joined: the number of the first, and the text."""
    waiting, start = "", 0
    for number, line in enumerate(body.split("\n")):
        if not waiting:
            start = number
        waiting += line.rstrip("\\") if line.endswith("\\") else line
        if not line.endswith("\\"):
            yield start, waiting.strip()
            waiting = ""


def lines_of(page: Path) -> list[Line]:
    """The command lines of a page, in order."""
    text = page.read_text(encoding="utf-8")
    title = re.match(r"#[^\n]*\n\s*((?:<!--[^\n]*-->\s*)*)", text)
    of_page = _marks(title[1]) if title else {}
    found = []
    for block in _BLOCK.finditer(text):
        if block["language"] in _OTHERS:
            continue
        marks = _marks(_before(text, block.start())) or of_page
        first = text.count("\n", 0, block.start()) + 2
        logical = [*_logical(block["body"])]
        if "before" in marks:
            found.append(Line(page, first - 2, marks["before"], {}))
        typed = [(number, line[2:]) for number, line in logical if line.startswith("$ ")]
        for number, line in typed or logical:
            made = Line(page, first + number, line, marks)
            if line and not line.startswith("#") and (typed or _is_command(made)):
                found.append(made)
    return found


def _is_command(line: Line) -> bool:
    try:
        return line.program in PROGRAMS
    except ValueError:  # an apostrophe in what a command has printed
        return False


def inline(page: Path) -> list[Line]:
    """Command lines within sentences and tables, of which the options are checked alone."""
    text = _BLOCK.sub(lambda block: "\n" * block[0].count("\n"), page.read_text(encoding="utf-8"))
    return [
        Line(page, text.count("\n", 0, found.start()) + 1, found[1], {"not run": "in a sentence"})
        for found in _INLINE.finditer(text)
    ]


def all_lines() -> list[Line]:
    return [line for page in PAGES for line in lines_of(page)]
