"""Whether a file is what its schema says, and whether what it says of itself is so."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from pytest_multiitem.comparison.files import Artefact
from pytest_multiitem.errors import UsageError, did_you_mean
from pytest_multiitem.results.figures import leaves
from pytest_multiitem.results.store import place, read_object, schema_problems
from pytest_multiitem.validation import public_evaluation
from pytest_multiitem.validation.schemas import KINDS


@dataclass(frozen=True)
class Examination:
    """A file that was examined: its schema's name, in a few words what it holds, and what is wrong with it.
    ``is_foreign``: another tool has written it."""

    schema: str
    summary: str
    problems: list[str]
    is_foreign: bool = False


def examine(path: Path) -> Examination:
    """Examine a file of one of `KINDS`, by its schema and by what it says of itself.

    Optional fields may be missing, and a check whose inputs are missing is left out. Files of the public scripts that
    name no schema are known by their fields. Raises UsageError for a file that cannot be read, is no JSON object, or
    is of no known kind.
    """
    content = read_object(path, f"one with a schema_version of {', '.join(KINDS)}")
    schema = content.get("schema_version")
    if schema is None and (schema := public_evaluation.kind_of(content)) is not None:
        content = {**content, "schema_version": schema}
    if not isinstance(schema, str) or schema not in KINDS:
        what = "has no schema_version" if schema is None else f"has the unknown schema_version {json.dumps(schema):.80}"
        hint = did_you_mean(schema, KINDS) if isinstance(schema, str) else ""
        raise UsageError(f"{path} {what}; expected one of {', '.join(KINDS)}{hint}")
    kind, numbers = KINDS[schema], _not_finite(content)
    is_foreign = "package_version" in kind.record.__struct_fields__ and content.get("package_version") is None
    broken = schema_problems(content, schema)
    if broken[1:] and is_foreign:
        others = f"(and {len(broken) - 1} more); written by another tool, in another form than {schema}"
        return Examination(schema, "", [*numbers, f"{broken[0]} {others}"], is_foreign)
    if broken:
        return Examination(schema, "", numbers + broken, is_foreign)
    try:
        record = msgspec.convert(content, kind.record)
    except msgspec.ValidationError as error:  # what JSON Schema allows and the record does not: 1.0 for 1
        return Examination(schema, "", [*numbers, str(error)])
    with np.errstate(all="ignore"):  # of figures that are computed again, whatever the samples are
        problems = kind.problems(Artefact(path, record, content))
        return Examination(schema, kind.summary(record), numbers + problems, is_foreign)


def refuse_contradictions(path: Path) -> None:
    """Raise UsageError where a file is not what its schema says, or contradicts itself; and as `examine`."""
    problems = examine(path).problems
    if problems:
        more = f" (and {len(problems) - 1} more: multiitem validate {path})" if problems[1:] else ""
        raise UsageError(f"{path} contradicts itself: {problems[0]}{more}; measure it again")


def _not_finite(content: dict[str, Any]) -> list[str]:
    """One line for all NaN and Infinity, which are no JSON and no measurement."""
    places = [at for at, value in leaves(content) if isinstance(value, float) and not math.isfinite(value)]
    more = f", and at {len(places) - 1} more places" if places[1:] else ""
    return [f"{place(min(places, key=str))}: NaN or Infinity{more}"] if places else []
