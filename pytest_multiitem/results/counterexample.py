"""A counterexample as it stands in ``counterexample.json`` (schema ``multiitem_counterexample_v1``).

Adding an optional field keeps the version; removing or changing one raises it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Final, Literal

import msgspec
import numpy as np

from pytest_multiitem.errors import UsageError
from pytest_multiitem.results.figures import differs
from pytest_multiitem.results.records import SettingRecord
from pytest_multiitem.results.store import checksum, read_record, write_new
from pytest_multiitem.scoring.limits import PLACED, PLACED_FLOAT32
from pytest_multiitem.scoring.relations import Scenario

COUNTEREXAMPLE: Final = "multiitem_counterexample_v1"


class Server(msgspec.Struct, kw_only=True):
    """Where it was found; null where the server does not say."""

    url: str
    label: str
    engine: str | None = None
    model: str | None = None
    dtype: str | None = None
    semantics: str | None = None
    mask_requested: str | None = None


class Counterexample(msgspec.Struct, kw_only=True):
    """The smallest requests that were found to violate a relation, and what was answered.

    ``states``: what the relation demands. ``difference``: the largest score difference, held against ``limit``; null
    where the server did not answer (``failure``). ``base_rows``, ``variant_rows``: scores [N][K]. ``noise``: how far
    replays of the base move scores. ``reproduced``: whether it showed again when the search was over. ``examples``:
    how many were tried until it was found. ``serial_url``: of the serial server, where the variant was sent to it.
    ``settings``: of the run, as a user would type them. ``scenario_sha256``: a checksum of the scenario
    (`results.store.checksum`): of an edited one, a replay would hold and say nothing; null in older files.
    """

    schema_version: Literal["multiitem_counterexample_v1"] = COUNTEREXAMPLE
    created_at_utc: str
    relation: str
    states: str = ""
    scenario: Scenario
    limit: float
    difference: float | None = None
    failure: str | None = None
    base_rows: list[list[float]] = []
    variant_rows: list[list[float]] = []
    noise: float = 0.0
    reproduced: bool = True
    seed: int
    examples: int
    server: Server
    serial_url: str | None = None
    settings: list[SettingRecord] = []
    scenario_sha256: str | None = None


def save(directory: Path, found: Counterexample, *, label: str | None = None) -> Path:
    """Write it into a run's directory; ``label`` names the server where there are several. Replaces no file. Raises
    StorageError where it cannot be written."""
    slug = "" if label is None else "-" + re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")
    content = msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n"
    for number in count(1):
        path = directory / f"counterexample{slug}{'' if number == 1 else f'-{number}'}.json"
        try:
            write_new(path, content)
        except FileExistsError:
            continue
        return path
    raise AssertionError("unreachable")


def read(path: Path) -> Counterexample:
    """A saved counterexample. Raises UsageError for anything else."""
    found, _ = read_record(path, Counterexample, COUNTEREXAMPLE, "a failed run leaves one in its directory")
    for problem in problems(found):
        raise UsageError(f"{path} cannot be replayed: {problem}")
    return found


def summary(found: Counterexample) -> str:
    """What it holds, in a few words."""
    return f"{found.relation}: {'not answered' if found.difference is None else f'difference {found.difference:.6g}'}"


def problems(found: Counterexample) -> list[str]:
    """Why a counterexample cannot be replayed, or is none; empty where all is well."""
    if found.scenario_sha256 is not None and (actual := checksum(found.scenario)) != found.scenario_sha256:
        return [f"its scenario_sha256 is {found.scenario_sha256:.64}, but its scenario has {actual}"]
    return _unplayable(found) or [*_unviolated(found)]


def _unplayable(found: Counterexample) -> list[str]:
    scenario = found.scenario
    if not all(request.query and request.items and request.label_token_ids for request in scenario.requests):
        return ["a request has no query, no items or no labels"]
    if not scenario.variant or not scenario.pairs:
        return ["it has no variant, or compares nothing"]
    rows = (len(scenario.base.items), sum(len(request.items) for request in scenario.variant))
    widths = {len(request.label_token_ids) for request in scenario.variant}
    columns = (len(scenario.base.label_token_ids), min(widths))
    if len(widths) > 1 or (not scenario.columns and columns[0] != columns[1]):
        return ["its requests have different numbers of labels"]
    return [
        f"its {what} name rows or columns that its requests do not have"
        for what, pairs, bounds in (("pairs", scenario.pairs, rows), ("columns", scenario.columns, columns))
        if any(not 0 <= index < bound for pair in pairs for index, bound in zip(pair, bounds, strict=True))
    ][:1]


def _unviolated(found: Counterexample) -> Iterator[str]:
    """Where a file's answers do not violate what it says that they do."""
    scenario = found.scenario
    if found.relation != scenario.relation:
        yield f"its relation is {found.relation!r:.80}, its scenario's {scenario.relation!r:.80}"
    # How closely a serial server can be followed was measured; all other limits follow from the precision.
    limits = (PLACED_FLOAT32, PLACED) if scenario.serial else (scenario.limit(found.server.dtype),)
    if found.limit not in limits:
        yield f"its limit is {found.limit:g}; expected {' or '.join(f'{limit:g}' for limit in limits)}"
    if not 0 <= found.noise < math.inf or found.examples < 1:
        yield f"its noise is {found.noise:g}, after {found.examples} examples"
    if (found.difference is None) != (found.failure is not None):
        yield f"its difference is {found.difference}, its failure {found.failure!r:.80}"
        return
    if found.difference is None:
        return
    shapes = [(len(scenario.base.items), len(scenario.base.label_token_ids))]
    shapes.append((sum(len(r.items) for r in scenario.variant), len(scenario.variant[0].label_token_ids)))
    for name, shape in zip(("base_rows", "variant_rows"), shapes, strict=True):
        rows = getattr(found, name)
        if len(rows) != shape[0] or any(len(row) != shape[1] or not all(map(math.isfinite, row)) for row in rows):
            yield f"its {name} are no finite scores of {shape[0]} items and {shape[1]} labels"
            return
    base, variant = (np.array(rows, dtype=np.float64) for rows in (found.base_rows, found.variant_rows))
    wanted = float(scenario.differences(base, variant).max())
    yield from differs("its difference", found.difference, wanted, "its rows give")
    if not wanted > found.limit:
        yield f"its rows differ by {wanted:.6g}, within the limit {found.limit:g}: they violate nothing"
