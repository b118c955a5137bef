"""Measuring a comparison: its stages in their order, from the workload to one decision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

from pytest_multiitem.adapters.base import Engine
from pytest_multiitem.bench.overhead import measure_overhead, null_server
from pytest_multiitem.comparison import files as artefacts
from pytest_multiitem.comparison import workload
from pytest_multiitem.comparison.decision import guardrail
from pytest_multiitem.comparison.decision.compare import compare as decide_between
from pytest_multiitem.comparison.measuring.campaign import Campaign
from pytest_multiitem.comparison.measuring.elsewhere import measure_elsewhere
from pytest_multiitem.comparison.measuring.ledger import WORKLOAD, Ledger, opened
from pytest_multiitem.comparison.measuring.reference import measure_reference
from pytest_multiitem.comparison.measuring.rows import encoded
from pytest_multiitem.comparison.measuring.sides import (
    Connected,
    Side,
    describe,
    missing,
    served_directory,
    sides_of,
    with_served_delimiter,
)
from pytest_multiitem.comparison.measuring.sweep import compare_with_itself, measure_rows
from pytest_multiitem.comparison.measuring.under_load import measure_under_load
from pytest_multiitem.comparison.own_requests import canonical_of
from pytest_multiitem.comparison.records import Outcome, Workload
from pytest_multiitem.errors import EngineUnavailable, StorageError, UsageError
from pytest_multiitem.execution.choice import is_local
from pytest_multiitem.inputs import read_bytes
from pytest_multiitem.progress import ProgressBar
from pytest_multiitem.results.store import write_atomically
from pytest_multiitem.servers.errors import ServerError
from pytest_multiitem.settings.settings import Settings
from pytest_multiitem.traffic.lines import read_traffic
from pytest_multiitem.transport.client import ScoreFailure

#: Calls of each kind by which the harness's own time is measured.
_HARNESS_CALLS = 50


def compare(
    settings: Settings, engine: Engine, base: Path, progress: ProgressBar, publish: Callable[[Outcome], object]
) -> Outcome:
    """Measure what the settings ask for, in a directory below ``base``, decide, and have the outcome published.

    An interrupted comparison of the same settings goes on where it ended. Raises UsageError for settings that
    nothing can be measured with.
    """
    sides = sides_of(settings, engine)
    if not sides:
        reasons = "; ".join(missing(settings, sides).values())
        raise UsageError(f"there is nothing to compare: {reasons or 'no backend and no view was chosen'}")
    settings = with_served_delimiter(settings, sides)
    with opened(settings, base) as ledger:
        directory = ledger.directory
        place = directory.relative_to(base) if directory.is_relative_to(base) else directory
        resuming = f"resuming {place}: {ledger.resumed} rows are measured already"
        progress.print(resuming if ledger.resumed else f"comparison in {place}")
        campaign = begin(settings, ledger, progress, sides)
        measure(campaign, sides)
        campaign.not_run |= missing(settings, sides)
        outcome = _outcome(campaign)
        outcome.unwritten = next(iter(ledger.unwritten.values()), None)
        try:
            publish(outcome)
            if not campaign.broken and outcome.unwritten is None:
                ledger.finish()
        except StorageError as error:
            outcome.unwritten = error
        return outcome


def begin(settings: Settings, ledger: Ledger, progress: ProgressBar, sides: Sequence[Side]) -> Campaign:
    """A pass over what the settings ask for, with its workload in the ledger's directory. Raises UsageError for a
    workload that cannot be sent."""
    work = _workload(settings, ledger.directory, sides)
    if work.source is not None:
        progress.print(f"requests: {work.source.words}")
    for reason in workload.doubts(work):
        progress.print(f"the workload hardly tells items apart: {reason}")
    return Campaign(settings, ledger, work, progress)


def measure(campaign: Campaign, sides: Sequence[Side]) -> None:
    """Measure all sides, here or on the nodes of an executor."""
    campaign.progress.set_total(campaign.expected_cost(sides))
    if is_local(campaign.settings.executor):
        _measure_here(campaign, sides)
    else:
        measure_elsewhere(campaign, sides, _measure_here)


def _measure_here(campaign: Campaign, sides: Sequence[Side]) -> None:
    """Measure sides on this machine: interleaved where their servers can be up together, else one after the other."""
    harness = _harness(campaign)
    together = all(side.url is not None or side.settings.device == "cpu" for side in sides)
    for group in [list(sides)] if together else [[side] for side in sides]:
        _group(campaign, group, harness)


def check_anything_measured(campaign: Campaign) -> None:
    """Raises what kept everything from being measured: EngineUnavailable, UsageError for what is nobody's score, else
    ServerError."""
    if campaign.ledger.matrices:
        return
    listed = "; ".join(f"{side}: {reason}" for side, reason in {**campaign.not_run, **campaign.broken}.items())
    kind = ServerError if campaign.failures else UsageError if campaign.errors else EngineUnavailable
    raise kind(f"nothing could be measured: {campaign.settings.blocker or listed}")


def _workload(settings: Settings, directory: Path, sides: Sequence[Side]) -> Workload:
    """The comparison's workload: as it was begun, the user's own, or the canonical one of the settings' shape."""
    path = directory / WORKLOAD
    if path.exists():
        begun = workload.read(path)
        measured = [workload.file_sha256(path), *([begun.record.source.sha256] if begun.record.source else [])]
        if settings.workload is not None and workload.file_sha256(settings.workload) not in measured:
            raise UsageError(f"{settings.workload} has changed since rows were measured with it, as it is in {path}")
        return begun.record
    if settings.workload is None:
        made = workload.of_run(settings)
        artefacts.write(path, made)
        return made
    traffic = read_traffic(settings.workload)
    if traffic.delimiter not in (None, settings.delimiter):
        raise UsageError(
            f"workload {settings.workload} was made for the delimiter {traffic.delimiter}, and the run has "
            f"{settings.delimiter}; run with --multiitem-delimiter {traffic.delimiter}"
        )
    if traffic.is_canonical and settings.workload_sample is None:
        own = workload.read(settings.workload)
        write_atomically(path, read_bytes(settings.workload))  # byte by byte: its checksums are of what stands there
        return own.record
    drawn = canonical_of(settings, served=served_directory(settings, sides))
    assert drawn is not None  # there is a workload
    artefacts.write(path, drawn)
    return drawn


def _group(campaign: Campaign, sides: Sequence[Side], harness: dict[str, Any]) -> None:
    """Every stage of sides whose servers are up together."""
    with ExitStack() as stack:
        up = _open(campaign, [side for side in sides if campaign.is_left(side)], harness, stack)
        for size in campaign.sizes:
            measure_rows(campaign, [(c, size) for c in up], up, confirm=False)
        # First the best of each side, together: that is the pair that decides.
        best = [(c, campaign.best_swept(c.side)) for c in up]
        measure_rows(campaign, [(c, size) for c, size in best if size is not None], up, confirm=True)
        for size in campaign.sizes:
            again = [(c, size) for c in up if size in campaign.to_confirm(c.side)]
            measure_rows(campaign, again, up, confirm=True)
        compare_with_itself(campaign, up)
        if campaign.settings.compare_load:
            measure_under_load(campaign, up)
    for side in sides:
        campaign.succeeds(side, partial(measure_reference, campaign, side))
        complete = not campaign.is_left(side)
        for matrix in campaign.ledger.changed(side.backend, side.views):
            matrix.complete, matrix.blocker = complete, campaign.broken.get(side.label)


def _open(campaign: Campaign, sides: Sequence[Side], harness: dict[str, Any], stack: ExitStack) -> list[Connected]:
    """The servers of the sides, ready, their matrices begun; those that cannot be had are noted."""
    begun = [(stack.enter_context(closing(Connected(side, campaign.directory_of(side)))), side) for side in sides]
    measured = workload.reference(workload.read(campaign.ledger.directory / WORKLOAD))
    up = []
    for connected, side in begun:
        campaign.progress.describe(f"starting {side.label}")
        if campaign.succeeds(side, connected.open):
            up.append(connected)
            for view in side.views:
                campaign.ledger.begin(side.backend, view)
            for matrix in campaign.ledger.changed(side.backend, side.views):
                describe(matrix, connected)
                matrix.workload_ref, matrix.workload = measured, workload.head(campaign.workload)
                matrix.harness, matrix.notes = harness, _notes(campaign, side)
    return up


def _notes(campaign: Campaign, side: Side) -> list[str]:
    """What a reader of a matrix should know of how it was measured."""
    warmups, requests = campaign.settings.bench_warmup_runs, len(campaign.workload.requests)
    notes = [f"before the timed runs of a row, {warmups} warm-up with one request of every shape in it"]
    if requests > 1:
        notes.append(f"a run sends the {requests} requests of the workload, one after the other, each in chunks")
    if campaign.workload.source is not None:
        notes.append(f"the user's own requests: {campaign.workload.source.words}")
    if len(side.views) > 1:
        notes.append(f"the server is the same in {' and '.join(side.views)}, and was measured once for both")
    return notes


def _harness(campaign: Campaign) -> dict[str, Any]:
    """The harness's own time for the largest request, against a server that does nothing."""
    campaign.progress.describe("the harness's own time")
    request = max(campaign.requests, key=lambda each: len(each.items_token_ids))
    whole = encoded(request, request.query_token_ids, request.items_token_ids)
    try:
        with null_server(whole.num_items, whole.num_labels) as url:
            return measure_overhead(url, whole, repeats=_HARNESS_CALLS, warmup=5)
    except (ScoreFailure, OSError) as error:
        return {"reason": f"it could not be measured: {error}"}


def _outcome(campaign: Campaign) -> Outcome:
    """Compare what was measured. Raises as `check_anything_measured` does."""
    check_anything_measured(campaign)
    ledger = campaign.ledger
    for backend, view in ledger.matrices:
        for matrix in ledger.changed(backend, [view]):
            matrix.summary = guardrail.summary_of(matrix)
    matrices = [(Path(ledger.path(*key).name), matrix) for key, matrix in ledger.matrices.items()]
    reasons = {**campaign.not_run, **campaign.broken}
    listed = "; ".join(f"{side}: {reason}" for side, reason in reasons.items())
    blocker = campaign.settings.blocker or listed or None
    comparison = decide_between(matrices, blocker=blocker if reasons else None)
    return Outcome(ledger.directory, matrices, comparison, campaign.failures, campaign.errors, campaign.not_run)
