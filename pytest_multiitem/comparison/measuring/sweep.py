"""The rows of a comparison's matrices: swept or confirmed, on all servers in interleaved blocks; and what this machine
makes of no difference at all (A/A)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from pytest_multiitem.comparison.decision import guardrail
from pytest_multiitem.comparison.decision.speed import versus
from pytest_multiitem.comparison.measuring.campaign import Campaign
from pytest_multiitem.comparison.measuring.rows import chunked, row_of, sample
from pytest_multiitem.comparison.measuring.sides import Connected, Side
from pytest_multiitem.comparison.records import Row, SelfComparison
from pytest_multiitem.transport.client import FailureKind, ScoreFailure


def measure_rows(
    campaign: Campaign, requested: Sequence[tuple[Connected, int]], up: list[Connected], *, confirm: bool
) -> None:
    """Measure servers at client chunk sizes, unless that is known; a server that is gone leaves ``up``.

    A server that would only compute once more what another one has just computed takes over its row.
    """
    unknown = [(c, size) for c, size in requested if size not in campaign.known(c.side, confirm=confirm)]
    leaders: dict[object, Side] = {}
    own: list[tuple[Connected, int]] = []
    alike: list[tuple[Connected, int, Side]] = []
    for c, size in unknown:
        leader = leaders.setdefault(c.side.executes(size) or object(), c.side)
        if leader is c.side:
            own.append((c, size))
        else:
            alike.append((c, size, leader))
    _measure(campaign, own, up, confirm=confirm)
    for c, size, leader in alike:
        row = campaign.known(leader, confirm=confirm)[size]
        if row.status == "ok" and row.score_problem is None and _computes_the_same(campaign, c, size, row):
            _enter(campaign, c.side, row, f"the same as {leader.label}", confirm=confirm)
            text = (
                f"requests that its server chunk size does not split make it compute what {leader.label} computes; "
                "such rows were measured there, after a first request to each had given exactly the same scores"
            )
            if text not in campaign.matrix(c.side).notes:
                for matrix in campaign.ledger.changed(c.side.backend, c.side.views):
                    matrix.notes = [*matrix.notes, text]
        else:
            _measure(campaign, [(c, size)], up, confirm=confirm)


def compare_with_itself(campaign: Campaign, up: Sequence[Connected]) -> None:
    """Measure the first server that has a choice as if it were two, in interleaved blocks, unless that is known."""
    for c in up:
        size = guardrail.summary_of(campaign.matrix(c.side)).final_chunk_size
        if size is None:
            continue
        if campaign.matrix(c.side).self_comparison is None:
            campaign.progress.describe("A/A: a server against itself")
            runs = campaign.runs(confirm=True)
            seed = campaign.settings.seed
            both = sample([(c.target, size)] * 2, campaign.requests, warmup_runs=0, timed_runs=runs, seed=seed)
            first, second = map(row_of, both)
            speed = versus(first, second)
            for matrix in campaign.ledger.changed(c.side.backend, c.side.views):
                matrix.self_comparison = SelfComparison(
                    client_chunk_size=size,
                    first_ms=_times(first),
                    second_ms=_times(second),
                    ratio_p50=speed.ratio,
                    ratio_interval_95=speed.interval,
                )
        return


def _times(row: Row) -> list[float]:
    return [run.total_e2e_ms for run in row.run_records if run.ok and run.total_e2e_ms is not None]


def _measure(
    campaign: Campaign, wanted: Sequence[tuple[Connected, int]], up: list[Connected], *, confirm: bool
) -> None:
    if not wanted:
        return
    sizes = "/".join(map(str, dict.fromkeys(size for _, size in wanted)))
    campaign.progress.describe(f"{_stage(confirm):<7} {sizes} items a request")
    samples = sample(
        [(c.target, size) for c, size in wanted],
        campaign.requests,
        warmup_runs=campaign.settings.bench_warmup_runs,
        timed_runs=campaign.runs(confirm=confirm),
        seed=campaign.settings.seed,
    )
    for (c, _), sampled in zip(wanted, samples, strict=True):
        row = row_of(sampled, c.side.cost_per_hour)
        _enter(campaign, c.side, row, _figures(row), confirm=confirm)
        lost = sampled.given_up or FailureKind.CONNECTION in row.failure_reason_counts or row.score_problem
        if lost and not campaign.succeeds(c.side, partial(c.revive, unresponsive=sampled.given_up)):
            up.remove(c)


def _enter(campaign: Campaign, side: Side, row: Row, text: str, *, confirm: bool) -> None:
    for view in side.views:
        campaign.ledger.add(side.backend, view, row, confirm=confirm)
    campaign.progress.advance(campaign.cost(row.client_chunk_size, confirm=confirm))
    campaign.line(_stage(confirm), row.client_chunk_size, side, text)


def _computes_the_same(campaign: Campaign, connected: Connected, size: int, row: Row) -> bool:
    """Whether a first request to a server is answered with exactly a row's scores, in one packed sequence."""
    request = chunked(campaign.requests[:1], size)[0][0]
    try:
        with connected.target.attest() as attestation:
            scores = connected.target.client.send(request)
    except ScoreFailure:
        return False
    one = attestation.packed_sequences == 1 and attestation.packed_items == request.num_items
    known = row.reference_scores or []
    return one and attestation.problem is None and scores.tolist() == known[: request.num_items]


def _stage(confirm: bool) -> str:
    return "confirm" if confirm else "sweep"


def _figures(row: Row) -> str:
    """A row's time and throughput, with what is to be doubted of them."""
    flags = [f"{count} {kind}" for kind, count in row.failure_reason_counts.items()]
    if row.p50_total_e2e_ms is None or row.throughput_items_sec is None:
        return f"{row.status}: {', '.join(flags)}"
    flags += [flag for flag in (row.attestation_problem, row.score_problem, row.recompilation, row.unstable) if flag]
    text = f"p50 {row.p50_total_e2e_ms:9.1f} ms  {row.throughput_items_sec:8.1f} items/s"
    return f"{text}  ({'; '.join(flags)})" if flags else text
