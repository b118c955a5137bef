"""The kinds of plots on a page, each from its figures: lines, clouds, tables of cells, boxes, a mask."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from pytest_multiitem.reports.html.svg import (
    BOTTOM,
    COLOURS,
    LEFT,
    LEGEND_LINE,
    RIGHT,
    TOP,
    WIDTH,
    Picture,
    Scale,
    scale,
    shown,
)
from pytest_multiitem.reports.table import number

_HEIGHT = 210
#: Width of a letter, about.
_LETTER = 7.5
Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """Points in the order of x, with a name. ``spread``: by point, from where to where its value may be."""

    name: str
    points: Sequence[Point]
    spread: Sequence[Point | None] = ()


@dataclass(frozen=True)
class Lines:
    """What a plot of lines shows beside them. ``levels``: values of y, or lines through points, that are drawn dashed
    with a name. ``rings``: points of a series that are told apart, with a word."""

    x_name: str
    y_name: str
    log_x: bool = False
    log_y: bool = False
    levels: Sequence[tuple[str, float | Sequence[Point]]] = ()
    rings: Sequence[tuple[float, float, str]] = field(default=())


def lines(key: str, title: str, about: str, series: Sequence[Series], look: Lines) -> Picture:
    """Lines over x with what their values may be, and levels."""
    rows = (len(series) + 1) // 2
    bottom = TOP + _HEIGHT
    picture = Picture(key, title, about, bottom + BOTTOM + rows * LEGEND_LINE)
    through = [points for _, points in look.levels if not isinstance(points, float | int)]
    values = [y for each in series for _, y in each.points]
    values += [end for each in series for spread in each.spread if spread is not None for end in spread]
    values += [float(value) for _, value in look.levels if isinstance(value, float | int)]
    values += [y for points in through for _, y in points]
    places = [x for each in series for x, _ in each.points]
    x = scale(places, LEFT + 8, WIDTH - RIGHT - 8, log=look.log_x, zero=False)
    y = scale(values, bottom, TOP, log=look.log_y)
    known = sorted(set(places))
    picture.axes(x, y, look.x_name, look.y_name, known if len(known) <= 10 else None)
    for name, level in look.levels:
        points = [(x.low, float(level)), (x.high, float(level))] if isinstance(level, float | int) else level
        placed = [(x.at(px), y.at(py)) for px, py in points]
        if isinstance(level, float | int):
            placed = [(LEFT, placed[0][1]), (WIDTH - RIGHT, placed[0][1])]
        picture.path(placed, "level")
        at = placed[-1]
        above = at[1] - 5 if at[1] > TOP + 14 else at[1] + 14
        picture.text(WIDTH - RIGHT - 2, above, name, css="halo", anchor="end", most=44)
    for index, each in enumerate(series):
        for (px, _), spread in zip(each.points, each.spread, strict=False):
            if spread is not None:
                picture.add(
                    "line", css=f"c{index % COLOURS} spread", x1=x.at(px), x2=x.at(px),
                    y1=y.at(spread[0]), y2=y.at(spread[1]),
                )  # fmt: skip
        if len(each.points) > 1:
            picture.path([(x.at(px), y.at(py)) for px, py in each.points], f"c{index % COLOURS} line")
        for px, py in each.points:
            picture.mark(x.at(px), y.at(py), index, hint=f"{each.name}: {number(py)} at {px:g}")
    for px, py, word in look.rings:
        picture.add("circle", css="ring", cx=x.at(px), cy=y.at(py), r=9)
        end = x.at(px) > WIDTH * 0.6
        beside = x.at(px) - 13 if end else x.at(px) + 13
        under = y.at(py) + 15 if y.at(py) < bottom - 20 else y.at(py) - 9
        picture.text(beside, under, word, css="halo strong", anchor="end" if end else "start", most=40)
    picture.legend(bottom + BOTTOM + 10, [each.name for each in series])
    return picture


def cloud(
    key: str, title: str, about: str, series: Sequence[Series], x_name: str, y_name: str,
    named: Sequence[tuple[float, float, str]],
) -> Picture:  # fmt: skip
    """Points against the diagonal on which both values are equal. ``named``: points with a ring and a number, and what
    each is, for `named_below`: words in the picture would lie over points."""
    rows, side = (len(series) + 1) // 2, WIDTH - LEFT - RIGHT - 40
    bottom = TOP + side
    picture = Picture(key, title, about, bottom + BOTTOM + rows * LEGEND_LINE)
    values = [value for each in series for point in each.points for value in point]
    x = scale(values, LEFT, LEFT + side, zero=False)
    y = Scale(x.low, x.high, bottom, TOP)
    picture.axes(x, y, x_name, y_name)
    picture.path([(x.at(x.low), y.at(y.low)), (x.at(x.high), y.at(y.high))], "level")
    for index, each in enumerate(series):
        for px, py in each.points:
            picture.mark(x.at(px), y.at(py), index, size=2.6)
    drawn = [(x.at(px), y.at(py)) for each in series for px, py in each.points]
    ringed = [(x.at(px), y.at(py)) for px, py, _ in named]
    numbers: list[Point] = []
    for at, (ring, (_, _, word)) in enumerate(zip(ringed, named, strict=True), 1):
        picture.add("circle", f"<title>{shown(f'{at}: {word}')}</title>", css="ring", cx=ring[0], cy=ring[1], r=_RING)
        numbers.append(_free_place(ring, drawn, ringed, numbers, (LEFT, TOP, LEFT + side, bottom)))
        picture.path([_towards(ring, numbers[-1], _RING), _towards(numbers[-1], ring, _DIGIT)], "axis")
        picture.text(numbers[-1][0], numbers[-1][1] + 4, str(at), css="halo strong", anchor="middle")
    picture.legend(bottom + BOTTOM + 10, [each.name for each in series])
    return picture


def named_below(named: Sequence[tuple[float, float, str]]) -> list[str]:
    """A line for each point that `cloud` has numbered."""
    return [f"{at}: {word}" for at, (_, _, word) in enumerate(named, 1)]


_RING, _DIGIT = 7, 8  # radius of a ring; half of the room that a number takes


def _free_place(
    ring: Point, points: Sequence[Point], rings: Sequence[Point], numbers: Sequence[Point],
    frame: tuple[float, float, float, float],
) -> Point:  # fmt: skip
    """Where a ring's number stands: near it, within the frame, over nothing that is drawn as far as there is room.
    The diagonal goes from the frame's lower left to its upper right."""
    left, top, right, bottom = frame

    def in_the_way(place: Point) -> tuple[float, float]:
        x, y = place
        over = 100.0 * sum(math.dist(place, each) < 2 * _DIGIT for each in numbers)
        over += 20.0 * sum(math.dist(place, each) < _RING + _DIGIT for each in rings)
        over += 20.0 * (abs((x - left) / (right - left) - (bottom - y) / (bottom - top)) * (right - left) < 2 * _DIGIT)
        over += sum(math.dist(place, each) < _DIGIT + 3 for each in points)
        return over, math.dist(place, ring)

    places = [
        (ring[0] + radius * math.cos(angle), ring[1] + radius * math.sin(angle))
        for radius in (18, 24, 32, 42, 56, 72)
        for angle in (step * math.pi / 8 for step in range(16))
    ]
    inside = [
        (x, y) for x, y in places
        if left + _DIGIT < x < right - _DIGIT and top + _DIGIT < y < bottom - _DIGIT
    ]  # fmt: skip
    return min(inside, key=in_the_way)


def _towards(start: Point, end: Point, length: float) -> Point:
    """The point that far from the start on the way to the end."""
    share = length / math.dist(start, end)
    return start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1])


@dataclass(frozen=True)
class CellOf:
    """A cell: its colour's class, ``h0`` to ``h4`` or ``seen`` and ``hidden``, its text, and what a pointer is told."""

    css: str
    text: str = ""
    hint: str = ""


def cells(
    key: str, title: str, about: str, names: tuple[Sequence[str], Sequence[str]], content: Sequence[Sequence[CellOf]],
    axes: tuple[str, str],
) -> Picture:  # fmt: skip
    """A square of cells. ``names``: of rows and of columns; ``axes``: what rows and columns are. The name of a column
    that is wider than its cells stands upright."""
    row_names, column_names = names
    left = 70.0
    size = min(40.0, (WIDTH - left - 6) / max(1, len(column_names)))
    upright = {name for name in column_names if len(name) * _LETTER > size - 4}
    top = 44.0 + max((_LETTER * len(name) - 10 for name in upright), default=0.0)
    picture = Picture(key, title, about, top + size * len(row_names) + 8)
    picture.text(left + size * len(column_names) / 2, 14, axes[1], css="name", anchor="middle", most=60)
    picture.text(4, top - 10, axes[0], css="name", most=8)
    for at, name in enumerate(column_names):
        x = left + size * (at + 0.5)
        if name in upright:
            turned = f"rotate(-90 {x + 4:.1f} {top - 6:.1f})"
            picture.add("text", shown(name), x=x + 4, y=top - 6, transform=turned)
        else:
            picture.text(x, top - 10, name, anchor="middle", most=5)
    for down, (name, row) in enumerate(zip(row_names, content, strict=True)):
        y = top + size * down
        picture.text(left - 6, y + size / 2 + 4, name, anchor="end", most=8)
        for across, cell in enumerate(row):
            x = left + size * across
            hint = "" if not cell.hint else f"<title>{shown(cell.hint)}</title>"
            picture.add("rect", hint or None, css=cell.css, x=x + 1, y=y + 1, width=size - 2, height=size - 2)
            if cell.text:
                picture.text(x + size / 2, y + size / 2 + 4, cell.text, css=f"on {cell.css}-text", anchor="middle")
    return picture


def boxes(
    key: str, title: str, about: str, rows: Sequence[tuple[str, Sequence[float]]], x_name: str,
    limit: tuple[str, float] | None = None,
) -> Picture:  # fmt: skip
    """A distribution a row: a line from the 5th to the 95th percentile, a box of the middle half, a stroke at the
    median. ``rows``: a name and the five values. ``limit``: a value that is drawn dashed."""
    line, left = 30.0, 118.0
    bottom = TOP + line * len(rows)
    picture = Picture(key, title, about, bottom + BOTTOM)
    values = [value for _, five in rows for value in five] + ([] if limit is None else [limit[1]])
    x = scale(values, left, WIDTH - RIGHT, log=min(values, default=0) > 0)
    for value in x.ticks():
        picture.add("line", css="rule", x1=x.at(value), x2=x.at(value), y1=TOP, y2=bottom)
        picture.text(x.at(value), bottom + 16, f"{value:g}", anchor="middle")
    picture.add("line", css="axis", x1=left, x2=WIDTH - RIGHT, y1=bottom, y2=bottom)
    picture.text((left + WIDTH - RIGHT) / 2, bottom + 34, x_name, css="name", anchor="middle", most=60)
    for at, (name, five) in enumerate(rows):
        y = TOP + line * (at + 0.5)
        p5, p25, p50, p75, p95 = map(x.at, five)
        picture.text(left - 8, y + 4, name, anchor="end", most=17)
        picture.add("line", css="c0 line", x1=p5, x2=p95, y1=y, y2=y)
        picture.add("rect", css="c0 box", x=p25, y=y - 8, width=max(1.5, p75 - p25), height=16)
        picture.add("line", css="median", x1=p50, x2=p50, y1=y - 10, y2=y + 10)
    if limit is not None and math.isfinite(limit[1]):
        picture.path([(x.at(limit[1]), TOP), (x.at(limit[1]), bottom)], "level")
        end = x.at(limit[1]) > WIDTH / 2
        picture.text(x.at(limit[1]) + (-4 if end else 4), TOP - 6, limit[0], anchor="end" if end else "start", most=40)
    return picture
