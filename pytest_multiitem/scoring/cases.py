"""The requests that gates are measured on: built-in seeded cases, and what is made of any request."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import cycle
from typing import Any

import numpy as np

from pytest_multiitem.errors import UsageError

TokenIds = tuple[int, ...]

#: Token ids that are drawn from where a server does not tell its vocabulary; every known Qwen model has more.
ASSUMED_VOCABULARY = 30_000
#: The schema of a workload that is one JSON file.
CANONICAL_WORKLOAD = "canonical_score_workload_v1"
#: Tokens of the query, and of each item, of a request that is traffic around another, at most.
_TRAFFIC_QUERY = 48
_TRAFFIC_LENGTHS = (8, 11, 3, 6)


@dataclass(frozen=True)
class Case:
    """One request as token ids: a query, N items, K labels. ``pool``: ids that mutations draw from. ``texts``: what the
    N items say, for people; empty where they are ids alone."""

    name: str
    query: TokenIds
    items: tuple[TokenIds, ...]
    labels: tuple[int, ...]
    pool: TokenIds
    texts: tuple[str, ...] = field(default=(), compare=False)

    def with_item(self, index: int, item: TokenIds) -> Case:
        """The same case with one item replaced."""
        return replace(self, items=(*self.items[:index], item, *self.items[index + 1 :]))


@dataclass(frozen=True)
class Mutation:
    """One item of a case replaced. ``kind``: "same_length", "longer", "shorter"."""

    kind: str
    index: int
    case: Case


def token_pool(vocab_size: int, excluded: Sequence[int]) -> TokenIds:
    """Ordinary token ids to draw from: inside the vocabulary, none of the excluded ones (delimiter,
    labels), and below the top of the vocabulary, where special tokens live.

    Raises UsageError where fewer than two are left: an item could not be mutated.
    """
    top = vocab_size - vocab_size // 50 if vocab_size >= 1000 else vocab_size
    low = 1000 if top > 4000 else 1
    banned = set(excluded)
    pool = tuple(i for i in range(low, top) if i not in banned)
    if len(pool) < 2:
        raise UsageError(f"a vocabulary of {vocab_size} leaves {len(pool)} tokens to draw items from; 2 are needed")
    return pool


def built_in_cases(
    *,
    seed: int,
    labels: Sequence[int],
    delimiter: int,
    vocab_size: int,
    empty_item: bool,
    mixed_items: int = 26,
    equal_items: int = 32,
) -> tuple[Case, ...]:
    """Two seeded cases: ``mixed_items`` of 1 to 40 tokens (one of them empty where the engine allows it), and
    ``equal_items`` of 20."""
    pool = token_pool(vocab_size, [*labels, delimiter])
    rng = np.random.default_rng(seed)
    draw = partial(drawn, rng, pool)
    lengths = [1, *rng.integers(1, 41, mixed_items - 2).tolist(), 40]
    if empty_item:
        lengths[len(lengths) // 2 + 1] = 0
    mixed = Case("mixed lengths", draw(120), tuple(draw(n) for n in lengths), tuple(labels), pool)
    equal = Case("equal lengths", draw(60), tuple(draw(20) for _ in range(equal_items)), tuple(labels), pool)
    return mixed, equal


def equal_length_case(
    *, seed: int, query_tokens: int, num_items: int, item_tokens: int, labels: Sequence[int], pool: TokenIds
) -> Case:
    """A seeded case of ``num_items`` items of ``item_tokens`` tokens each, for timing."""
    draw = partial(drawn, np.random.default_rng(seed), pool)
    query, items = draw(query_tokens), tuple(draw(item_tokens) for _ in range(num_items))
    return Case(f"{query_tokens}/{num_items}/{item_tokens}", query, items, tuple(labels), pool)


def first_items(cases: Sequence[Case], num_items: int) -> tuple[Case, ...]:
    """The first N items of requests, in the requests that they stand in: each with its own query, the last one cut;
    from the first request again where all together have fewer."""
    chosen: list[Case] = []
    left = num_items
    for case in cycle(cases):
        chosen.append(replace(case, items=case.items[:left]))
        left -= len(chosen[-1].items)
        if left == 0:
            break
    return tuple(chosen)


def drawn(rng: np.random.Generator, pool: TokenIds, length: int) -> TokenIds:
    """So many ids of a pool, each drawn anew."""
    return tuple(pool[i] for i in rng.integers(0, len(pool), length).tolist())


def mutations(case: Case, kinds: Sequence[str], *, seed: int) -> list[Mutation]:
    """Mutate the first, a middle and the last item of a case, in every kind that applies.

    Every token of the mutated item changes, so that whatever leaks of it shows. A one-token item
    has no shorter form here; an empty item can only become longer.
    """
    count = len(case.items)
    rng = np.random.default_rng(seed)

    def other(item: TokenIds, length: int) -> TokenIds:
        tokens = list(drawn(rng, case.pool, length))
        for at, old in enumerate(item[:length]):
            while tokens[at] == old and len(set(case.pool)) > 1:
                tokens[at] = case.pool[int(rng.integers(0, len(case.pool)))]
        return tuple(tokens)

    mutated = []
    for index in dict.fromkeys((0, count // 2, count - 1)):
        item = case.items[index]
        longer = len(item) + 1 + int(rng.integers(4, 30))
        lengths = {"same_length": len(item), "longer": longer, "shorter": len(item) // 2}
        for kind in kinds:
            length = lengths[kind]
            if length == 0 or (kind == "shorter" and length >= len(item)):
                continue
            mutated.append(Mutation(kind, index, case.with_item(index, other(item, length))))
    return mutated


def unrelated(case: Case, number: int = 0) -> Case:
    """Another request, for traffic around ``case``: a reversed query, and four of its items in other places, cut.

    ``number``: which of them; one differs from the next. All are of one shape (at most 48 + 4 × 11
    tokens), so that a server that compiles for shapes does it once; items differ in length, so that their boundaries
    are nobody else's. Any server can score them: no empty item, and no token that ``case`` and its pool do not hold.
    """
    filled = [item for item in case.items if item] or [case.query[:1]]
    first = 1 + number % max(1, len(filled) - 1)  # place 0 never holds item 0, where there is another
    chosen = (filled[(first + place) % len(filled)] for place in range(len(_TRAFFIC_LENGTHS)))
    marks = case.pool or case.query
    query = (marks[number % len(marks)], *case.query[::-1][: _TRAFFIC_QUERY - 1])
    items = tuple(item[:length] for item, length in zip(chosen, _TRAFFIC_LENGTHS, strict=True))
    return Case(f"{case.name}, unrelated {number}", query, items, case.labels, case.pool)


def request_sha256(raw_request: dict[str, Any]) -> str:
    """The checksum of a request as it stands in a canonical workload, with all fields: SHA-256 of its canonical JSON.

    Canonical: keys sorted, no spaces, characters beyond ASCII escaped.
    """
    canonical = json.dumps(raw_request, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def checksum_name(request_id: str) -> str:
    """Under which name the checksum of a request stands in a canonical workload."""
    return f"{request_id}_sha256"


def checksum_names(request_id: str, requests: int) -> tuple[str, ...]:
    """Under which names the checksum of a request may stand in a file of so many: other tools have some for the only
    one."""
    named = (checksum_name(request_id), request_id)
    return (*named, "request_sha256", "sha256") if requests == 1 else named


def wrong_checksums(raw_requests: Sequence[dict[str, Any]], checksums: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The requests of a canonical workload, by id, that are not what their checksums say."""
    for raw in raw_requests:
        name = raw["request_id"]
        for key in checksum_names(name, len(raw_requests)):
            if key in checksums and checksums[key] != (actual := request_sha256(raw)):
                yield name, f"the checksum {key!r} is {checksums[key]!s:.64}, but its content has {actual}"
