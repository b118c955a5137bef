"""The requests that gates are measured on: built-in seeded cases, or a user's own traffic."""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from pytest_multiitem.errors import UsageError, did_you_mean
from pytest_multiitem.inputs import decode_json, read_bytes

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


def read_workload(
    path: Path, *, encode: Callable[[str], list[int]] | None, labels: Sequence[int], delimiter: int, vocab_size: int
) -> tuple[Case, ...]:
    """A user's requests from JSON lines: ``query`` and ``items`` (text, or token ids), optional
    ``label_token_ids`` (default: ``labels``) and ``id``; or those of a canonical workload file.

    ``encode`` turns text into token ids; None where no tokenizer is at hand. Raises UsageError
    naming the line, or the request, and what is wrong with it.
    """
    content = read_bytes(path, "workload")
    cases = []
    for where, raw in _raw_requests(path, content.removeprefix(codecs.BOM_UTF8)):

        def wrong(problem: str, where: str = where) -> UsageError:
            return UsageError(f"workload {path}, {where}: {problem}")

        if not isinstance(raw, dict):
            raise wrong(f"expected an object with query and items, got {type(raw).__name__}")
        if not isinstance(raw.get("items"), list) or not raw["items"]:
            raise wrong("'items' must be a list with at least one item")

        def ids(value: Any, what: str, raise_: Callable[[str], UsageError] = wrong) -> TokenIds:
            if isinstance(value, str):
                if encode is None:
                    raise raise_(f"{what} is text, and the served model has no tokenizer here; give token ids")
                value = encode(value)
            if not isinstance(value, list) or any(type(i) is not int for i in value):
                raise raise_(f"{what} must be text or a list of token ids, got {value!r:.80}")
            bad = next((i for i in value if not 0 <= i < vocab_size), None)
            if bad is not None:
                raise raise_(f"{what} holds token id {bad}; expected 0 to {vocab_size - 1}")
            if delimiter in value:
                raise raise_(f"{what} holds the delimiter {delimiter}, which cannot stand in content")
            return tuple(value)

        query = ids(raw.get("query"), "'query'")
        if not query:
            raise wrong("'query' is empty")
        items = tuple(ids(item, f"items[{i}]") for i, item in enumerate(raw["items"]))
        own_labels = raw.get("label_token_ids", list(labels))
        if not isinstance(own_labels, list) or not own_labels:
            raise wrong(f"'label_token_ids' must be a list with at least one token id, got {own_labels!r:.80}")
        own_labels = ids(own_labels, "'label_token_ids'")
        cases.append(Case(str(raw.get("id") or where), query, items, own_labels, ()))
    if not cases:
        raise UsageError(f"workload {path} holds no request; expected one JSON object a line")
    pool = tuple(sorted({token for case in cases for item in case.items for token in item}))
    if len(pool) < 2:
        raise UsageError(f"workload {path}: all items together hold {len(pool)} distinct token; nothing to mutate")
    return tuple(replace(case, pool=pool) for case in cases)


#: Of a request in JSON lines.
_FIELDS = ("query", "items", "label_token_ids", "id")


def _raw_requests(path: Path, content: bytes) -> Iterator[tuple[str, Any]]:
    """Every request of a workload: where it stands, and its fields, named as in JSON lines."""
    try:
        whole = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        whole = None  # several lines
    if isinstance(whole, dict) and "schema_version" in whole and "query" not in whole:
        try:
            yield from _canonical_requests(path, decode_json(content))
        except ValueError as error:
            raise UsageError(f"workload {path} is not valid JSON: {error}") from None
        return
    # Only a line feed ends a line: JSON text may hold the further separators that str.splitlines knows.
    for number, line in enumerate(content.split(b"\n"), 1):
        if line.strip():
            try:
                request = decode_json(line)
            except ValueError as error:
                raise UsageError(
                    f"workload {path}, line {number}: not valid JSON ({error}); expected one request object a line"
                ) from None
            names = [*request] if isinstance(request, dict) else []
            unknown = next((name for name in names if name not in (*_FIELDS, "schema_version")), None)
            if unknown is not None:
                hint = did_you_mean(unknown, _FIELDS)
                raise UsageError(
                    f"workload {path}, line {number}: there is no field {unknown!r:.80}{hint}; "
                    f"expected {', '.join(_FIELDS)}"
                )
            yield f"line {number}", request


def _canonical_requests(path: Path, workload: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    if workload["schema_version"] != CANONICAL_WORKLOAD:
        raise UsageError(
            f"workload {path} is a {workload['schema_version']!r:.80} file; expected JSON lines of requests, or a "
            f"{CANONICAL_WORKLOAD} file"
        )
    if not isinstance(workload.get("requests"), list):
        raise UsageError(f"workload {path}: 'requests' must be a list; write a workload with: multiitem workload")
    checksums = workload.get("checksums")
    named = [raw for raw in workload["requests"] if isinstance(raw, dict) and isinstance(raw.get("request_id"), str)]
    for name, problem in wrong_checksums(named, checksums if isinstance(checksums, dict) else {}):
        raise UsageError(f"workload {path}, request {name!r:.80}: {problem}; write a workload with: multiitem workload")
    names = {"request_id": "id", "query_token_ids": "query", "items_token_ids": "items"}
    for index, raw in enumerate(workload["requests"]):
        fields = {names.get(key, key): value for key, value in raw.items()} if isinstance(raw, dict) else raw
        yield f"requests[{index}]", fields


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
