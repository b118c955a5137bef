"""Baselines on disk: ``RESULTS_DIR/baselines/NAME.json``, written atomically, never overwritten without a copy."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from pathlib import Path

import msgspec

from pytest_multiitem.baselines.records import BASELINE_SCHEMA, Baseline
from pytest_multiitem.baselines.timings import Timings
from pytest_multiitem.errors import UsageError, did_you_mean
from pytest_multiitem.results.store import checksum, read_record, utc_now, write_atomically
from pytest_multiitem.storage import writing

DIRECTORY = "baselines"
#: Below the baselines: those that were replaced.
REPLACED = "replaced"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ADVICE = "save a new one with --save-baseline NAME"


def check_name(name: str) -> None:
    """Raises UsageError for what cannot be the name of a baseline."""
    if not _NAME.fullmatch(name) or name.endswith(".json"):
        raise UsageError(
            f"{name!r} is no name for a baseline: expected letters, digits, '.', '_' and '-', the first a letter or a "
            "digit, without .json at the end"
        )


def names(results_dir: Path) -> list[str]:
    """The names of the saved baselines."""
    return sorted(path.stem for path in (results_dir / DIRECTORY).glob("*.json") if _NAME.fullmatch(path.stem))


def find(name: str, results_dir: Path, base: Path) -> Path:
    """The file of a baseline: of its name, or a path (relative to ``base``). Raises UsageError where there is none."""
    if "/" in name or "\\" in name or name.endswith(".json"):
        path = base / Path(name).expanduser()
        if not path.is_file():
            raise UsageError(f"there is no baseline file {path}; save one with --save-baseline NAME")
        return path
    check_name(name)
    path = results_dir / DIRECTORY / f"{name}.json"
    if not path.is_file():
        known = names(results_dir)
        listed = f"there are: {', '.join(known)}{did_you_mean(name, known)}" if known else "there is none yet"
        raise UsageError(
            f"there is no baseline {name!r} in {path.parent}; {listed}; save one with --save-baseline {name}"
        )
    return path


def read(path: Path) -> Baseline:
    """Read a baseline and check it. Raises UsageError naming what is wrong."""
    baseline, _ = read_record(path, Baseline, BASELINE_SCHEMA, _ADVICE)
    found = problems(baseline)
    if found:
        raise UsageError(f"{path} is no {BASELINE_SCHEMA} file: {'; '.join(found[:3])}; {_ADVICE}")
    return baseline


def problems(baseline: Baseline) -> list[str]:
    """What is wrong with what a baseline says; empty where nothing is."""
    found = [] if _NAME.fullmatch(baseline.name) else [f"name: {baseline.name!r} is no name for a baseline"]
    if not baseline.cells:
        found.append("cells: there is none; a baseline without a timing would let everything pass")
    keys = Counter(cell.key for cell in baseline.cells)
    found += [f"cells: {count} are called {key!r}" for key, count in keys.items() if count > 1]
    for cell in baseline.cells:
        where = f"cell {cell.key!r}"
        if not cell.key:
            found.append("cells: one has no key")
        if not cell.seconds:
            found.append(f"{where}: it has no run")
        bad = [value for value in cell.seconds if not (math.isfinite(value) and value > 0)]
        if bad:
            found.append(f"{where}: {bad[0]!r} is no time; expected seconds above 0")
        if cell.items < 1:
            found.append(f"{where}: {cell.items} items; expected 1 or more")
        if cell.workload_sha256 is not None and not _SHA256.fullmatch(cell.workload_sha256):
            found.append(f"{where}: {cell.workload_sha256!r} is no sha256")
    if baseline.cells_sha256 is not None and (actual := checksum(baseline.cells)) != baseline.cells_sha256:
        found.append(f"cells_sha256 is {baseline.cells_sha256:.64}, but the timings have {actual}")
    return found


def baseline_of(name: str, timings: Timings) -> Baseline:
    """A run's timings under a name. Raises UsageError where they cannot be a baseline."""
    check_name(name)
    cells = sorted(timings.cells, key=lambda cell: cell.key)
    baseline = Baseline(
        schema_version=BASELINE_SCHEMA,
        name=name,
        saved_at_utc=utc_now(),
        cells=cells,
        run_id=timings.run_id,
        machine=dict(timings.machine),
        versions=dict(timings.versions),
        settings=dict(timings.settings),
        cells_sha256=checksum(cells),
    )
    found = problems(baseline)
    if found:
        raise UsageError(f"these timings are no baseline: {'; '.join(found[:3])}")
    return baseline


def write(results_dir: Path, baseline: Baseline, *, replace: bool) -> Path:
    """Write a baseline under its name; one that it replaces is kept below ``replaced``.

    Raises UsageError where it cannot be written, or there is one of that name and ``replace`` is not wanted.
    """
    path = results_dir / DIRECTORY / f"{baseline.name}.json"
    if path.exists() and not replace:
        raise UsageError(
            f"there is a baseline {baseline.name!r} already: {path}; choose another name, or let a run that passes "
            f"replace it: pytest --save-baseline {baseline.name}"
        )
    content = msgspec.json.format(msgspec.json.encode(baseline), indent=1) + b"\n"
    with writing(path, what="the baseline "):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            _keep(path)
    write_atomically(path, content)
    return path


def _keep(old: Path) -> None:
    """Copy a baseline that is about to be replaced; the copy is a baseline file as well."""
    kept = old.parent / REPLACED
    kept.mkdir(exist_ok=True)
    copy = next(path for n in itertools.count(1) if not (path := kept / f"{old.stem}.{n}.json").exists())
    write_atomically(copy, old.read_bytes())
