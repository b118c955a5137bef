"""One matrix of one server that already runs, measured by what measures a side of a comparison."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_multiitem.adapters.base import Engine
from pytest_multiitem.comparison import files as artefacts
from pytest_multiitem.comparison import workload
from pytest_multiitem.comparison.decision import guardrail
from pytest_multiitem.comparison.measuring.campaign import Campaign
from pytest_multiitem.comparison.measuring.ledger import WORKLOAD, Flags, Ledger, opened
from pytest_multiitem.comparison.measuring.runner import begin, check_anything_measured, measure
from pytest_multiitem.comparison.measuring.sides import Side, sides_of
from pytest_multiitem.comparison.records import ScoreMatrix
from pytest_multiitem.errors import StorageError, UsageError
from pytest_multiitem.inputs import read_bytes
from pytest_multiitem.progress import ProgressBar
from pytest_multiitem.results.store import write_atomically
from pytest_multiitem.settings.settings import Settings
from pytest_multiitem.targets.attach import UNKNOWN, attach_ready, is_stated
from pytest_multiitem.traffic.lines import read_traffic

#: What the options are called that the ledger's messages speak of.
_FLAGS = Flags(directory="--output-json", fresh="--fresh")


@dataclass(frozen=True)
class Measured:
    """A matrix and what is against it: ``problems``, a line each. ``unwritten``: why a file of it is not on disk."""

    matrix: ScoreMatrix
    problems: list[str]
    unwritten: StorageError | None = None


def known_server(url: str, settings: Settings, engine: Engine) -> Settings:
    """The settings of a matrix of the server at ``url``, with its backend and its delimiter.

    The server is asked who it is, and for one score. Raises UsageError where it says something else than the settings,
    or where nobody says which backend it is, and ScoreFailure or NeverReady where it cannot be asked.
    """
    if settings.origins["delimiter"] == "default" and settings.workload is not None:
        made_for = _delimiter_of(settings.workload)
        if made_for is not None:
            origins = {**settings.origins, "delimiter": f"workload {settings.workload}"}
            settings = replace(settings, delimiter=made_for, origins=origins)
    target = attach_ready("multi", url, settings, engine)
    target.client.close()
    backend = target.profile.backend
    if backend == UNKNOWN and is_stated(settings, "engine") and len(engine.backends) == 1:
        (backend,) = engine.backends
    if backend == UNKNOWN:
        raise UsageError(f"the server {target.url} does not say what serves it; name it: --backend jax or pytorch")
    return replace(settings, backend=(backend,), compare_urls=((backend, url),), delimiter=target.delimiter)


def measure_matrix(
    settings: Settings, engine: Engine, output: Path, progress: ProgressBar, stated: Mapping[str, Any]
) -> Measured:
    """Measure the one side of the settings, and write its matrix.

    Rows are kept beside ``output`` while it is measured, so that an interrupted matrix goes on where it ended; what is
    there when it ends early is written to ``output`` as well. ``stated``: what the user says of the server, for the
    matrix. Raises UsageError for settings that nothing can be measured with, and as `check_anything_measured` does.
    """
    directory = directory_of(output)
    settings = replace(settings, compare_dir=directory.absolute())
    (side,) = sides_of(settings, engine)
    side.stated = stated
    with opened(settings, Path(), _FLAGS) as ledger:
        if ledger.resumed:
            progress.print(f"resuming {output}: {ledger.resumed} rows are measured already")
        campaign = begin(settings, ledger, progress, [side])
        try:
            measure(campaign, [side])
        finally:
            _write(ledger, campaign, side, output)
        check_anything_measured(campaign)
        matrix, unwritten = campaign.matrix(side), next(iter(ledger.unwritten.values()), None)
    if matrix.complete and unwritten is None:
        shutil.rmtree(directory, ignore_errors=True)
    return Measured(matrix, _problems(campaign, matrix), unwritten)


def _delimiter_of(path: Path) -> int | None:
    """What a workload was made for, if it says. Raises UsageError for one that cannot be sent."""
    traffic = read_traffic(path)
    if traffic.is_canonical:
        workload.read(path)  # it may contradict itself
    return traffic.delimiter


def directory_of(output: Path) -> Path:
    """Where the rows of a matrix are kept until it is complete."""
    return output.with_name(f".{output.name}.measuring")


def _write(ledger: Ledger, campaign: Campaign, side: Side, output: Path) -> None:
    """Write what is measured, if anything is."""
    for matrix in ledger.changed(side.backend, side.views):
        matrix.summary, matrix.complete = guardrail.summary_of(matrix), not campaign.is_left(side)
        if campaign.workload.source is not None:
            kept = output.with_name(f"{output.stem}_workload.json")
            matrix.workload_ref.path = kept.name
            if matrix.results:
                write_atomically(kept, read_bytes(ledger.directory / WORKLOAD))
        elif campaign.settings.workload is not None:
            matrix.workload_ref.path = os.path.relpath(campaign.settings.workload, output.parent)
        if matrix.results:
            artefacts.write(output, matrix)


def _problems(campaign: Campaign, matrix: ScoreMatrix) -> list[str]:
    found = [*campaign.not_run.values(), *campaign.broken.values()]
    for stage, rows in (("sweep", matrix.results), ("confirm", matrix.confirm_results)):
        reasons = ((row.client_chunk_size, guardrail.why_not(row)) for row in rows)
        found += [f"{stage}, client chunk size {size}: {reason}" for size, reason in reasons if reason is not None]
    if not matrix.complete:
        found.append("rows are missing: the same command goes on with them")
    return found
