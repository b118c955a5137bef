"""Pictures of scores: packed against alone, item by item; and which item's content moves which item's score."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pytest_multiitem.reports.html.page import Block, Figure, slug
from pytest_multiitem.reports.html.plots import CellOf, Series, cells, cloud, named_below
from pytest_multiitem.reports.html.svg import COLOURS
from pytest_multiitem.reports.table import bound, number, where
from pytest_multiitem.results.details import ContentIsolation, Equivalence, ScoredItems, SeenPairs
from pytest_multiitem.results.records import GateRecord
from pytest_multiitem.scoring.semantics import Semantics

#: Points of one picture, rows of the table behind it, and items that are named in it.
_POINTS, _ROWS, _NAMED = 600, 60, 3
#: Words of an item beside its number in a picture.
_WORDS = 24


def packed_and_alone(records: Sequence[GateRecord]) -> list[Block]:
    """A cloud for every server whose scores were kept."""
    blocks: list[Block] = []
    for record in records:
        if isinstance(record.details, Equivalence) and record.details.scored:
            blocks.append(_cloud(record, record.details.scored[:COLOURS]))
    return blocks


def _cloud(record: GateRecord, scored: Sequence[ScoredItems]) -> Figure:
    place = where(record)
    series, every = [], []
    for each in scored:
        pairs = [
            (serial, packed, item)
            for item, packed, serial in zip(each.items, each.packed, each.serial, strict=False)
            if packed is not None and serial is not None
        ]
        every += [(abs(packed - serial), serial, packed, each, item) for serial, packed, item in pairs]
        step = max(1, math.ceil(len(pairs) * len(scored) / _POINTS))
        series.append(Series(each.case, [(serial, packed) for serial, packed, _ in pairs[::step]]))
    every.sort(key=lambda entry: -entry[0])
    worst = every[:_NAMED]
    named = [(serial, packed, _name(each, item)) for _, serial, packed, each, item in worst]
    for _, serial, packed, each, _ in worst:  # they are drawn, whatever is left out
        at = next(at for at, one in enumerate(scored) if one is each)
        series[at] = Series(each.case, [*series[at].points, (serial, packed)])
    rows = [
        [each.case, str(item), f"{packed:.6g}", f"{serial:.6g}", number(apart), each.texts.get(str(item), "-")]
        for apart, serial, packed, each, item in every[:_ROWS]
    ]
    floor = (
        f"; replays of the same request differ by {number(record.noise_floor)}"
        if record.noise_floor is not None
        else ""
    )
    worst_words = f"the furthest apart is {named[0][2]}, by {number(worst[0][0])}" if worst else "no score is a number"
    picture = cloud(
        slug("packed-alone", place), f"Packed against alone, {place}",
        f"{len(every)} items: packed scores over the scores that the same items get alone; {worst_words}.",
        series, "score alone", "score packed with others", named,
    )  # fmt: skip
    caption = (
        f"{place}: {record.verdict.value}, the largest difference is {number(record.value)} "
        f"(holds when {bound(record)}){floor}. Numbered: the items that differ most."
    )
    header = ["request", "item", "packed", "alone", "difference", "text"]
    left = f" (the {_ROWS} that differ most of {len(every)})" if len(every) > _ROWS else ""
    return Figure(picture, caption, (header, rows), [*named_below(named), f"In the table: every item{left}."])


def _name(each: ScoredItems, item: int) -> str:
    words = each.texts.get(str(item), "")
    if not words:
        return f"item {item}, {each.case}"
    return f"item {item}: {words[:_WORDS]}{'…' if len(words) > _WORDS else ''}"


def who_sees_whom(records: Sequence[GateRecord]) -> list[Block]:
    """The mask as it must be, once for each request, and for every server which items moved."""
    blocks: list[Block] = []
    drawn: set[tuple[str, ...]] = set()
    for record in records:
        found = record.details
        if not isinstance(found, ContentIsolation) or found.pairs is None:
            continue
        key = (record.semantics or "", *map(str, found.pairs.lengths))
        if key not in drawn:
            drawn.add(key)
            blocks.append(_expected(record, found.pairs))
        blocks.append(_measured(record, found.pairs, found.allowed or 0.0))
    return blocks


def _names(pairs: SeenPairs) -> list[str]:
    return [f"item {at}" for at in range(len(pairs.lengths))]


def _expected(record: GateRecord, pairs: SeenPairs) -> Figure:
    known = {each.value: each for each in Semantics}
    semantics = known.get(record.semantics or "")
    delimiter = semantics is not None and semantics.sees_first_delimiter
    names = ["query", *(["delim."] if delimiter else []), *_names(pairs)]
    prefix = len(names) - len(pairs.lengths)
    sees = [
        [(across < prefix and (down >= prefix or across <= down)) or across == down for across in range(len(names))]
        for down in range(len(names))
    ]
    content = [[CellOf("sees" if seen else "hides") for seen in row] for row in sees]
    columns = ["query", *(["delim"] if delimiter else []), *map(str, range(len(pairs.lengths)))]
    picture = cells(
        slug("mask", record.semantics, str(len(pairs.lengths))), "The mask as it must be",
        "Every item sees the query and itself, and no other item.", (names, columns), content, ("who", "sees"),
    )  # fmt: skip
    rows = [[name, *("sees" if seen else "-" for seen in row)] for name, row in zip(names, sees, strict=True)]
    tokens = ", ".join(map(str, pairs.lengths))
    return Figure(
        picture,
        f"Expected: filled where the row may see the column. Items of {tokens} tokens; each sees itself backwards.",
        (["", *names], rows),
    )


def _measured(record: GateRecord, pairs: SeenPairs, allowed: float) -> Figure:
    place, names = where(record), _names(pairs)
    visible = record.leak_visibility
    moved = pairs.moved
    content = [
        [_moved(value, at == to, allowed, visible, f"item {at} → item {to}") for to, value in enumerate(row)]
        for at, row in enumerate(moved)
    ]  # fmt: skip
    others = [value for at, row in enumerate(moved) for to, value in enumerate(row) if at != to and value is not None]
    leaks = sum(value > allowed for value in others)
    told = f"{leaks} of {len(others)} pairs leak" if leaks else f"none of {len(others)} pairs leaks"
    leak = (
        f" A leak would move a score by {number(visible)}."
        if visible is not None
        else " How visible a leak is was not measured."
    )
    picture = cells(
        slug("seen", place, pairs.case), f"Who moves whom, {place}", f"{told}, by replacing each item in turn.",
        (names, list(map(str, range(len(names))))), content, ("changed", "moves item"),
    )  # fmt: skip
    rows = [[f"item {at} changed", *(number(value) for value in row)] for at, row in enumerate(moved)]
    caption = f"Measured, {place}: {record.verdict.value}, {told}. On the diagonal an item moves itself.{leak}"
    return Figure(picture, caption, (["", *names], rows))


def _moved(value: float | None, own: bool, allowed: float, visible: float | None, words: str) -> CellOf:
    hint = f"{words}: {number(value)}"
    if own:
        return CellOf("sees", _tiny(value), hint)
    if value is None:
        return CellOf("h4", "?", hint)
    if value <= allowed:
        return CellOf("h0", "0" if value == 0 else "", hint)
    share = value / visible if visible else 1.0
    return CellOf(
        "h4" if share > 0.5 else "h3" if share > 0.05 else "h2" if share > 0.005 else "h1", _tiny(value), hint
    )


def _tiny(value: float | None) -> str:
    """A number for a small cell."""
    if value is None:
        return "?"
    if value == 0:
        return "0"
    return f"{value:.2f}".lstrip("0") if 0.005 <= value < 1 else f"{value:.0e}".replace("e-0", "e-")
