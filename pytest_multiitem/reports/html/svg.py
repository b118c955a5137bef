"""Pictures as SVG text: nothing to install, no script, colours by class, so that a page's style has light and dark.

A picture is as wide as a phone and grows with its place; its text stays readable there. Words that come in are data.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

from pytest_multiitem.untrusted.words import plain

WIDTH = 400
#: Room around a plot: left for the numbers of its axis, below for its numbers and its name.
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 26, 44
#: Colours that lines and points have in turn, ``c0`` …; and the shapes of their points.
COLOURS = 6
_TICKS = 5
#: Characters of a name in a picture, at most; the table behind it has all of them.
_NAME = 26


def shown(text: object, most: int | None = None) -> str:
    """A text for SVG: cut to ``most`` characters, made harmless, escaped."""
    clean = plain(str(text))
    return escape(clean if most is None or len(clean) <= most else f"{clean[: most - 1]}…", quote=True)


def number(value: float) -> str:
    """A number of an axis: ``0.001``, ``2.5``, ``1e-07``, ``20k``."""
    if value and (abs(value) < 1e-3 or abs(value) >= 1e6):
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:g}"


@dataclass(frozen=True)
class Scale:
    """From values to places: ``low`` to ``high`` stand at ``start`` to ``end``, by their logarithm where ``log``."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """Where a value stands; one beyond an end stands at that end."""
        low, high, value = (map(math.log10, (self.low, self.high, max(value, self.low)))
                            if self.log else (self.low, self.high, value))  # fmt: skip
        share = min(1.0, max(0.0, (value - low) / (high - low)))
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Some round values between the ends."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            every = max(1, math.ceil(len(powers) / _TICKS))
            steps = (1, 2, 5) if len(powers) <= 3 else (1,)
            found = [step * 10.0**power for power in [*powers][::every] for step in steps]
        else:
            step = 10 ** math.floor(math.log10((self.high - self.low) / _TICKS))
            step = next(step * each for each in (1, 2, 5, 10) if (self.high - self.low) / (step * each) <= _TICKS)
            found = [step * at for at in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        return [round(value, 12) for value in found if self.low * (1 - 1e-9) <= value <= self.high * (1 + 1e-9)]


def scale(values: Iterable[float], start: float, end: float, *, log: bool = False, zero: bool = True) -> Scale:
    """A scale that all finite values fit on; a logarithmic one takes those above 0, a linear one begins at 0 unless it
    need not."""
    finite = [value for value in values if math.isfinite(value) and (not log or value > 0)]
    low, high = min(finite, default=1.0), max(finite, default=1.0)
    if log:
        low, high = low / 1.15, high * 1.15
        return Scale(low, high if high > low * 1.5 else low * 10, start, end, log=True)
    if zero:
        low, high = min(0.0, low), max(0.0, high)
    margin = 0.05 * (high - low) or abs(high) or 1.0
    return Scale(low if zero and low == 0 else low - margin, high + margin, start, end)


class Picture:
    """One picture: elements in the order in which they are painted. ``title``: its name, for who does not see it;
    ``about``: what it shows, in a sentence. ``key`` tells its ids from those of other pictures on the page."""

    def __init__(self, key: str, title: str, about: str, height: float) -> None:
        self._key, self._title, self._about, self.height = key, title, about, height
        self._parts: list[str] = []

    def add(self, tag: str, text: str | None = None, *, css: str = "", **attributes: float | str) -> None:
        """One element; a number is a place in the picture. ``text`` is escaped already (`shown`)."""
        named = {"class": css, **attributes} if css else attributes
        written = "".join(f' {name.replace("_", "-")}="{_place(value)}"' for name, value in named.items())
        self._parts.append(f"<{tag}{written}/>" if text is None else f"<{tag}{written}>{text}</{tag}>")

    def text(
        self, x: float, y: float, words: object, *, css: str = "", anchor: str = "start", most: int | None = _NAME
    ) -> None:
        """A line of text whose base line is at ``y``."""
        self.add("text", shown(words, most), css=css, x=x, y=y, text_anchor=anchor)

    def path(self, points: Sequence[tuple[float, float]], css: str) -> None:
        """A line through points."""
        self.add("path", css=css, d="M" + "L".join(f"{_place(x)} {_place(y)}" for x, y in points))

    def mark(self, x: float, y: float, index: int, *, size: float = 3.5, hint: str = "") -> None:
        """A point of the series of that index: a circle, a square, a triangle, a diamond, in turn. ``hint``: what
        a pointer over it is told."""
        inside = f"<title>{shown(hint)}</title>" if hint else None
        css, shape, s = f"c{index % COLOURS} mark", index % 4, size
        if shape == 0:
            self.add("circle", inside, css=css, cx=x, cy=y, r=s)
            return
        corners = {
            1: ((-s, -s), (s, -s), (s, s), (-s, s)),
            2: ((0, -1.2 * s), (1.2 * s, s), (-1.2 * s, s)),
            3: ((0, -1.4 * s), (1.4 * s, 0), (0, 1.4 * s), (-1.4 * s, 0)),
        }[shape]
        points = " ".join(f"{_place(x + dx)},{_place(y + dy)}" for dx, dy in corners)
        self.add("polygon", inside, css=css, points=points)

    def axes(self, x: Scale, y: Scale, x_name: str, y_name: str, x_ticks: Sequence[float] | None = None) -> None:
        """A grid with numbers, the name of the one axis below it and of the other above it."""
        right, bottom = WIDTH - RIGHT, y.start
        for value in y.ticks():
            self.add("line", css="rule", x1=LEFT, x2=right, y1=y.at(value), y2=y.at(value))
            self.text(LEFT - 6, y.at(value) + 4, number(value), anchor="end")
        taken = -math.inf
        for value in x.ticks() if x_ticks is None else x_ticks:
            label, at = number(value), x.at(value)
            self.add("line", css="rule", x1=at, x2=at, y1=y.end, y2=bottom)
            if at - 3.6 * len(label) > taken:  # no number over another one
                self.text(at, bottom + 16, label, anchor="middle")
                taken = at + 3.6 * len(label) + 4
        self.add("line", css="axis", x1=LEFT, x2=right, y1=bottom, y2=bottom)
        self.text((LEFT + right) / 2, bottom + 34, x_name, css="name", anchor="middle", most=60)
        self.text(4, 14, y_name, css="name", most=60)

    def legend(self, y: float, names: Sequence[str]) -> None:
        """What each index is, two a line, from ``y`` on."""
        for index, name in enumerate(names):
            left, top = 14 + (index % 2) * (WIDTH / 2), y + index // 2 * LEGEND_LINE
            self.mark(left, top - 4, index)
            self.text(left + 10, top, name, most=24)

    def drawn(self, prefix: str = "") -> Markup:
        """The picture, for a page. ``prefix``: of its ids, which a page has once."""
        top = f"{prefix}{self._key}-title", f"{prefix}{self._key}-about"
        head = f'<title id="{top[0]}">{shown(self._title)}</title><desc id="{top[1]}">{shown(self._about)}</desc>'
        return Markup(
            f'<svg viewBox="0 0 {WIDTH} {_place(self.height)}" role="img" aria-labelledby="{top[0]} {top[1]}">'
            f"{head}{''.join(self._parts)}</svg>"
        )


LEGEND_LINE = 18


def _place(value: float | str) -> str:
    return shown(value) if isinstance(value, str) else f"{value:.1f}".removesuffix(".0")
