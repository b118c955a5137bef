"""A sample of a user's requests, the same on every machine."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def drawn(lines: Sequence[T], count: int | None, seed: int) -> tuple[T, ...]:
    """So many of the lines, each at most once, in the order in which they stand; all of them for None or for more than
    there are."""
    if count is None or count >= len(lines):
        return tuple(lines)
    # Only random.Random(seed).random() is promised to give the same sequence in every version.
    uniform = random.Random(seed).random
    places = sorted(range(len(lines)), key=lambda place: (uniform(), place))[:count]
    return tuple(lines[place] for place in sorted(places))
