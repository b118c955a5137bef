"""Each side's best client chunk size under load."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import msgspec

from pytest_multiitem.bench.load import LoadShape, measure_load
from pytest_multiitem.comparison.decision import guardrail
from pytest_multiitem.comparison.measuring.campaign import Campaign
from pytest_multiitem.comparison.measuring.rows import chunked
from pytest_multiitem.comparison.measuring.sides import Connected
from pytest_multiitem.comparison.records import WorkloadRequest
from pytest_multiitem.transport.address import api_key
from pytest_multiitem.transport.client import PreparedRequest

T = TypeVar("T")

#: Senders in the closed loop, arrival rates as shares of what one sender gets, seconds a level.
_SENDERS = (1, 2, 4)
_RATES = (0.5, 0.8, 1.2)
_LOAD_SECONDS = 10.0


def measure_under_load(campaign: Campaign, up: Sequence[Connected]) -> None:
    """Several concurrencies, and arrival rates around what a server can answer; what is known is left out."""
    settings = campaign.settings
    for c in up:
        size = guardrail.summary_of(campaign.matrix(c.side)).final_chunk_size
        rows = {**campaign.known(c.side, confirm=False), **campaign.known(c.side, confirm=True)}
        row = rows.get(size or 0)
        if campaign.matrix(c.side).load is not None or row is None or not row.mean_chunk_call_ms:
            continue
        campaign.progress.describe(f"load on {c.side.label}")
        answered = 1000 / row.mean_chunk_call_ms  # requests a second of one sender
        shape = LoadShape(
            concurrency=_SENDERS,
            rates=tuple(share * answered for share in _RATES),
            duration=_LOAD_SECONDS,
            objective_ms=settings.latency_objective_ms,
            seed=settings.seed,
            timeout=settings.request_timeout,
        )
        report = measure_load(
            c.target.client.address,
            _different(campaign.requests, row.client_chunk_size),
            shape,
            api_key=api_key(settings.api_key_env),
            ca_file=settings.ca_file,
            dtype=c.target.dtype,
        )
        wrong = f"  ({report.wrong_answers} wrong_scores)" if report.wrong_answers else ""
        campaign.line("load", None, c.side, f"goodput {report.max_goodput_items_per_sec:.1f} items/s{wrong}")
        for matrix in campaign.ledger.changed(c.side.backend, c.side.views):
            matrix.load = msgspec.to_builtins(report)


def _different(workload: Sequence[WorkloadRequest], size: int) -> list[PreparedRequest]:
    """A workload's requests in ones of at most ``size`` items, at least as many different ones as there are senders:
    answers that change places under way would not show among equal ones. Further ones have the tokens of the query and
    the items turned round: the same lengths, other content."""
    requests = chunked(workload, size)[0]
    variants = -(-max(_SENDERS) // len(requests))
    for turn in range(1, variants):
        turned = [
            msgspec.structs.replace(
                request,
                query_token_ids=_turned(request.query_token_ids, turn),
                items_token_ids=_turned(request.items_token_ids, turn),
            )
            for request in workload
        ]
        requests += chunked(turned, size)[0]
    return requests


def _turned(values: list[T], turn: int) -> list[T]:
    at = turn % max(1, len(values))
    return [*values[at:], *values[:at]]
