"""Reading and writing the artefacts: schema by name, unknown fields kept, written atomically."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import msgspec

from pytest_multiitem.comparison import records
from pytest_multiitem.comparison.records import Comparison, ScoreMatrix, Workload
from pytest_multiitem.results.store import Record, read_record, write_record

#: Every schema by its name.
SCHEMAS: dict[str, type[Workload] | type[ScoreMatrix] | type[Comparison]] = {
    records.WORKLOAD_SCHEMA: Workload,
    records.MATRIX_SCHEMA: ScoreMatrix,
    records.COMPARISON_SCHEMA: Comparison,
}
_ADVICE = {
    records.WORKLOAD_SCHEMA: "write one with: multiitem workload",
    records.MATRIX_SCHEMA: "measure one with: multiitem compare run",
    records.COMPARISON_SCHEMA: "write one with: multiitem compare MATRIX.json …",
}


#: What the file of every matrix of a comparison is called.
MATRICES = "*_matrix.json"


#: What a comparison writes: its record, its tables, the report of all that it rests on, and that as a page.
FILES = ("comparison.json", "comparison.md", "final_report.md", "report.html")


def matrix_name(backend: str, view: str) -> str:
    """What the file of a matrix is called, as the public runbook has it."""
    return f"{backend}_{view}_matrix.json"


@dataclass(frozen=True)
class Artefact(Generic[Record]):
    """A file's record, and the whole decoded content with the fields that the record does not know."""

    path: Path
    record: Record
    content: dict[str, Any]


def read(path: Path, kind: type[Record]) -> Artefact[Record]:
    """Read an artefact of one kind. Raises UsageError naming the field that is missing or wrong."""
    schema = next(name for name, known in SCHEMAS.items() if known is kind)
    return Artefact(path, *read_record(path, kind, schema, _ADVICE[schema]))


def write(path: Path, record: Workload | ScoreMatrix | Comparison, over: dict[str, Any] | None = None) -> None:
    """Write an artefact atomically; ``over``: the content it was read from, whose unknown fields are kept.

    Raises UsageError where it cannot be written.
    """
    write_record(path, record if over is None else _with_unknown(msgspec.to_builtins(record), over))


def _with_unknown(new: Any, old: Any) -> Any:
    """``new``, with the keys that only ``old`` has, at every depth; lists match element by element."""
    if isinstance(new, dict) and isinstance(old, dict):
        merged = {key: _with_unknown(value, old[key]) if key in old else value for key, value in new.items()}
        return {**merged, **{key: value for key, value in old.items() if key not in new}}
    if isinstance(new, list) and isinstance(old, list) and len(new) == len(old):
        return [_with_unknown(*pair) for pair in zip(new, old, strict=True)]
    return new
