"""Whether a figure is what its samples give."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

#: Relative: what a figure may be off from the same one computed again, perhaps by another release of NumPy.
NEAR = 1e-9
#: Relative: what rounding may take from a figure.
_ROUNDED = 0.01


def differs(name: str, stated: object, wanted: float | None, source: str) -> Iterator[str]:
    """A line where a figure is another one; what is not stated is no contradiction."""
    if not isinstance(stated, float | int) or (wanted is not None and math.isclose(stated, wanted, rel_tol=NEAR)):
        return
    yield f"{name} is {stated:.9g}; {source} {'none' if wanted is None else format(wanted, '.9g')}"


def is_rounded(stated: object, wanted: object) -> bool:
    """Whether a figure is another one, rounded to some digits; never by more than 1 %."""
    if not isinstance(stated, float | int) or not isinstance(wanted, float | int) or not math.isfinite(wanted):
        return False
    near = math.isclose(stated, wanted, rel_tol=_ROUNDED)
    return near and any(math.isclose(stated, round(wanted, digits), rel_tol=NEAR) for digits in range(10))


def contradictions(stated: Any, wanted: Any, source: str) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Where two decoded contents are not the same: the path, and a line that names both values."""
    mine, other = dict(leaves(stated)), dict(leaves(wanted))
    for path in sorted(mine.keys() | other.keys(), key=str):
        left, right = mine.get(path), other.get(path)
        if left == right:
            continue
        if isinstance(left, float | int) and isinstance(right, float | int) and math.isclose(left, right, rel_tol=NEAR):
            continue
        shown = "missing" if left is None else f"{left!r:.80}"
        yield path, f"{'.'.join(map(str, path))} is {shown}; {source} {right!r:.80}"


def leaves(content: Any) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every value of decoded JSON that is no object and no list, or an empty one, with its path."""
    stack: list[tuple[tuple[Any, ...], Any]] = [((), content)]
    while stack:  # not recursive: content may be nested more deeply than Python's stack is
        at, value = stack.pop()
        if value and isinstance(value, dict):
            stack += [((*at, key), entry) for key, entry in value.items()]
        elif value and isinstance(value, list | tuple):
            stack += [((*at, index), entry) for index, entry in enumerate(value)]
        else:
            yield at, value
