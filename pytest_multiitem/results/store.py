"""Writing and reading a run's files: atomically, validated against the shipped schema."""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from pytest_multiitem.errors import MultiItemError, StorageError, UsageError
from pytest_multiitem.inputs import read_json
from pytest_multiitem.results.records import SCHEMA_VERSION, Matrix
from pytest_multiitem.storage import try_writing, writing

MATRIX = "matrix.json"
REPORT = "report.md"
PAGE = "report.html"
SAMPLES = "samples.jsonl"
LATEST = "latest"
#: How the name of a file ends that is being written; one whose writer was killed is of no use to anybody.
_DRAFT = ".draft"
_ELSEWHERE = "choose another place with --results-dir DIR"

Record = TypeVar("Record", bound=msgspec.Struct)


def new_run_id() -> str:
    """A name for a run that sorts by time and is unique on this machine."""
    now = datetime.now(UTC)
    return f"{now:%Y%m%d-%H%M%S}-{now.microsecond // 1000:03d}-{os.getpid()}"


def make_run_dir(run_dir: Path) -> None:
    """Make a run's directory, and take away what killed runs have left half written beside it.

    Raises StorageError where results cannot be written there.
    """
    try:
        with writing(run_dir, what="results to ", advice=_ELSEWHERE):
            run_dir.mkdir(parents=True, exist_ok=True)
            try_writing(run_dir)
    except StorageError:
        with suppress(OSError):
            run_dir.rmdir()  # unless something is in it
        raise
    _latest(run_dir)
    _clear_drafts(run_dir.parent.glob(f"*/.*{_DRAFT}"))


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
    return read_record(matrix_file(path), Matrix, SCHEMA_VERSION, f"name the {MATRIX} of a run")[0]


def read_object(path: Path, expected: str) -> dict[str, Any]:
    """A file's JSON object. Raises UsageError, which names what was ``expected``."""
    return _object(path, read_json(path), expected)


def _object(path: Path, content: Any, expected: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise UsageError(f"{path} holds no object; expected {expected}")
    return content


def read_record(
    path: Path, kind: type[Record], schema: str, advice: str, *, unnamed: bool = False
) -> tuple[Record, dict[str, Any]]:
    """A file's record, and its whole decoded content. ``advice``: what to do where it is none. ``unnamed``: it need not
    say its schema. Raises UsageError naming the field that is missing or wrong."""
    expected = f"a {schema} file; {advice}"
    try:
        decoded = read_json(path)
    except UsageError as error:
        raise UsageError(f"{error}; expected {expected}") from None
    content = _object(path, decoded, expected)
    named = content.get("schema_version", schema if unnamed else None)
    if named != schema:
        problem = "has no schema_version" if named is None else f"is a {named!r:.80} file"
        raise UsageError(f"{path} {problem}; expected {schema}; {advice}")
    try:
        return msgspec.convert(content, kind), content
    except msgspec.ValidationError as error:
        raise UsageError(f"{path} is no {schema} file: {error}; {advice}") from None


def checksum(content: Any) -> str:
    """SHA-256 of records: of their JSON with sorted keys and no spaces."""
    return hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()


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
    """Write a file so that a reader sees the old content or the new, never a part; its directory must be there.

    A writer that is killed leaves a hidden ``.NAME.….draft``, which the next one of the same file takes away. Raises
    StorageError where it cannot be written.
    """
    with _draft_of(path, content) as draft, writing(path):
        draft.replace(path)


def write_new(path: Path, content: bytes) -> None:
    """As `write_atomically`, but never over another file. Raises FileExistsError where there is one."""
    with _draft_of(path, content) as draft:
        try:
            path.hardlink_to(draft)
        except FileExistsError:
            raise
        except OSError:  # a file system without links; who is there at this moment is not seen
            if path.exists():
                raise FileExistsError(str(path)) from None
            with writing(path):
                draft.replace(path)


@contextmanager
def _draft_of(path: Path, content: bytes) -> Iterator[Path]:
    """The content in a file beside ``path``, which is locked as long as its writer lives."""
    with writing(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        _clear_drafts(path.parent.glob(f".{glob.escape(path.name)}.*{_DRAFT}"))
        file, draft = _locked(path)
    with file:
        try:
            with writing(path):
                _write_all(file, content)
                draft.chmod(0o644)
            yield draft
        finally:
            draft.unlink(missing_ok=True)


def _locked(path: Path) -> tuple[io.FileIO, Path]:
    while True:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=_DRAFT, dir=path.parent)
        file, draft = io.FileIO(handle, "w"), Path(name)
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        if draft.exists():  # nobody took it for one of a writer that is gone, before it was locked
            return file, draft
        file.close()


def _write_all(file: io.FileIO, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]


def _clear_drafts(drafts: Iterable[Path]) -> None:
    """Remove those whose writer is gone."""
    for draft in drafts:
        with suppress(OSError), draft.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            draft.unlink()


def write_record(path: Path, record: Any) -> None:
    """Write a record's file atomically, and make its directory. Raises StorageError where it cannot be written."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n")


def point_latest(run_dir: Path) -> None:
    """Make ``latest`` beside the run a link to it, atomically. Raises StorageError where that cannot be."""
    link = _latest(run_dir)
    scratch = run_dir.parent / f".{LATEST}-{os.getpid()}"
    with writing(link):
        scratch.unlink(missing_ok=True)
        scratch.symlink_to(run_dir.name)
        scratch.replace(link)


class SampleWriter:
    """Appends raw samples as JSON lines, one file a process; :func:`merge_samples` joins them."""

    def __init__(self, run_dir: Path, process: str) -> None:
        self._path = run_dir / f".{SAMPLES}-{process}"

    def __call__(self, line: dict[str, Any]) -> None:
        """Append one sample, whole or not at all. Raises StorageError where it cannot be written."""
        self.append(msgspec.json.encode(line) + b"\n")

    def append(self, content: bytes) -> None:
        """Append the lines of samples that are encoded already, as one."""
        with writing(self._path), io.FileIO(self._path, "a") as file:
            end = file.seek(0, os.SEEK_END)
            try:
                _write_all(file, content)
            except OSError:
                file.truncate(end)
                raise


def server_samples(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of all processes that describe servers."""
    return [msgspec.json.decode(line) for line in _samples(run_dir) if line.startswith(b'{"kind":"server"')]


def merge_samples(run_dir: Path) -> None:
    """Join all processes' samples into ``samples.jsonl``; what cannot be joined stays as it is. Raises StorageError."""
    lines = [*_samples(run_dir)]
    if lines:
        write_atomically(run_dir / SAMPLES, b"".join(lines))
    for part in _parts(run_dir):
        part.unlink()


def _parts(run_dir: Path) -> list[Path]:
    return sorted(run_dir.glob(f".{SAMPLES}-*"))


def _samples(run_dir: Path) -> Iterator[bytes]:
    """Every sample's line. A process that was killed leaves a last line without its end; it is no sample."""
    for part in _parts(run_dir):
        yield from (line for line in part.read_bytes().splitlines(keepends=True) if line.endswith(b"\n"))
