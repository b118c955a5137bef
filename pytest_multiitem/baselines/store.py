"""Baselines on disk: ``RESULTS_DIR/baselines/NAME.json``, written atomically, never overwritten without a copy."""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path

from pytest_multiitem.baselines.records import BASELINE_SCHEMA, Baseline
from pytest_multiitem.baselines.shelf import Shelf, is_name
from pytest_multiitem.baselines.timings import Timings
from pytest_multiitem.errors import UsageError
from pytest_multiitem.results.store import checksum, read_record, utc_now

_SHELF = Shelf("baselines", "baseline", False, "--save-baseline")
DIRECTORY = _SHELF.directory
_ADVICE = _SHELF.advice
_SHA256 = re.compile(r"[0-9a-f]{64}")

check_name, names, find = _SHELF.check_name, _SHELF.names, _SHELF.find


def read(path: Path) -> Baseline:
    """Read a baseline and check it. Raises UsageError naming what is wrong."""
    baseline, _ = read_record(path, Baseline, BASELINE_SCHEMA, _ADVICE)
    found = problems(baseline)
    if found:
        raise UsageError(f"{path} is no {BASELINE_SCHEMA} file: {'; '.join(found[:3])}; {_ADVICE}")
    return baseline


def problems(baseline: Baseline) -> list[str]:
    """What is wrong with what a baseline says; empty where nothing is."""
    found = [] if is_name(baseline.name) else [f"name: {baseline.name!r} is no name for a baseline"]
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
    """Write a baseline under its name; one that it replaces is kept. Raises as `Shelf.write`."""
    return _SHELF.write(results_dir, baseline.name, baseline, replace=replace)
