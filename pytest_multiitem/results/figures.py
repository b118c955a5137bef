"""Whether a figure is what its samples give."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

#: Relative: what a figure may be off from the same one computed again, perhaps by another release of NumPy.
NEAR = 1e-9


def differs(name: str, stated: object, wanted: float | None, source: str) -> Iterator[str]:
    """A line where a figure is another one; what is not stated is no contradiction."""
    if not isinstance(stated, float | int) or (wanted is not None and math.isclose(stated, wanted, rel_tol=NEAR)):
        return
    yield f"{name} is {stated:.9g}; {source} {'none' if wanted is None else format(wanted, '.9g')}"


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
