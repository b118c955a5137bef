"""Whether a file is what its schema says, and whether what it says of itself is so."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from pytest_multiitem.baselines import store as baselines
from pytest_multiitem.baselines.records import BASELINE_SCHEMA
from pytest_multiitem.bench.load import LOAD_SCHEMA, LoadReport
from pytest_multiitem.comparison import files as artefacts
from pytest_multiitem.comparison.files import Artefact
from pytest_multiitem.comparison.records import COMPARISON_SCHEMA, MATRIX_SCHEMA, WORKLOAD_SCHEMA
from pytest_multiitem.errors import UsageError, did_you_mean
from pytest_multiitem.results import store as results
from pytest_multiitem.results.records import SCHEMA_VERSION as RUN_SCHEMA
from pytest_multiitem.validation import comparison as validate_comparison
from pytest_multiitem.validation import load as validate_load
from pytest_multiitem.validation import score_matrix as validate_matrix
from pytest_multiitem.validation import workload as validate_workload

#: Whole numbers beyond this fit no integer of other tools, and no float.
_MAX_INTEGER = 2**63 - 1
_OUT_OF_RANGE = "a whole number beyond 64 bits"

#: What is checked beyond the schema, and how a valid file is summed up.
_MEANING: dict[str, Any] = {
    WORKLOAD_SCHEMA: validate_workload,
    MATRIX_SCHEMA: validate_matrix,
    COMPARISON_SCHEMA: validate_comparison,
}
_KNOWN = (*_MEANING, RUN_SCHEMA, BASELINE_SCHEMA, LOAD_SCHEMA)
#: The records of the schemas that are checked here.
_RECORDS = {**artefacts.SCHEMAS, LOAD_SCHEMA: LoadReport}


@dataclass(frozen=True)
class Examination:
    """A file that was examined: its schema's name, in a few words what it holds, and what is wrong with it."""

    schema: str
    summary: str
    problems: list[str]


def examine(path: Path) -> Examination:
    """Examine a workload, a matrix, a comparison, a load report, a run's matrix.json, or a baseline.

    Optional fields may be missing, and a check whose inputs are missing is left out. Raises UsageError for a file
    that cannot be read, is no JSON object, or names no known schema.
    """
    content = artefacts.load_json(path)
    schema = content.get("schema_version")
    if not isinstance(schema, str) or schema not in _KNOWN:
        said = "has no schema_version" if schema is None else f"has the unknown schema_version {json.dumps(schema):.80}"
        hint = did_you_mean(schema, _KNOWN) if isinstance(schema, str) else ""
        raise UsageError(f"{path} {said}; expected one of {', '.join(_KNOWN)}{hint}")
    numbers = _unusable_numbers(content)
    if schema == RUN_SCHEMA:
        return Examination(schema, "", numbers + results.schema_problems(content))
    if schema == BASELINE_SCHEMA:
        return Examination(schema, "", numbers + baselines.problems(content))
    if schema == LOAD_SCHEMA:
        broken = list(dict.fromkeys(_schema_problems(schema, content)))
        return Examination(schema, "", numbers + (broken or validate_load.problems(content)))
    kind = artefacts.SCHEMAS[schema]
    broken = list(dict.fromkeys(_schema_problems(schema, content)))
    if broken or any(_OUT_OF_RANGE in line for line in numbers):
        return Examination(schema, "", numbers + broken)
    try:
        record: Any = msgspec.convert(content, kind)
    except msgspec.ValidationError as error:  # what JSON Schema allows and the record does not: 1.0 for 1
        return Examination(schema, "", [*numbers, str(error)])
    meaning = _MEANING[schema]
    return Examination(schema, meaning.summary(record), numbers + meaning.problems(Artefact(path, record, content)))


def problems(path: Path) -> list[str]:
    """What is wrong with a file; empty where nothing is. Raises UsageError as `examine` does."""
    return examine(path).problems


def _schema_problems(schema: str, content: dict[str, Any]) -> Iterator[str]:
    for error in _validator(schema).iter_errors(content):
        for leaf in _leaves(error):
            message = leaf.message if len(leaf.message) < 200 else f"{leaf.message[:90]} … {leaf.message[-90:]}"
            yield f"{_place(leaf.absolute_path)}: {message}"


@cache
def _validator(schema: str) -> Any:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(msgspec.json.schema(_RECORDS[schema]))


def _leaves(error: Any) -> Iterator[Any]:
    """The errors inside an "any of": that null was possible too is not worth a line."""
    inner = [cause for cause in error.context or () if cause.schema != {"type": "null"}]
    if not inner:
        yield error
    for cause in inner:
        yield from _leaves(cause)


def _unusable_numbers(content: dict[str, Any]) -> list[str]:
    """One line for all NaN and Infinity, which are no JSON and no measurement, and one for numbers out of range."""
    not_finite, out_of_range = [], []
    stack: list[tuple[tuple[Any, ...], Any]] = [((), content)]
    while stack:  # not recursive: content may be nested more deeply than Python's stack is
        place, value = stack.pop()
        if isinstance(value, dict):
            stack += [((*place, key), entry) for key, entry in value.items()]
        elif isinstance(value, list):
            stack += [((*place, index), entry) for index, entry in enumerate(value)]
        elif isinstance(value, float) and not math.isfinite(value):
            not_finite.append(place)
        elif isinstance(value, int) and abs(value) > _MAX_INTEGER:
            out_of_range.append(place)
    return [
        f"{_place(min(places, key=str))}: {what}" + (f", and at {len(places) - 1} more places" if places[1:] else "")
        for places, what in ((not_finite, "NaN or Infinity"), (out_of_range, _OUT_OF_RANGE))
        if places
    ]


def _place(path: Any) -> str:
    return "/".join(map(str, path)) or "top level"
