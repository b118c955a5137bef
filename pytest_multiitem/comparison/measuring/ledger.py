"""The directory of one comparison: what is measured already, kept row by row, so that nothing is measured twice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import filelock
import msgspec

import pytest_multiitem
from pytest_multiitem.comparison import files as artefacts
from pytest_multiitem.comparison import row_figures
from pytest_multiitem.comparison.records import MATRIX_SCHEMA, Row, ScoreMatrix
from pytest_multiitem.errors import StorageError, UsageError
from pytest_multiitem.results.machine import machine_info, package_versions
from pytest_multiitem.results.store import new_run_id, utc_now, write_atomically
from pytest_multiitem.settings.settings import Settings
from pytest_multiitem.storage import try_writing, writing

WORKLOAD = "canonical_workload.json"
_STATE = ".state.json"

#: Settings that a row depends on: rows measured with others are not rows of the same comparison.
_BINDING = (
    "backend", "bench_items", "bench_query_tokens", "bench_timed_runs", "bench_warmup_runs", "compare_chunk_sizes",
    "compare_urls", "confirm_runs", "delimiter", "device", "dtype", "engine", "engine_python", "executor",
    "item_tokens", "labels", "mask_impl", "model", "multi_profile", "profiles", "seed", "segment_threshold",
    "semantics", "serial_url", "server_chunk_size", "tokenizer", "views", "vocab_size", "workload_sample",
)  # fmt: skip


@dataclass(frozen=True)
class Flags:
    """What the user's options are called, for messages: the one that names the directory, and the one to start over."""

    directory: str = "--compare-dir"
    fresh: str = "--multiitem-fresh"

    @property
    def other(self) -> str:
        """What to do about a directory that cannot be had."""
        return f"choose another {self.directory}"

    @property
    def anew(self) -> str:
        """What to do about rows that cannot be gone on with."""
        return f"start over with {self.fresh} (what is there is kept beside it)"


class Ledger:
    """The matrices of a comparison in its directory; every change is on disk when a method returns.

    On a disk that is full, what is measured goes on: a matrix is written whole, so that the next write that succeeds
    makes up for it. ``unwritten``: by file, what is against it since its last write. ``resumed``: how many rows were
    there already. Make one with :func:`opened`.
    """

    def __init__(self, directory: Path, flags: Flags = Flags()) -> None:
        self.directory = directory
        self.matrices: dict[tuple[str, str], ScoreMatrix] = {}
        self.unwritten: dict[Path, StorageError] = {}
        for path in sorted(directory.glob(artefacts.MATRICES)):
            matrix = artefacts.read(path, ScoreMatrix).record
            for row in (*matrix.results, *matrix.confirm_results):
                problem = next(row_figures.contradictions(row), None)
                if problem is not None:
                    raise UsageError(
                        f"{path} contradicts itself: chunk size {row.client_chunk_size}: {problem}; {flags.anew}"
                    )
            self.matrices[matrix.backend, matrix.evaluation_view] = matrix
        self.resumed = sum(len(m.results) + len(m.confirm_results) for m in self.matrices.values())

    def path(self, backend: str, view: str) -> Path:
        """The file of a matrix."""
        return self.directory / artefacts.matrix_name(backend, view)

    def begin(self, backend: str, view: str) -> None:
        """Begin a matrix, or go on with it."""
        matrix = self.matrices.setdefault(
            (backend, view),
            ScoreMatrix(schema_version=MATRIX_SCHEMA, backend=backend, evaluation_view=view, results=[]),
        )
        matrix.generated_at_utc, matrix.package_version = utc_now(), pytest_multiitem.__version__
        self._write(backend, view)

    def rows(self, backend: str, view: str, *, confirm: bool = False) -> dict[int, Row]:
        """The rows of a matrix by chunk size; none of a matrix that was not begun."""
        matrix = self.matrices.get((backend, view))
        if matrix is None:
            return {}
        return {row.client_chunk_size: row for row in (matrix.confirm_results if confirm else matrix.results)}

    def add(self, backend: str, view: str, row: Row, *, confirm: bool = False) -> None:
        """Enter a finished row."""
        matrix = self.matrices[backend, view]
        rows = matrix.confirm_results if confirm else matrix.results
        rows.append(row)
        rows.sort(key=lambda r: r.client_chunk_size)
        self._write(backend, view)

    def changed(self, backend: str, views: Iterable[str]) -> Iterator[ScoreMatrix]:
        """Each matrix of a backend in some views, as far as they were begun, to be changed; it is written when the loop
        goes on."""
        for view in (view for view in views if (backend, view) in self.matrices):
            yield self.matrices[backend, view]
            self._write(backend, view)

    def finish(self) -> None:
        """Nothing is left to measure: the directory is no longer one to go on with."""
        state = _state(self.directory)
        assert state is not None  # it was begun by `opened`
        _write_state(self.directory, msgspec.structs.replace(state, complete=True))

    def _write(self, backend: str, view: str) -> None:
        path = self.path(backend, view)
        try:
            artefacts.write(path, self.matrices[backend, view])
        except StorageError as error:
            self.unwritten[path] = error
        else:
            self.unwritten.pop(path, None)


def binding(settings: Settings) -> dict[str, str]:
    """What makes two comparisons the same one: settings, workload file, machine, packages."""
    bound = {name: settings.shown(name) for name in _BINDING}
    if settings.workload is not None:
        bound["workload"] = str(settings.workload.resolve())
    bound |= {f"machine {name}": str(value) for name, value in machine_info().items() if name != "release"}
    return bound | {f"package {name}": version for name, version in package_versions().items()}


@contextmanager
def opened(settings: Settings, base: Path, flags: Flags = Flags()) -> Iterator[Ledger]:
    """The directory to measure in: the one that was asked for, an interrupted one of the same settings, or a new one.

    Nobody else measures in it meanwhile. Raises UsageError for a directory that holds another comparison, or rows that
    were edited, or that cannot be written to.
    """
    bound = binding(settings)
    if settings.compare_dir is not None:
        directory = base / settings.compare_dir.expanduser()
        _claim(directory, bound, flags, fresh=settings.fresh)
    else:
        root = base / settings.results_dir.expanduser() / "comparisons"
        directory = (None if settings.fresh else _interrupted(root, bound)) or root / new_run_id()
    try:
        with writing(directory, advice=flags.other):
            directory.mkdir(parents=True, exist_ok=True)
            held = filelock.FileLock(directory / ".lock", timeout=0).acquire()
    except filelock.Timeout:
        raise UsageError(f"another process measures in {directory}; wait for it, or {flags.other}") from None
    with held:
        with writing(directory, advice=flags.other):
            try_writing(directory)
        if not (directory / _STATE).exists():
            _write_state(directory, _State(binding=dict(bound)))
        yield Ledger(directory, flags)


def _claim(directory: Path, bound: Mapping[str, str], flags: Flags, *, fresh: bool) -> None:
    """Make sure that a directory may be measured in; with ``fresh``, what it holds is moved aside."""
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"{flags.directory} {directory} is a file; expected a directory")
    state = _state(directory)
    if state is None:
        if directory.is_dir() and any(directory.glob(artefacts.MATRICES)):
            raise UsageError(f"{directory} holds matrices of something else; {flags.other}")
        return
    if fresh:
        directory.rename(directory.with_name(f"{directory.name}.{new_run_id()}"))
        return
    advice = f"{flags.other}, or {flags.anew}"
    if state.complete:
        raise UsageError(f"{directory} holds a finished comparison; {advice}")
    old = state.binding
    differing = sorted(name for name in {*old, *bound} if old.get(name) != bound.get(name))
    if differing:
        changes = "; ".join(f"{name} was {old.get(name, '-')}, is {bound.get(name, '-')}" for name in differing[:4])
        raise UsageError(f"{directory} holds a measurement that was begun differently: {changes}; {advice}")


def _interrupted(root: Path, bound: Mapping[str, str]) -> Path | None:
    """The latest unfinished comparison of the same settings that nobody measures in."""
    for path in sorted(root.glob(f"*/{_STATE}"), reverse=True):
        state = _state(path.parent)
        if state is None or state.complete or state.binding != bound:
            continue
        lock = filelock.FileLock(path.parent / ".lock", timeout=0)
        try:
            with lock:
                return path.parent
        except filelock.Timeout:
            continue
    return None


class _State(msgspec.Struct):
    """What a directory's comparison was begun with, and whether nothing is left to measure."""

    complete: bool = False
    binding: dict[str, str] = {}


def _state(directory: Path) -> _State | None:
    try:
        return msgspec.json.decode((directory / _STATE).read_bytes(), type=_State)
    except (OSError, msgspec.DecodeError):
        return None


def _write_state(directory: Path, state: _State) -> None:
    write_atomically(directory / _STATE, msgspec.json.format(msgspec.json.encode(state), indent=1) + b"\n")
