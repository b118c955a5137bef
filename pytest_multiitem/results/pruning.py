"""Which old runs may go: those that are over, by their directories alone; nothing else is ever touched."""

from __future__ import annotations

import shutil
import time
from calendar import timegm
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from pytest_multiitem.errors import UsageError
from pytest_multiitem.results.history import run_directories
from pytest_multiitem.results.store import LATEST, MATRIX
from pytest_multiitem.servers.process import is_locked
from pytest_multiitem.storage import writing

#: Where runs of each kind lie in the results directory.
KINDS = {"runs": ".", "A/B pairs": "ab", "comparisons": "comparisons", "kill matrices": "power", "models": "models"}
#: What a run leaves behind; a directory without any of it is none, whatever its name.
_LEFT = (
    MATRIX, "samples.jsonl", "scores.json", "servers", "lease", ".plan.json", "A", "B", "ab.json", ".state.json",
    "canonical_workload.json", "comparison.json", "kill_matrix.json", "model_matrix.json",
)  # fmt: skip
#: What a run is over with; one without it may be going on in another machine's process.
_RESULTS = (MATRIX, "comparison.json", "ab.json", "kill_matrix.json", "model_matrix.json")
#: Seconds for which a run without results, of which no process is known here, may still be going on.
_QUIET = 3600.0
#: Seconds by which a process may seem to be younger than its run.
_CLOCK = 60.0
#: How a directory is called while it is deleted.
_GOING = ".pruned-"


@dataclass(frozen=True)
class Old:
    """One directory. ``kept``: why it stays; None where it may go. ``bytes``: what it takes."""

    kind: str
    path: Path
    kept: str | None
    bytes: int


def plan(results_dir: Path, keep: int) -> list[Old]:
    """Every run of a results directory, of each kind the oldest first, and why it stays: the last ``keep`` of its kind
    do, and what is going on. Raises UsageError where there is no such directory."""
    if keep < 1:
        raise UsageError(f"--keep {keep}: expected at least 1; the last run is never pruned")
    if not results_dir.is_dir():
        raise UsageError(
            f"there is no directory {results_dir}; name the one that runs are written to: --results-dir DIR"
        )
    latest = (results_dir / LATEST).resolve()
    found = []
    for kind, place in KINDS.items():
        runs = [path for path in run_directories(results_dir / place) if _is_run(path)]
        over = [path for path in runs if going_on(path) is None]
        for path in runs:
            why = going_on(path) or (f"one of the last {keep}" if path in over[-keep:] else None)
            if path.resolve() == latest:
                why = why or f"{LATEST} leads to it"
            found.append(Old(kind, path, why, _size(path)))
    return found


def delete(old: Old) -> None:
    """Delete a run that may go. Raises StorageError where that cannot be."""
    if old.kept is not None:
        raise ValueError(f"{old.path} stays: {old.kept}")
    with writing(old.path):
        going = old.path.rename(old.path.with_name(f"{_GOING}{old.path.name}"))
        shutil.rmtree(going)


def clear_leftovers(results_dir: Path) -> None:
    """Take away what an earlier prune, which was killed, had begun to delete."""
    for place in KINDS.values():
        for path in (results_dir / place).glob(f"{_GOING}*"):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)


def going_on(path: Path) -> str | None:
    """Why a run may not be over; None where it is."""
    if any(is_locked(lock) for lock in _locks(path)):
        return "it is going on: a process holds its lock"
    process = int(path.name.rpartition("-")[2])
    if _is_its_process(process, path):
        return f"it is going on: its process {process} lives"
    if not any((path / name).exists() for name in _RESULTS) and time.time() - _changed(path) < _QUIET:
        return f"it may be going on elsewhere: it has no results, and changed within {_QUIET / 60:.0f} minutes"
    return None


def _is_run(path: Path) -> bool:
    names = {entry.name for entry in path.iterdir()}
    return not names or any(name in names for name in _LEFT) or any(name.endswith("_matrix.json") for name in names)


def _locks(path: Path) -> Iterator[Path]:
    for pattern in ("lease", "*/lease", "*/*/lease", ".lock"):
        yield from path.glob(pattern)


def _is_its_process(process: int, path: Path) -> bool:
    """Whether a process of that number lives that is as old as the run; a younger one has inherited the number."""
    try:
        started = psutil.Process(process).create_time()
    except (psutil.NoSuchProcess, OverflowError, ValueError):
        return False
    except psutil.AccessDenied:
        return True
    return started <= _begun(path) + _CLOCK


def _begun(path: Path) -> float:
    """When the run began, by its name (`results.store.new_run_id`)."""
    day, moment, *_ = path.name.split("-")
    return float(timegm(time.strptime(f"{day}{moment}", "%Y%m%d%H%M%S")))


def _changed(path: Path) -> float:
    return max((entry.lstat().st_mtime for entry in (path, *path.iterdir())), default=0.0)


def _size(path: Path) -> int:
    return sum(entry.lstat().st_size for entry in path.rglob("*") if not entry.is_dir())
