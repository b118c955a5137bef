"""Sides of a comparison as cells of an executor: each is measured on a node of its own, whole, beside nothing.

What is interleaved on one machine is not here: the rows of two sides are of different sessions, so no pair of runs is
compared, and a comparison says so (``paired``: false).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pytest_multiitem.adapters.base import choose_engine
from pytest_multiitem.comparison import files as artefacts
from pytest_multiitem.comparison import workload
from pytest_multiitem.comparison.measuring.campaign import Campaign
from pytest_multiitem.comparison.measuring.ledger import WORKLOAD, Ledger
from pytest_multiitem.comparison.measuring.sides import Side, sides_of
from pytest_multiitem.comparison.records import ScoreMatrix
from pytest_multiitem.execution import driver
from pytest_multiitem.execution.cells import Cell, ExecutorClosed, Place
from pytest_multiitem.execution.choice import open_executor
from pytest_multiitem.execution.quiet import alone
from pytest_multiitem.gates.evidence import max_abs
from pytest_multiitem.inputs import read_bytes
from pytest_multiitem.progress import ProgressBar
from pytest_multiitem.results.store import new_run_id, write_record
from pytest_multiitem.settings.placement import deadlines_of, needs_of
from pytest_multiitem.settings.settings import Settings
from pytest_multiitem.storage import writing

#: Two measurements of one side may differ by so much of a score: rounding of another machine's kernels.
_ALIKE = 1e-3

#: Measures sides whose servers are on this machine, with a campaign of its own.
MeasureHere = Callable[[Campaign, Sequence[Side]], None]
#: Matrices by backend and view.
Matrices = dict[tuple[str, str], ScoreMatrix]


@dataclass(frozen=True)
class SideTask:
    """What a node measures: the one side of ``settings``. ``known``: what an interrupted run has measured of it."""

    settings: Settings
    workload: bytes
    known: Matrices


@dataclass(frozen=True)
class SideResult:
    """What became of a side: its matrices, and why it could not be measured, as a `Campaign` has it."""

    matrices: Matrices
    failures: dict[str, str]
    errors: dict[str, str]
    not_run: dict[str, str]


@dataclass(frozen=True)
class SidesWork:
    """`execution.cells.Work` of a comparison: a cell's task is a `SideTask`."""

    measure: MeasureHere

    def open(self, place: Place) -> SidesPlace:
        """The servers start with the side that they are of."""
        return SidesPlace(place, self.measure)


class SidesPlace:
    """`execution.cells.Workplace` of a comparison."""

    def __init__(self, place: Place, measure: MeasureHere) -> None:
        self._place, self._measure = place, measure

    def measure(self, cell: Cell) -> SideResult:
        """Measure a side in a directory of this place, with the machine to itself. Raises UsageError where that cannot
        be."""
        task: SideTask = cell.task
        directory = self._place.directory / re.sub(r"[^a-z0-9_]+", "-", cell.key)
        with writing(directory):
            directory.mkdir(parents=True, exist_ok=True)
            (directory / WORKLOAD).write_bytes(task.workload)
        for (backend, view), matrix in task.known.items():
            write_record(directory / artefacts.matrix_name(backend, view), matrix)
        ledger = Ledger(directory)
        campaign = Campaign(task.settings, ledger, workload.read(directory / WORKLOAD).record, ProgressBar())
        with alone(self._place.quiet):
            self._measure(campaign, sides_of(task.settings, choose_engine(task.settings.engine)))
        return SideResult(ledger.matrices, campaign.failures, campaign.errors, campaign.not_run)

    def close(self) -> None:
        """A side's servers end with its measurement, and with this process."""


def measure_elsewhere(campaign: Campaign, sides: Sequence[Side], measure: MeasureHere) -> None:
    """Measure every side of which something is left on a node of the settings' executor; the ledger stays here.

    Raises UsageError where there is no such executor.
    """
    settings, directory = campaign.settings, campaign.ledger.directory
    left = {side.label: side for side in sides if campaign.is_left(side) or not _has_reference(campaign, side)}
    executor = open_executor(settings.executor, directory, new_run_id(), {})
    try:
        executor.begin(SidesWork(measure))
        cells = [Cell(key, _task(campaign, side), needs_of(side.settings)) for key, side in left.items()]
        for outcome in driver.measure_all(executor, cells, deadlines_of(settings), _difference):
            _take(campaign, left[outcome.cell.key], outcome)
    except ExecutorClosed:  # pragma: no cover - nobody else closes it
        return
    finally:
        executor.close()


def _has_reference(campaign: Campaign, side: Side) -> bool:
    begun = [campaign.ledger.matrices.get((side.backend, view)) for view in side.views]
    return all(matrix is not None and matrix.own_reference is not None for matrix in begun)


def _task(campaign: Campaign, side: Side) -> SideTask:
    """The run's settings for this side alone; what is of the driver's directories stays with the driver."""
    urls = tuple((name, url) for name, url in campaign.settings.compare_urls if name.partition("@")[0] == side.backend)
    own = {"backend": (side.backend,), "views": side.views, "compare_urls": urls}
    settings = replace(campaign.settings, **own, executor="local", compare_dir=None, workload=None)  # type: ignore[arg-type]
    known = {key: m for key, m in campaign.ledger.matrices.items() if key[0] == side.backend and key[1] in side.views}
    return SideTask(settings, read_bytes(campaign.ledger.directory / WORKLOAD), known)


def _take(campaign: Campaign, side: Side, outcome: driver.Outcome) -> None:
    """Enter what became of a side."""
    if isinstance(outcome, driver.Failed):
        campaign.errors[side.label] = "; then ".join(outcome.reasons)
        campaign.progress.print(f"{side.label}: {campaign.errors[side.label]}")
        return
    if isinstance(outcome, driver.Repeated):
        if outcome.difference is not None:
            _note(campaign, side, f"it was measured twice, and not alike: {outcome.difference}")
        return
    result: SideResult = outcome.value
    campaign.failures |= result.failures
    campaign.errors |= result.errors
    campaign.not_run |= result.not_run
    for (backend, view), matrix in result.matrices.items():
        campaign.ledger.matrices[backend, view] = matrix
    _note(campaign, side, f"measured on {outcome.node} alone: its runs are not paired with those of another side")
    for reason in outcome.failures:
        _note(campaign, side, f"measured again: {reason}")
    rows = sum(len(matrix.results) + len(matrix.confirm_results) for matrix in result.matrices.values())
    why = {**result.not_run, **result.errors, **result.failures}.get(side.label)
    campaign.progress.print(f"{side.label} on {outcome.node}: {why or f'{rows} rows'}")


def _note(campaign: Campaign, side: Side, text: str) -> None:
    for matrix in campaign.ledger.changed(side.backend, side.views):
        if text not in matrix.notes:
            matrix.notes = [*matrix.notes, text]


def _difference(one: SideResult, other: SideResult) -> str | None:
    """How two measurements of a side differ in what is no matter of time; None where they do not."""
    if one.matrices.keys() != other.matrices.keys():
        return "one of them has no result"
    for key, matrix in one.matrices.items():
        theirs = {row.client_chunk_size: row for row in other.matrices[key].results}
        for row in matrix.results:
            again = theirs.get(row.client_chunk_size)
            if again is None or row.status != again.status:
                return f"client chunk size {row.client_chunk_size}: {row.status} and {again and again.status}"
            scores = [each.reference_scores for each in (row, again)]
            if None not in scores and max_abs(np.array(scores[0]) - np.array(scores[1])) > _ALIKE:
                return f"client chunk size {row.client_chunk_size}: the scores differ"
    return None
