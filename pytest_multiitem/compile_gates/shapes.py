"""A case of a kernel as a user types it: ``rows=512,heads=8,dtype=bfloat16``."""

from __future__ import annotations

import re
from collections.abc import Mapping

Case = dict[str, int | str]

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")


def parse_shape(text: str) -> Case:
    """The keyword arguments of one case: whole numbers, and words such as a data type.

    Raises ValueError saying what was expected.
    """
    case: Case = {}
    for entry in text.split(","):
        name, equals, value = (part.strip() for part in entry.partition("="))
        if not equals or not name.isidentifier():
            raise ValueError(f"expected NAME=VALUE,… such as rows=512,heads=8; {entry.strip()!r} is not of that form")
        if name in case:
            raise ValueError(f"{name} is given twice; give each name once, and --shape again for another case")
        if re.fullmatch(r"-?\d+", value):
            case[name] = int(value)
        elif _WORD.fullmatch(value):
            case[name] = value
        else:
            raise ValueError(f"{name}={value} has no usable value; expected a whole number or a word such as bfloat16")
    return case


def shown(case: Mapping[str, object]) -> str:
    """A case as a user would type it."""
    return ",".join(f"{name}={value}" for name, value in case.items()) or "defaults"
