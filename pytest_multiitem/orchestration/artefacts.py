"""What comes back from a machine: looked through before it is believed, then kept under the names of the contract."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pytest_multiitem.comparison import files
from pytest_multiitem.comparison.records import MATRIX_SCHEMA, VIEWS, ScoreMatrix
from pytest_multiitem.errors import UsageError
from pytest_multiitem.inputs import read_bytes, read_json
from pytest_multiitem.orchestration.remote import WORKLOAD
from pytest_multiitem.results.store import write_atomically
from pytest_multiitem.validation.linked_workload import linked
from pytest_multiitem.validation.validate import examine


@dataclass
class Collected:
    """``matrices``: that are usable, where they are kept now; ``complete``: those of them that nothing is missing
    from, by view. ``problems``: why others are not usable, or not complete."""

    matrices: list[Path] = field(default_factory=list)
    complete: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        """Whether every view is there, and complete."""
        return self.complete == {*VIEWS}


def collect(source: Path, backend: str, target: Path, unfinished: str | None = None) -> Collected:
    """Look through a machine's files in ``source``, and keep the usable matrices in ``target``, where the workload lies
    that was to be measured. ``unfinished``: why the job did not come to its end; its matrices say so then. Raises
    StorageError."""
    found = Collected()
    if (target / WORKLOAD).exists():  # whatever the machine says it was
        write_atomically(source / WORKLOAD, read_bytes(target / WORKLOAD))
    for path in sorted(source.glob("*.json")):
        try:
            content = read_json(path)
        except UsageError as error:
            if "matrix" in path.name:
                found.problems.append(str(error))
            continue
        if isinstance(content, dict) and content.get("schema_version") == MATRIX_SCHEMA:
            problem = _problem(path, backend)
            if problem is None:
                _keep(path, target, unfinished, found)
            else:
                found.problems.append(f"{path.name}: {problem}")
    names = {path.name for path in found.matrices}
    found.problems += [
        f"no {view} matrix of {backend}" for view in VIEWS if files.matrix_name(backend, view) not in names
    ]
    return found


def _keep(path: Path, target: Path, unfinished: str | None, found: Collected) -> None:
    """Keep a usable matrix: byte by byte, unless it was not finished and does not say so."""
    read = files.read(path, ScoreMatrix)
    matrix = read.record
    if not matrix.results:
        return
    place = target / files.matrix_name(matrix.backend, matrix.evaluation_view)
    if unfinished is not None and not matrix.complete:
        matrix.complete, matrix.blocker = False, matrix.blocker or unfinished
        files.write(place, matrix, read.content)
    else:
        write_atomically(place, read_bytes(path))
    found.matrices.append(place)
    if matrix.complete is False:
        found.problems.append(f"{path.name} is not complete: {matrix.blocker or 'rows are missing'}")
    else:
        found.complete.add(matrix.evaluation_view)


def kept(directory: Path, backends: Sequence[str]) -> list[Path]:
    """The matrices that earlier steps have kept, in the order of the deltas."""
    paths = [directory / files.matrix_name(backend, view) for backend in backends for view in VIEWS]
    return [path for path in paths if path.exists()]


def _problem(path: Path, backend: str) -> str | None:
    """Why a matrix cannot be used; None where it can. A machine's file may say anything."""
    try:
        problems = examine(path).problems
        if problems:
            return f"it contradicts itself: {problems[0]}"
        matrix = files.read(path, ScoreMatrix).record
    except UsageError as error:
        return str(error)
    if matrix.backend != backend or matrix.evaluation_view not in VIEWS:
        return f"it is of {matrix.backend} in {matrix.evaluation_view}; expected {backend} in {' or '.join(VIEWS)}"
    if matrix.workload_ref.sha256 is None or not linked(path, matrix.workload_ref)[0]:
        return "it does not say which request of the workload it measured"
    return None
