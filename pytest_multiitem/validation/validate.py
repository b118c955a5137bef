"""Whether a file is what its schema says, and whether what it says of itself is so."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from pytest_multiitem.comparison import files as artefacts
from pytest_multiitem.comparison.files import Artefact
from pytest_multiitem.errors import UsageError, did_you_mean
from pytest_multiitem.results.figures import leaves
from pytest_multiitem.results.store import place, schema_problems
from pytest_multiitem.validation.schemas import KINDS

#: Whole numbers beyond this fit no integer of other tools, and no float.
_MAX_INTEGER = 2**63 - 1
_OUT_OF_RANGE = "a whole number beyond 64 bits"


@dataclass(frozen=True)
class Examination:
    """A file that was examined: its schema's name, in a few words what it holds, and what is wrong with it."""

    schema: str
    summary: str
    problems: list[str]


def examine(path: Path) -> Examination:
    """Examine a file of one of `KINDS`, by its schema and by what it says of itself.

    Optional fields may be missing, and a check whose inputs are missing is left out. Raises UsageError for a file
    that cannot be read, is no JSON object, or names no known schema.
    """
    content = artefacts.load_json(path)
    schema = content.get("schema_version")
    if not isinstance(schema, str) or schema not in KINDS:
        what = "has no schema_version" if schema is None else f"has the unknown schema_version {json.dumps(schema):.80}"
        hint = did_you_mean(schema, KINDS) if isinstance(schema, str) else ""
        raise UsageError(f"{path} {what}; expected one of {', '.join(KINDS)}{hint}")
    kind, numbers = KINDS[schema], _unusable_numbers(content)
    broken = schema_problems(content, schema)
    if broken or any(_OUT_OF_RANGE in line for line in numbers):
        return Examination(schema, "", numbers + broken)
    try:
        record = msgspec.convert(content, kind.record)
    except msgspec.ValidationError as error:  # what JSON Schema allows and the record does not: 1.0 for 1
        return Examination(schema, "", [*numbers, str(error)])
    return Examination(schema, kind.summary(record), numbers + kind.problems(Artefact(path, record, content)))


def refuse_contradictions(path: Path) -> None:
    """Raise UsageError where a file is not what its schema says, or contradicts itself; and as `examine`."""
    problems = examine(path).problems
    if problems:
        more = f" (and {len(problems) - 1} more: multiitem validate {path})" if problems[1:] else ""
        raise UsageError(f"{path} contradicts itself: {problems[0]}{more}; measure it again")


def _unusable_numbers(content: dict[str, Any]) -> list[str]:
    """One line for all NaN and Infinity, which are no JSON and no measurement, and one for numbers out of range."""
    not_finite, out_of_range = [], []
    for at, value in leaves(content):
        if isinstance(value, float) and not math.isfinite(value):
            not_finite.append(at)
        elif isinstance(value, int) and abs(value) > _MAX_INTEGER:
            out_of_range.append(at)
    return [
        f"{place(min(places, key=str))}: {what}" + (f", and at {len(places) - 1} more places" if places[1:] else "")
        for places, what in ((not_finite, "NaN or Infinity"), (out_of_range, _OUT_OF_RANGE))
        if places
    ]
