"""What a run sends: the requests that gates are measured on, and requests of a given shape for timing."""

from __future__ import annotations

from functools import cache

from pytest_multiitem.errors import EngineUnavailable
from pytest_multiitem.scoring import cases
from pytest_multiitem.scoring.cases import Case
from pytest_multiitem.settings.settings import Settings
from pytest_multiitem.targets.target import Target

#: What stands for the delimiter and the vocabulary of a server that is not known yet.
_NO_TOKEN, _ANY_VOCABULARY = -1, 2**63


class Requests:
    """The requests of a run's settings. No content holds the delimiter of the server that it is for."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._cases: dict[tuple[str | None, int, int], tuple[Case, ...]] = {}

    def clear(self) -> None:
        """Forget what was read: the next model may have another tokenizer."""
        self._cases.clear()

    def check(self) -> None:
        """Raises UsageError for a workload of which it is known without any server that it cannot be read."""
        settings = self._settings
        if settings.workload is not None:
            any_ids = [0, 1]
            cases.read_workload(
                settings.workload, encode=lambda text: any_ids, labels=settings.labels, delimiter=_NO_TOKEN,
                vocab_size=settings.vocab_size or _ANY_VOCABULARY,
            )  # fmt: skip

    def cases(self, target: Target) -> tuple[Case, ...]:
        """The requests that gates are measured on: the user's workload, or the built-in cases.

        Raises EngineUnavailable for one that is known to harm such a server.
        """
        vocab_size = target.vocab_size or cases.ASSUMED_VOCABULARY
        key = (target.model, vocab_size, target.delimiter)
        if key not in self._cases:
            self._cases[key] = self._read(target, vocab_size)
        for case in self._cases[key]:
            if target.adapter is not None and (harm := target.adapter.hazard(target.profile, case)) is not None:
                raise EngineUnavailable(f"request {case.name!r} is not sent: {harm}")
        return self._cases[key]

    def timing_case(self, target: Target, num_items: int) -> Case:
        """A request of N items for timing: seeded ids, or the items of the user's workload in turn."""
        settings = self._settings
        if settings.workload is None:
            return self.equal_length_case(target, settings.query_tokens, num_items, settings.item_tokens)
        known = self.cases(target)
        items = [item for case in known for item in case.items]
        chosen = tuple(items[i % len(items)] for i in range(num_items))
        first = known[0]
        return Case(f"workload, {num_items} items", first.query, chosen, first.labels, first.pool)

    def equal_length_case(self, target: Target, query_tokens: int, num_items: int, item_tokens: int) -> Case:
        """A seeded request of a given shape."""
        settings = self._settings
        pool = _pool_of(target.vocab_size or cases.ASSUMED_VOCABULARY, (*settings.labels, target.delimiter))
        shape = {"query_tokens": query_tokens, "num_items": num_items, "item_tokens": item_tokens}
        return cases.equal_length_case(seed=settings.seed, **shape, labels=settings.labels, pool=pool)

    def _read(self, target: Target, vocab_size: int) -> tuple[Case, ...]:
        seed, workload, labels = self._settings.seed, self._settings.workload, self._settings.labels
        delimiter = target.delimiter
        if workload is not None:
            return cases.read_workload(
                workload, encode=target.encode, labels=labels, delimiter=delimiter, vocab_size=vocab_size
            )
        empty_item = target.adapter is not None and target.adapter.allows_empty_items
        return cases.built_in_cases(
            seed=seed, labels=labels, delimiter=delimiter, vocab_size=vocab_size, empty_item=empty_item
        )


_pool_of = cache(cases.token_pool)
