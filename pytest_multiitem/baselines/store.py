"""Baselines on disk: ``RESULTS_DIR/baselines/NAME.json``, written atomically, never overwritten without a copy."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from pytest_multiitem.baselines.records import BASELINE_SCHEMA, Baseline
from pytest_multiitem.baselines.timings import Timings
from pytest_multiitem.errors import UsageError, did_you_mean
from pytest_multiitem.results.store import utc_now, write_atomically

DIRECTORY = "baselines"
#: Below the baselines: those that were replaced.
REPLACED = "replaced"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


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
    advice = "save a new one with --save-baseline NAME"
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read the baseline {path}: {error.strerror}; {advice}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the baseline {path} is not valid JSON: {error}; {advice}") from None
    found = problems(content)
    if found:
        raise UsageError(f"{path} is no valid {BASELINE_SCHEMA} file: {'; '.join(found[:3])}; {advice}")
    return msgspec.convert(content, Baseline)


def problems(content: Any) -> list[str]:
    """What is wrong with a decoded baseline file, its schema and what it says; empty where nothing is."""
    try:
        baseline = msgspec.convert(content, Baseline)
    except msgspec.ValidationError as error:
        return [str(error)]
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
    return found


def baseline_of(name: str, timings: Timings) -> Baseline:
    """A run's timings under a name. Raises UsageError where they cannot be a baseline."""
    check_name(name)
    baseline = Baseline(
        schema_version=BASELINE_SCHEMA,
        name=name,
        saved_at_utc=utc_now(),
        cells=sorted(timings.cells, key=lambda cell: cell.key),
        run_id=timings.run_id,
        machine=dict(timings.machine),
        versions=dict(timings.versions),
        settings=dict(timings.settings),
    )
    found = problems(msgspec.to_builtins(baseline))
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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            _keep(path)
        write_atomically(path, content)
    except OSError as error:
        raise UsageError(f"cannot write the baseline {path}: {error.strerror}") from None
    return path


def _keep(old: Path) -> None:
    """Copy a baseline that is about to be replaced; the copy is a baseline file as well."""
    kept = old.parent / REPLACED
    kept.mkdir(exist_ok=True)
    copy = next(path for n in itertools.count(1) if not (path := kept / f"{old.stem}.{n}.json").exists())
    write_atomically(copy, old.read_bytes())
