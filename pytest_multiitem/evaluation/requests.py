"""What is sent: the same requests in both modes, drawn from the same seed and options."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_multiitem.errors import UsageError
from pytest_multiitem.results.records import TrafficSource
from pytest_multiitem.scoring.cases import ASSUMED_VOCABULARY, Case, built_in_cases, equal_length_case, first_items
from pytest_multiitem.settings.settings import Settings
from pytest_multiitem.targets.target import Target
from pytest_multiitem.traffic.loading import cases_of, load


@dataclass(frozen=True)
class Requests:
    """``cases``: scored, replayed and mutated. ``timed``: requests of the largest N together; N items are their first
    N, in the requests that they stand in. ``source``: the user's file."""

    cases: tuple[Case, ...]
    timed: tuple[Case, ...]
    source: TrafficSource | None = None


def requests_for(settings: Settings, target: Target) -> Requests:
    """A user's own requests, timed in turn as they stand, from the first one again where all have fewer items than are
    timed; else built-in ones: 26 items of 1 to 40 tokens, none of them empty, and items of equal length to time.

    Raises UsageError naming the line of a workload, or its request that the server must not be sent.
    """
    labels, largest = settings.labels, max(settings.items)
    if settings.workload is None:
        vocab_size = target.vocab_size or ASSUMED_VOCABULARY
        mixed, _ = built_in_cases(
            seed=settings.seed, labels=labels, delimiter=target.delimiter, vocab_size=vocab_size, empty_item=False
        )
        timed = equal_length_case(
            seed=settings.seed,
            query_tokens=settings.query_tokens,
            num_items=largest,
            item_tokens=settings.item_tokens,
            labels=labels,
            pool=mixed.pool,
        )
        return Requests((mixed,), (timed,))
    own = load(settings, delimiter=target.delimiter, vocab_size=target.vocab_size, served=target.model)
    assert own is not None  # there is a workload
    target.assume_vocabulary(own.vocab_size)
    cases = cases_of(settings.workload, own.requests)
    for case in cases:
        if target.adapter is not None and (harm := target.adapter.hazard(target.profile, case)) is not None:
            raise UsageError(f"request {case.name!r} is not sent: {harm}")
    return Requests(cases, first_items(cases, largest), own.source)
