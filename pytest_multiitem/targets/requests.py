"""What a run sends: the requests that gates are measured on, and requests of a given shape for timing."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import cycle, islice

from pytest_multiitem.errors import EngineUnavailable, UsageError
from pytest_multiitem.scoring import cases
from pytest_multiitem.scoring.cases import Case
from pytest_multiitem.scoring.layout import packed_length
from pytest_multiitem.settings.settings import Settings
from pytest_multiitem.targets.target import Target
from pytest_multiitem.traffic.loading import cases_of, load


class Requests:
    """The requests of a run's settings. No content holds the delimiter of the server that it is for."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._cases: dict[tuple[str | None, int | None, int], tuple[Case, ...]] = {}

    def clear(self) -> None:
        """Forget what was read: the next model may have another tokenizer."""
        self._cases.clear()

    def cases(self, target: Target) -> tuple[Case, ...]:
        """The requests that gates are measured on: the user's workload, or the built-in cases.

        Raises EngineUnavailable for one that is known to harm such a server.
        """
        key = (target.model, target.vocab_size, target.delimiter)
        if key not in self._cases:
            self._cases[key] = self._read(target)
        for case in self._cases[key]:
            if target.adapter is not None and (harm := target.adapter.hazard(target.profile, case)) is not None:
                raise EngineUnavailable(f"request {case.name!r} is not sent: {harm}")
        return self._cases[key]

    def timing_case(self, target: Target, num_items: int) -> Case:
        """One request of N items for timing: seeded ids, or the user's own request that has most items, these in turn
        where it has fewer."""
        settings = self._settings
        if settings.workload is None:
            return self.equal_length_case(target, settings.query_tokens, num_items, settings.item_tokens)
        largest = max(self.cases(target), key=lambda case: len(case.items))
        chosen = tuple(islice(cycle(largest.items), num_items))
        return replace(largest, name=f"{largest.name}, {num_items} items", items=chosen)

    def timing_cases(self, target: Target, num_items: int) -> tuple[Case, ...]:
        """The requests in which N items are timed: one of seeded ids, or the user's own in turn, each with its own
        query, the last one cut; from the first one again where all together have fewer."""
        if self._settings.workload is None:
            return (self.timing_case(target, num_items),)
        return cases.first_items(self.cases(target), num_items)

    def benchmark_cases(self, target: Target, num_items: int) -> tuple[Case, ...]:
        """What a benchmark sends: one seeded request of N items, or all of the user's own requests."""
        settings = self._settings
        if settings.workload is not None:
            return self.cases(target)
        return (self.equal_length_case(target, settings.bench_query_tokens, num_items, settings.item_tokens),)

    def equal_length_case(self, target: Target, query_tokens: int, num_items: int, item_tokens: int) -> Case:
        """A seeded request of a given shape."""
        settings = self._settings
        pool = _pool_of(target.vocab_size or cases.ASSUMED_VOCABULARY, (*settings.labels, target.delimiter))
        shape = {"query_tokens": query_tokens, "num_items": num_items, "item_tokens": item_tokens}
        return cases.equal_length_case(seed=settings.seed, **shape, labels=settings.labels, pool=pool)

    def _read(self, target: Target) -> tuple[Case, ...]:
        settings = self._settings
        own = load(settings, delimiter=target.delimiter, vocab_size=target.vocab_size, served=target.model)
        if own is not None and settings.workload is not None:
            target.assume_vocabulary(own.vocab_size)
            found = cases_of(settings.workload, own.requests)
            if target.profile.role == "multi":
                for request, case in zip(own.requests, found, strict=True):
                    _check_size(f"workload {settings.workload}, {request.where}", case, target)
            return found
        return cases.built_in_cases(
            seed=settings.seed,
            labels=settings.labels,
            delimiter=target.delimiter,
            vocab_size=target.vocab_size or cases.ASSUMED_VOCABULARY,
            empty_item=target.adapter is not None and target.adapter.allows_empty_items,
        )


def _check_size(place: str, case: Case, target: Target) -> None:
    """Raises UsageError for a request of the user's that is larger than a packing server says it takes: what it would
    answer says nothing of any score."""
    what = None
    if target.max_items is not None and len(case.items) > target.max_items:
        what = f"{len(case.items):,} items, and {target.url} takes {target.max_items:,} in a request"
    elif target.max_tokens is not None:
        lengths = [len(item) for item in case.items]
        size = target.profile.chunk_size or len(lengths) or 1
        parts = (lengths[start : start + size] for start in range(0, len(lengths), size))
        longest = max((packed_length(len(case.query), part) for part in parts), default=0)
        if longest > target.max_tokens:
            what = f"{longest:,} tokens packed, and {target.url} takes {target.max_tokens:,}"
    if what is not None:
        raise UsageError(f"{place}: {what}; send its items in several requests, or leave it out")


_pool_of = cache(cases.token_pool)
