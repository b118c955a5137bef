"""What belongs to a record and lies in files of its own: the matrices of a comparison, the comparison of a run, the run
of an answer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from pytest_multiitem.comparison import files as artefacts
from pytest_multiitem.comparison.decision.from_public import from_public
from pytest_multiitem.comparison.records import COMPARISON_SCHEMA, Comparison, ScoreMatrix
from pytest_multiitem.errors import UsageError
from pytest_multiitem.inputs import read_bytes, read_json
from pytest_multiitem.results.answer import Answer
from pytest_multiitem.results.records import Matrix
from pytest_multiitem.results.store import MATRIX, read_matrix

Check = Callable[[Path], None]


def comparison_of(path: Path, check: Check | None = None) -> tuple[Comparison, list[ScoreMatrix]]:
    """A comparison, and those of its matrices that lie where it says, or beside it. ``check``: raises UsageError for a
    file that is not to be believed. Raises UsageError for one that is no comparison."""
    if check is not None:
        check(path)
    comparison = artefacts.read(path, Comparison).record
    if not comparison.views:
        comparison = from_public(comparison)
    matrices = []
    for side in comparison.sides:
        named = [] if side.path is None else [path.parent / side.path, path.parent / Path(side.path).name]
        there = next((file for file in named if file.is_file()), None)
        if there is not None:
            if check is not None:
                check(there)
            matrices.append(artefacts.read(there, ScoreMatrix).record)
    return comparison, matrices


def belonging(matrix: Matrix, directory: Path, check: Check | None = None) -> list[object]:
    """The comparison that a run's options added to it, with its matrices; a file that is gone is left out."""
    found: list[object] = []
    for name in matrix.artefacts:
        path = directory / name
        if not path.is_file():
            continue
        try:
            content = read_json(path)
            if isinstance(content, dict) and content.get("schema_version") == COMPARISON_SCHEMA:
                comparison, matrices = comparison_of(path, check)
                found += [comparison, *matrices]
        except UsageError:
            if check is not None:
                raise
    return found


def run_of(answer: Answer, directory: Path) -> list[object]:
    """The run that an answer was made from, where it lies in the directory. Raises UsageError where it cannot be
    read."""
    path = directory / MATRIX
    if not path.is_file() or hashlib.sha256(read_bytes(path)).hexdigest() != answer.given.matrix_sha256:
        return []
    return [read_matrix(path)]
