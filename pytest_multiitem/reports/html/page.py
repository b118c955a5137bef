"""What a page is made of, and the page itself: one file, its style within, no script, no address that it asks for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from itertools import count

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from pytest_multiitem.reports.blocks import Rows
from pytest_multiitem.reports.html.svg import Picture
from pytest_multiitem.reports.sentence import Said
from pytest_multiitem.results.verdict import Verdict
from pytest_multiitem.untrusted.words import plain, plain_lines

#: Characters of one value, at most: a server may say anything, at any length.
_LONGEST = 2000
#: Bytes of a page, at most; what makes it larger is left out, and said to be.
MOST_BYTES = 1_500_000


@dataclass(frozen=True)
class Figure:
    """A picture with the table of its figures, which says the same without it. ``notes``: a line each, below it."""

    picture: Picture
    caption: str
    table: Rows
    notes: Sequence[str] = ()
    kind = "figure"


@dataclass(frozen=True)
class Cell:
    """A cell of a grid: its text, the class of its colour, the name that it links to, and more about it."""

    text: str
    css: str = ""
    to: str | None = None
    hint: str = ""


@dataclass(frozen=True)
class Grid:
    """A table whose cells have colours: a heat map that is read as a table. The first ``heads`` cells of a row name
    it. ``narrow``: the names of columns stand upright, so that many fit."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    heads: int = 1
    narrow: bool = False
    kind = "grid"


@dataclass(frozen=True)
class Table:
    """A plain table; ``folded``: shown where it is asked for."""

    caption: str
    content: Rows
    folded: bool = False
    kind = "table"


@dataclass(frozen=True)
class Entry:
    """One verdict to link to, with everything that is known of it."""

    name: str
    title: str
    verdict: str
    summary: str
    facts: Sequence[tuple[str, str]]
    kind = "entry"


@dataclass(frozen=True)
class Heading:
    """A heading within a section, to link to."""

    name: str
    title: str
    kind = "heading"


@dataclass(frozen=True)
class Texts:
    """Lines of text, each a bullet."""

    lines: Sequence[str]
    kind = "texts"


Block = Figure | Grid | Table | Entry | Heading | Texts


@dataclass
class Section:
    """A heading and what stands under it; one without blocks is left out."""

    title: str
    blocks: list[Block]
    intro: str = ""


@dataclass
class Chapter:
    """One artefact: what it comes to, facts about it, its sections. ``title``: what it is of."""

    title: str
    said: Said
    facts: list[tuple[str, str]] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)


def slug(*words: str | None) -> str:
    """A name for a link: small letters, digits, ``_`` and ``-``."""
    return re.sub(r"[^a-z0-9_]+", "-", "-".join(filter(None, words)).lower()).strip("-")[:120] or "part"


def gate_anchor(gate: str, place: str | None) -> str:
    """The name under which a page shows a gate's verdict; without a place, the gate itself."""
    return slug("gate", gate, place)


def css_of(verdict: str) -> str:
    """The class of a verdict's colour."""
    return f"v-{verdict.lower()}" if verdict in {each.value for each in Verdict} else ""


def _shown(value: object) -> Markup | str:
    """What is put in: our own markup as it is, everything else as harmless text."""
    if isinstance(value, Markup) or hasattr(value, "__html__"):
        return Markup(value)
    text = plain_lines(str(value)) if isinstance(value, str) and "\n" in value else plain(str(value))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… ({len(text)} characters)"


def _breakable(text: str) -> Markup:
    """A name that a narrow window may break after ``_``, and not within its words."""
    return Markup("_<wbr>").join(escape(part) for part in _shown(text).split("_"))


class _Names:
    """Names for links, each once a page; the first of its kind has the name itself."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def __call__(self, *words: str) -> str:
        name = slug(*words)
        free = (
            name if name not in self._taken else next(n for at in count(2) if (n := f"{name}-{at}") not in self._taken)
        )
        self._taken.add(free)
        return free


_PAGES = Environment(
    loader=PackageLoader("pytest_multiitem.reports"),
    autoescape=True,
    finalize=_shown,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_PAGES.globals |= {"css_of": css_of, "breakable": _breakable}


def page(title: str, chapters: Sequence[Chapter]) -> str:
    """A whole page, of at most `MOST_BYTES`: where there is too much, the largest tables and entries are left out."""
    text = _rendered(title, chapters)
    while len(text.encode()) > MOST_BYTES and (shorter := _shorter(chapters)) is not None:
        chapters = shorter
        text = _rendered(title, chapters)
    return text


def _rendered(title: str, chapters: Sequence[Chapter]) -> str:
    named = _Names()
    for reserved in ("content", "top"):
        named(reserved)
    style = resources.files("pytest_multiitem.reports") / "templates" / "page.css"
    titles = _unique([chapter.title for chapter in chapters])
    parts = [
        (replace(chapter, title=title), named("part", title), _sections(chapter, named))
        for chapter, title in zip(chapters, titles, strict=True)
    ]
    return _PAGES.get_template("page.html.j2").render(
        title=title,
        style=Markup(style.read_text(encoding="utf-8")),
        parts=parts,
        names=named,
        worst=min((chapter.said for chapter in chapters), key=lambda said: said.rank, default=None),
    )


def _unique(titles: Sequence[str]) -> list[str]:
    """The titles, with a number behind what was there before: who hears the page tells parts by them."""
    seen: Counter[str] = Counter()
    made = []
    for title in titles:
        seen[title] += 1
        made.append(title if seen[title] == 1 else f"{title} ({seen[title]})")
    return made


def _sections(chapter: Chapter, named: _Names) -> list[tuple[Section, str]]:
    return [(section, named(section.title)) for section in chapter.sections if section.blocks]


_LEFT_OUT = "Left out, because the page would be too large: see the file that it was made from."


def _shorter(chapters: Sequence[Chapter]) -> list[Chapter] | None:
    """The same without the section that takes most room, of those that are tables and entries alone; None where there
    is none left."""
    sizes = [
        (_size(section.blocks), at, of)
        for at, chapter in enumerate(chapters)
        for of, section in enumerate(chapter.sections)
        if section.blocks != [Texts([_LEFT_OUT])]
    ]
    if not sizes:
        return None
    _, at, of = max(sizes)
    made = [Chapter(c.title, c.said, [*c.facts], [*c.sections]) for c in chapters]
    made[at].sections[of] = Section(made[at].sections[of].title, [Texts([_LEFT_OUT])])
    return made


def _size(blocks: Iterable[Block]) -> int:
    return sum(len(repr(block)) for block in blocks)
