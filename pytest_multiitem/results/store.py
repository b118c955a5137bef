"""Writing and reading a run's files: atomically, validated against the shipped schema."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import msgspec

from pytest_multiitem.errors import MultiItemError, UsageError
from pytest_multiitem.results.records import SCHEMA_VERSION, Matrix

MATRIX = "matrix.json"
REPORT = "report.md"
SAMPLES = "samples.jsonl"
LATEST = "latest"


def new_run_id() -> str:
    """A name for a run that sorts by time and is unique on this machine."""
    now = datetime.now(UTC)
    return f"{now:%Y%m%d-%H%M%S}-{now.microsecond // 1000:03d}-{os.getpid()}"


def make_run_dir(run_dir: Path) -> None:
    """Make a run's directory. Raises UsageError where results cannot be written there."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        writable = os.access(run_dir, os.W_OK | os.X_OK)
        problem = None if writable else "it is not writable"
    except OSError as error:
        problem = error.strerror or str(error)
    if problem is not None:
        raise UsageError(f"cannot write results to {run_dir}: {problem}; choose another place with --results-dir DIR")
    _latest(run_dir)


def _latest(run_dir: Path) -> Path:
    link = run_dir.parent / LATEST
    if link.exists() and not link.is_symlink():
        raise UsageError(f"{link} exists and is not a link; remove it, or choose another --results-dir")
    return link


def utc_now() -> str:
    """The time, as it stands in results."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_matrix(run_dir: Path, matrix: Matrix) -> Path:
    """Validate and write ``matrix.json``. Raises MultiItemError where it breaks its own schema."""
    content = msgspec.json.encode(matrix)
    problems = schema_problems(json.loads(content))
    if problems:
        raise MultiItemError(f"{MATRIX} does not match its schema: {'; '.join(problems[:3])}")
    path = run_dir / MATRIX
    write_atomically(path, msgspec.json.format(content, indent=1) + b"\n")
    return path


def matrix_file(path: Path) -> Path:
    """A ``matrix.json``, or the one of a run directory."""
    return path / MATRIX if path.is_dir() else path


def read_matrix(path: Path) -> Matrix:
    """Read a ``matrix.json``, or the one of a run directory. Raises UsageError."""
    file = matrix_file(path)
    try:
        return msgspec.json.decode(file.read_bytes(), type=Matrix)
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}; expected the {MATRIX} of a run") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} is no {SCHEMA_VERSION} file: {error}") from None


def schema_problems(content: Any, schema: str = SCHEMA_VERSION) -> list[str]:
    """What in a decoded file breaks a shipped schema, a line each; empty where nothing does."""
    leaves = [leaf for error in _validator(schema).iter_errors(content) for leaf in _leaves(error)]
    return list(dict.fromkeys(f"{place(leaf.absolute_path)}: {_shortened(leaf.message)}" for leaf in leaves))


def schema_file(schema: str) -> Traversable:
    """Where the package ships a JSON Schema; ``validation.schemas`` writes them."""
    return resources.files("pytest_multiitem.results") / "schemas" / f"{schema}.schema.json"


def place(path: Iterable[object]) -> str:
    """Where something stands in a decoded file."""
    return "/".join(map(str, path)) or "top level"


@cache
def _validator(schema: str) -> Any:
    from jsonschema import Draft202012Validator  # 60 ms, and a run that writes nothing needs it not

    return Draft202012Validator(json.loads(schema_file(schema).read_text(encoding="utf-8")))


def _leaves(error: Any) -> Iterator[Any]:
    """The errors inside an "any of": that null, or a record of another kind, was possible too is not worth a line."""
    other = {cause.relative_schema_path[0] for cause in error.context or () if list(cause.relative_path) == ["kind"]}
    causes = [cause for cause in error.context or () if cause.relative_schema_path[0] not in other]
    causes = [cause for cause in causes if cause.schema != {"type": "null"}]
    if not causes:
        yield error
    for cause in causes:
        yield from _leaves(cause)


def _shortened(message: str) -> str:
    return message if len(message) < 200 else f"{message[:90]} … {message[-90:]}"


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_record(path: Path, record: Any) -> None:
    """Write a record's file atomically, and make its directory. Raises UsageError where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None


def read_json(path: Path) -> Any:
    """A file's decoded content; NaN and Infinity, which other tools write, are read as what they are. Raises
    UsageError."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not valid JSON: {error}") from None


def point_latest(run_dir: Path) -> None:
    """Make ``latest`` beside the run a link to it, atomically."""
    link = _latest(run_dir)
    scratch = run_dir.parent / f".{LATEST}-{os.getpid()}"
    scratch.unlink(missing_ok=True)
    scratch.symlink_to(run_dir.name)
    scratch.replace(link)


class SampleWriter:
    """Appends raw samples as JSON lines, one file a process; :func:`merge_samples` joins them."""

    def __init__(self, run_dir: Path, process: str) -> None:
        self._path = run_dir / f".{SAMPLES}-{process}"

    def __call__(self, line: dict[str, Any]) -> None:
        """Append one sample; it is on disk when this returns."""
        with self._path.open("ab") as file:
            file.write(msgspec.json.encode(line) + b"\n")


def merge_samples(run_dir: Path) -> list[dict[str, Any]]:
    """Join all processes' samples into ``samples.jsonl``; returns the lines that describe servers."""
    parts = sorted(run_dir.glob(f".{SAMPLES}-*"))
    # A process that was killed leaves a last line without its end; it is no sample.
    lines = [line for part in parts for line in part.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    if lines:
        write_atomically(run_dir / SAMPLES, b"".join(lines))
    for part in parts:
        part.unlink()
    return [msgspec.json.decode(line) for line in lines if line.startswith(b'{"kind":"server"')]
