"""Measuring a comparison: its stages in their order, from the workload to one decision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from pytest_multiitem.adapters.base import Engine
from pytest_multiitem.bench.overhead import measure_overhead, null_server
from pytest_multiitem.comparison import files as artefacts
from pytest_multiitem.comparison import workload
from pytest_multiitem.comparison.decision import guardrail
from pytest_multiitem.comparison.decision.compare import compare as decide_between
from pytest_multiitem.comparison.measuring.campaign import Campaign
from pytest_multiitem.comparison.measuring.ledger import WORKLOAD, opened
from pytest_multiitem.comparison.measuring.reference import measure_reference
from pytest_multiitem.comparison.measuring.rows import encoded
from pytest_multiitem.comparison.measuring.sides import (
    Connected,
    Side,
    describe,
    missing,
    sides_of,
    with_served_delimiter,
)
from pytest_multiitem.comparison.measuring.sweep import compare_with_itself, measure_rows
from pytest_multiitem.comparison.measuring.under_load import measure_under_load
from pytest_multiitem.comparison.records import Outcome, Workload, WorkloadRef
from pytest_multiitem.errors import EngineUnavailable, UsageError
from pytest_multiitem.progress import ProgressBar
from pytest_multiitem.results.store import write_atomically
from pytest_multiitem.settings.settings import Settings
from pytest_multiitem.transport.client import ScoreFailure


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
        work = _workload(settings, directory)
        for reason in workload.degenerate(work):
            progress.print(f"the workload hardly tells items apart: {reason}")
        campaign = Campaign(settings, ledger, work, progress)
        _measure(campaign, sides)
        campaign.not_run |= missing(settings, sides)
        outcome = _outcome(campaign)
        publish(outcome)
        if not outcome.failures:
            ledger.finish()
        return outcome


def _workload(settings: Settings, directory: Path) -> Workload:
    """The comparison's workload: as it was begun, the user's own, or the canonical one of the settings' shape."""
    path = directory / WORKLOAD
    if path.exists():
        return artefacts.read(path, Workload).record
    if settings.workload is not None:
        own = artefacts.read(settings.workload, Workload)
        if not own.record.requests:
            raise UsageError(f"workload {settings.workload} holds no request")
        made_for = own.record.delimiter_token_id
        if made_for not in (None, settings.delimiter):
            raise UsageError(
                f"workload {settings.workload} was made for the delimiter {made_for}, and the run has "
                f"{settings.delimiter}; run with --multiitem-delimiter {made_for}"
            )
        try:  # byte by byte: its checksums are of what stands there
            write_atomically(path, settings.workload.read_bytes())
        except OSError as error:
            raise UsageError(f"cannot copy {settings.workload} to {path}: {error.strerror}") from None
        return own.record
    made = workload.of_run(settings)
    artefacts.write(path, made)
    return made


def _measure(campaign: Campaign, sides: Sequence[Side]) -> None:
    """Measure all sides: interleaved where their servers can be up together, else one after the other."""
    campaign.progress.set_total(campaign.expected_cost(sides))
    harness = _harness(campaign)
    together = all(side.url is not None or side.settings.device == "cpu" for side in sides)
    for group in [list(sides)] if together else [[side] for side in sides]:
        _group(campaign, group, harness)


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
        measure_reference(campaign, side)
        complete = not campaign.is_left(side)
        for matrix in campaign.ledger.changed(side.backend, side.views):
            matrix.complete, matrix.blocker = complete, campaign.failures.get(side.label)


def _open(campaign: Campaign, sides: Sequence[Side], harness: dict[str, Any], stack: ExitStack) -> list[Connected]:
    """The servers of the sides, ready, their matrices begun; those that cannot be had are noted."""
    begun = [(stack.enter_context(closing(Connected(side, campaign.directory_of(side)))), side) for side in sides]
    content = artefacts.load_json(campaign.ledger.directory / WORKLOAD)
    sha256 = workload.request_sha256(content["requests"][0])
    measured = WorkloadRef(path=WORKLOAD, sha256=sha256, request_id=campaign.request.request_id)
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
        notes.append(f"the workload has {requests} requests; {campaign.request.request_id} was measured")
    if len(side.views) > 1:
        notes.append(f"the server is the same in {' and '.join(side.views)}, and was measured once for both")
    return notes


def _harness(campaign: Campaign) -> dict[str, Any]:
    """The harness's own time for the whole request, against a server that does nothing."""
    campaign.progress.describe("the harness's own time")
    request = campaign.request
    whole = encoded(request, request.query_token_ids, request.items_token_ids)
    try:
        with null_server(whole.num_items, whole.num_labels) as url:
            return measure_overhead(url, whole, repeats=50, warmup=5)
    except (ScoreFailure, OSError) as error:
        return {"reason": f"it could not be measured: {error}"}


def _outcome(campaign: Campaign) -> Outcome:
    """Compare what was measured. Raises EngineUnavailable where that is nothing."""
    ledger = campaign.ledger
    for backend, view in ledger.matrices:
        for matrix in ledger.changed(backend, [view]):
            matrix.summary = guardrail.summary_of(matrix)
    matrices = [(Path(ledger.path(*key).name), matrix) for key, matrix in ledger.matrices.items()]
    reasons = {**campaign.not_run, **campaign.failures}
    listed = "; ".join(f"{side}: {reason}" for side, reason in reasons.items())
    blocker = campaign.settings.blocker or listed or None
    if not matrices:
        raise EngineUnavailable(f"nothing could be measured: {blocker}")
    comparison = decide_between(matrices, blocker=blocker if reasons else None)
    return Outcome(ledger.directory, matrices, comparison, campaign.failures, campaign.not_run)
