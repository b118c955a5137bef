"""A counterexample as it stands in ``counterexample.json`` (schema ``multiitem_counterexample_v1``).

Adding an optional field keeps the version; removing or changing one raises it.
"""

from __future__ import annotations

import re
from itertools import count
from pathlib import Path
from typing import Final, Literal

import msgspec

from pytest_multiitem.errors import UsageError
from pytest_multiitem.results.records import SettingRecord
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
    ``settings``: of the run, as a user would type them.
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


def save(directory: Path, found: Counterexample, *, label: str | None = None) -> Path:
    """Write it into a run's directory; ``label`` names the server where there are several. Replaces no file."""
    slug = "" if label is None else "-" + re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")
    content = msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n"
    for number in count(1):
        path = directory / f"counterexample{slug}{'' if number == 1 else f'-{number}'}.json"
        try:
            with path.open("xb") as file:
                file.write(content)
        except FileExistsError:
            continue
        return path
    raise AssertionError("unreachable")


def read(path: Path) -> Counterexample:
    """A saved counterexample. Raises UsageError for anything else."""
    expected = f"expected a {COUNTEREXAMPLE} file, as a failed run leaves in its directory"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}; {expected}") from None
    try:
        raw = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path} is no JSON: {error}; {expected}") from None
    schema = raw.get("schema_version") if isinstance(raw, dict) else None
    if schema != COUNTEREXAMPLE:
        raise UsageError(f"{path} is {'of no schema' if schema is None else f'a {schema!r:.80} file'}; {expected}")
    try:
        found = msgspec.convert(raw, Counterexample)
    except msgspec.ValidationError as error:
        raise UsageError(f"{path} is no valid {COUNTEREXAMPLE} file: {error}") from None
    for problem in problems(found):
        raise UsageError(f"{path} cannot be replayed: {problem}")
    return found


def problems(found: Counterexample) -> list[str]:
    """Why a counterexample cannot be replayed; empty where it can be."""
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
