"""The directory of one comparison: what is measured already, kept row by row, so that nothing is measured twice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import filelock
import msgspec

from pytest_multiitem.comparison import files as artefacts
from pytest_multiitem.comparison.records import MATRIX_SCHEMA, Row, ScoreMatrix
from pytest_multiitem.errors import UsageError
from pytest_multiitem.results.machine import machine_info, package_versions
from pytest_multiitem.results.store import new_run_id, utc_now, write_atomically
from pytest_multiitem.settings.settings import Settings

WORKLOAD = "canonical_workload.json"
_STATE = ".state.json"

#: Settings that a row depends on: rows measured with others are not rows of the same comparison.
_BINDING = (
    "backend", "bench_items", "bench_query_tokens", "bench_timed_runs", "bench_warmup_runs", "compare_chunk_sizes",
    "compare_urls", "confirm_runs", "delimiter", "device", "dtype", "engine", "engine_python", "item_tokens", "labels",
    "mask_impl", "model", "multi_profile", "profiles", "seed", "segment_threshold", "semantics", "serial_url",
    "server_chunk_size", "views", "vocab_size",
)  # fmt: skip


class Ledger:
    """The matrices of a comparison in its directory; every change is on disk when a method returns.

    ``resumed``: how many rows were there already. Make one with :func:`opened`.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.matrices: dict[tuple[str, str], ScoreMatrix] = {}
        for path in sorted(directory.glob("matrix_*.json")):
            matrix = artefacts.read(path, ScoreMatrix).record
            self.matrices[matrix.backend, matrix.evaluation_view] = matrix
        self.resumed = sum(len(m.results) + len(m.confirm_results) for m in self.matrices.values())

    def path(self, backend: str, view: str) -> Path:
        """The file of a matrix."""
        return self.directory / f"matrix_{backend}_{view}.json"

    def begin(self, backend: str, view: str) -> None:
        """Begin a matrix, or go on with it."""
        matrix = self.matrices.setdefault(
            (backend, view),
            ScoreMatrix(schema_version=MATRIX_SCHEMA, backend=backend, evaluation_view=view, results=[]),
        )
        matrix.generated_at_utc = utc_now()
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
        artefacts.write(self.path(backend, view), self.matrices[backend, view])


def binding(settings: Settings) -> dict[str, str]:
    """What makes two comparisons the same one: settings, workload file, machine, packages."""
    bound = {name: settings.shown(name) for name in _BINDING}
    if settings.workload is not None:
        bound["workload"] = str(settings.workload.resolve())
    bound |= {f"machine {name}": str(value) for name, value in machine_info().items() if name != "release"}
    return bound | {f"package {name}": version for name, version in package_versions().items()}


@contextmanager
def opened(settings: Settings, base: Path) -> Iterator[Ledger]:
    """The directory to measure in: the one that was asked for, an interrupted one of the same settings, or a new one.

    Nobody else measures in it meanwhile. Raises UsageError for a directory that holds another comparison.
    """
    bound = binding(settings)
    if settings.compare_dir is not None:
        directory = base / settings.compare_dir.expanduser()
        _claim(directory, bound, settings.fresh)
    else:
        root = base / settings.results_dir.expanduser() / "comparisons"
        directory = (None if settings.fresh else _interrupted(root, bound)) or root / new_run_id()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(directory / ".lock", timeout=0)
        with lock:
            if not (directory / _STATE).exists():
                _write_state(directory, _State(binding=dict(bound)))
            yield Ledger(directory)
    except filelock.Timeout:
        raise UsageError(
            f"another process measures a comparison in {directory}; wait for it, or choose another --compare-dir"
        ) from None
    except PermissionError as error:
        raise UsageError(f"cannot write {directory}: {error.strerror}; choose another --compare-dir") from None


def _claim(directory: Path, bound: Mapping[str, str], fresh: bool) -> None:
    """Make sure that a directory may be measured in; with ``fresh``, what it holds is moved aside."""
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"--compare-dir {directory} is a file; expected a directory")
    state = _state(directory)
    if state is None:
        if directory.is_dir() and any(directory.glob("matrix_*.json")):
            raise UsageError(f"{directory} holds matrices of something else; choose another --compare-dir")
        return
    if fresh:
        directory.rename(directory.with_name(f"{directory.name}.{new_run_id()}"))
        return
    advice = "choose another --compare-dir, or start over with --multiitem-fresh (what is there is kept beside it)"
    if state.complete:
        raise UsageError(f"{directory} holds a finished comparison; {advice}")
    old = state.binding
    differing = sorted(name for name in {*old, *bound} if old.get(name) != bound.get(name))
    if differing:
        changes = "; ".join(f"{name} was {old.get(name, '-')}, is {bound.get(name, '-')}" for name in differing[:4])
        raise UsageError(f"{directory} holds a comparison that was begun differently: {changes}; {advice}")


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
