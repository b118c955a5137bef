"""A/A: what this machine makes of no difference at all."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_multiitem.comparison.decision import guardrail
from pytest_multiitem.comparison.decision.speed import versus
from pytest_multiitem.comparison.measuring.campaign import Campaign
from pytest_multiitem.comparison.measuring.rows import new_session, row_of, sample
from pytest_multiitem.comparison.measuring.sides import Connected
from pytest_multiitem.comparison.records import Row, SelfComparison


def compare_with_itself(campaign: Campaign, up: Sequence[Connected]) -> None:
    """Measure the first server that has a choice as if it were two, in interleaved blocks, unless that is known."""
    for c in up:
        size = guardrail.summary_of(campaign.matrix(c.side)).final_recommendation
        if size is None:
            continue
        if campaign.matrix(c.side).self_comparison is None:
            campaign.progress.describe("A/A: a server against itself")
            runs, session = campaign.runs(confirm=True), new_session()
            both = sample([(c.target, size)] * 2, campaign.request, warmup_runs=0, timed_runs=runs)
            first, second = (row_of(s, chunk_size=size, num_items=campaign.items, session=session) for s in both)
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
    return [run.total_e2e_ms for run in row.run_records if run.total_e2e_ms is not None]
