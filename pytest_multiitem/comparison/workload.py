"""Settings → Workload: the same requests on every machine, and whether they can tell items apart."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

import pytest_multiitem
from pytest_multiitem.comparison import files
from pytest_multiitem.comparison.files import Artefact
from pytest_multiitem.comparison.records import WORKLOAD_SCHEMA, Workload, WorkloadRef, WorkloadRequest
from pytest_multiitem.errors import UsageError
from pytest_multiitem.gates.evidence import score_spread
from pytest_multiitem.inputs import read_bytes
from pytest_multiitem.results.figures import differs
from pytest_multiitem.results.store import utc_now
from pytest_multiitem.scoring.cases import (
    ASSUMED_VOCABULARY,
    checksum_name,
    checksum_names,
    request_sha256,
    token_pool,
    wrong_checksums,
)
from pytest_multiitem.scoring.tokens import content_tokens
from pytest_multiitem.settings.settings import Settings


def generate(
    *,
    model: str = "Qwen/Qwen3-0.6B",
    query_tokens: int = 2000,
    num_items: int = 500,
    item_tokens: int = 20,
    labels: Sequence[int] = (9454, 2753),
    delimiter: int = 151_643,
    apply_softmax: bool = True,
    item_first: bool = False,
    seed: int = 20_260_101,
    tokenizer: str | None = None,
    vocab_size: int | None = None,
    num_requests: int = 1,
) -> Workload:
    """A workload whose requests follow from the options alone; neither the delimiter nor a label stands in content.

    ``tokenizer``: a directory with a tokenizer.json, such a file, or a hub id; content is drawn from its ordinary
    tokens. Without one, content is drawn from the ids of a vocabulary of ``vocab_size`` (default: 30000, which
    every known model exceeds). The first request is the same whatever ``num_requests``.

    Raises UsageError for options that exclude each other or leave too little to draw from.
    """
    for name, count in (("query_tokens", query_tokens), ("num_items", num_items), ("item_tokens", item_tokens),
                        ("num_requests", num_requests)):  # fmt: skip
        if count < 1:
            raise UsageError(f"{name} is {count}; expected at least 1")
    _check_special(labels, delimiter, vocab_size)
    excluded = (*labels, delimiter)
    if tokenizer is None:
        drawn_from = vocab_size or ASSUMED_VOCABULARY
        pool = token_pool(drawn_from, excluded)
    else:
        content = content_tokens(tokenizer, excluded, vocab_size=vocab_size)
        pool, drawn_from = content.ids, vocab_size or content.vocab_size
        _check_special(labels, delimiter, drawn_from)
    # Of all generators at hand, only random.Random(seed).random() is promised to give the same sequence in every
    # version of its library; NumPy's generators and Random.choice are not.
    uniform = random.Random(seed).random

    def draw(length: int) -> list[int]:
        return [pool[int(uniform() * len(pool))] for _ in range(length)]

    requests = [
        WorkloadRequest(
            request_id=f"canonical-{number}",
            query_token_ids=draw(query_tokens),
            items_token_ids=[draw(item_tokens) for _ in range(num_items)],
            label_token_ids=list(labels),
            apply_softmax=apply_softmax,
            item_first=item_first,
        )
        for number in range(num_requests)
    ]
    workload = Workload(
        schema_version=WORKLOAD_SCHEMA,
        generated_at_utc=utc_now(),
        model=model,
        query_tokens=query_tokens,
        num_items=num_items,
        item_tokens=item_tokens,
        delimiter_token_id=delimiter,
        label_token_ids=list(labels),
        tokenizer={"name_or_path": tokenizer, "vocab_size": drawn_from, "content_ids": len(pool)},
        requests=requests,
        checksums={checksum_name(r.request_id): request_sha256(msgspec.to_builtins(r)) for r in requests},
        package_version=pytest_multiitem.__version__,
        seed=seed,
    )
    workload.discrimination = discrimination(workload)
    return workload


def of_run(settings: Settings) -> Workload:
    """The workload that a run's settings describe: the shape of its benchmarks. Raises as `generate` does."""
    return generate(
        model=settings.model or "the embedded engine's tiny checkpoint",
        query_tokens=settings.bench_query_tokens,
        num_items=settings.bench_items,
        item_tokens=settings.item_tokens,
        labels=settings.labels,
        delimiter=settings.delimiter,
        seed=settings.seed,
        vocab_size=settings.vocab_size,
    )


def read(path: Path) -> Artefact[Workload]:
    """Read a workload that is to be sent. Raises UsageError, also for one that is not what it says."""
    artefact = files.read(path, Workload)
    if not artefact.record.requests:
        raise UsageError(f"workload {path} holds no request")
    problem = next(contradictions(artefact), None)
    if problem is not None:
        raise UsageError(f"{path} contradicts itself: {problem}; write one with: multiitem workload")
    return artefact


def reference(artefact: Artefact[Workload]) -> WorkloadRef:
    """What a matrix says of the workload in this file that it measures."""
    raw = artefact.content["requests"]
    several = len(raw) > 1
    return WorkloadRef(
        path=artefact.path.name,
        sha256=file_sha256(artefact.path),
        request_id=None if several else raw[0]["request_id"],
        request_sha256=requests_sha256(raw) if several else request_sha256(raw[0]),
        requests=len(raw) if several else None,
    )


def requests_sha256(raw_requests: Sequence[dict[str, Any]]) -> str:
    """The checksum of several requests: of those of each, a line each."""
    return hashlib.sha256("".join(f"{request_sha256(raw)}\n" for raw in raw_requests).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """The checksum of a file, byte by byte. Raises UsageError where it cannot be read."""
    return hashlib.sha256(read_bytes(path)).hexdigest()


def contradictions(artefact: Artefact[Workload]) -> Iterator[str]:
    """What a workload says of its requests and that is not so."""
    workload, raw_requests = artefact.record, artefact.content["requests"]
    names = [request.request_id for request in workload.requests]
    for name, problem in wrong_checksums(raw_requests, workload.checksums):
        yield f"request {name}: {problem}"
    known = {key for name in names for key in checksum_names(name, len(names))}
    yield from (f"checksums: {key!r} is no request of this file" for key in workload.checksums if key not in known)
    for request in workload.requests:
        yield from (f"request {request.request_id}: {problem}" for problem in _other_shape(request, workload))
    shapes = [(len(request.items_token_ids), len(request.label_token_ids)) for request in workload.requests]
    if workload.scores is not None:
        scored = [(len(scores), len(row)) for scores in workload.scores for row in scores[:1]]
        ragged = any(len(row) != len(scores[0]) for scores in workload.scores for row in scores)
        if ragged or scored != shapes:
            yield f"scores are of {scored}{' and other' if ragged else ''} items and labels, the requests have {shapes}"
            return
    wanted = discrimination(workload)
    for name, value in workload.discrimination.items():
        if name in wanted and (value is None or isinstance(value, bool)):
            yield f"discrimination: {name} is {value}; the requests give {wanted[name]:.9g}"
        elif name in wanted:
            yield from differs(f"discrimination: {name}", value, wanted[name], "the requests give")


def _other_shape(request: WorkloadRequest, workload: Workload) -> Iterator[str]:
    """Where a request has another shape, or other labels, than the file says of all of them."""
    query, items, labels = request.query_token_ids, request.items_token_ids, request.label_token_ids
    if workload.num_items is not None and items and len(items) != workload.num_items:
        yield f"{len(items)} items, but num_items is {workload.num_items}"
    if workload.query_tokens is not None and query and len(query) != workload.query_tokens:
        yield f"a query of {len(query)} tokens, but query_tokens is {workload.query_tokens}"
    other = [index for index, item in enumerate(items) if len(item) != workload.item_tokens]
    if workload.item_tokens is not None and other:
        more = f" (and {len(other) - 1} more)" if other[1:] else ""
        first = f"item {other[0]} has {len(items[other[0]])} tokens"
        yield f"{first}, but item_tokens is {workload.item_tokens}{more}"
    if workload.label_token_ids is not None and labels != workload.label_token_ids:
        yield f"labels {labels}, but label_token_ids is {workload.label_token_ids}"


def discrimination(workload: Workload) -> dict[str, Any]:
    """What tells the items of a request apart, counted; of several requests, the least of each figure.

    ``distinct_items``, ``distinct_item_share`` (of all items), ``distinct_query_tokens`` and
    ``distinct_item_tokens`` (over all items); ``score_spread``, where the scores are known.
    """
    figures = [_figures(request) for request in workload.requests]
    found = {name: min(of[name] for of in figures) for name in (figures[0] if figures else ())}
    if workload.scores is not None:
        found["score_spread"] = score_spread([np.array(scores, dtype=float) for scores in workload.scores])
    return found


def degenerate(workload: Workload) -> list[str]:
    """Why scores of a request cannot differ enough between items for a leak to show; empty where they can."""
    reasons = []
    for request in workload.requests:
        name, count, figures = request.request_id, len(request.items_token_ids), _figures(request)
        if figures["distinct_query_tokens"] == 1 and len(request.query_token_ids) > 1:
            reasons.append(f"request {name}: the query is one token, repeated {len(request.query_token_ids)} times")
        if count == 1:
            reasons.append(f"request {name}: one item; there is nothing to tell it apart from")
        elif count and figures["distinct_item_share"] < 0.5:
            reasons.append(f"request {name}: {figures['distinct_items']} of {count} items are distinct; expected half")
        if request.apply_softmax and len(request.label_token_ids) == 1:
            reasons.append(f"request {name}: softmax over one label makes every score 1")
        if count and figures["distinct_item_tokens"] <= 2:
            reasons.append(f"request {name}: all items are built of {figures['distinct_item_tokens']} distinct tokens")
    return reasons


def doubts(workload: Workload) -> list[str]:
    """As `degenerate`; of a user's own requests, nothing as long as some of them can tell items apart."""
    reasons = degenerate(workload)
    named = [f"request {request.request_id}: " for request in workload.requests]
    some_can = any(not any(reason.startswith(name) for reason in reasons) for name in named)
    return [] if workload.source is not None and some_can else reasons


def head(workload: Workload) -> dict[str, Any]:
    """Everything but the requests and their scores, ``num_items`` of all requests together, and whether softmax is
    asked for, by which scores are judged."""
    content: dict[str, Any] = msgspec.to_builtins(workload)
    del content["requests"], content["scores"]
    if len(workload.requests) > 1:  # what is measured is all of them
        content["num_items"] = sum(len(request.items_token_ids) for request in workload.requests)
    return {**content, "apply_softmax": all(request.apply_softmax for request in workload.requests)}


def _figures(request: WorkloadRequest) -> dict[str, Any]:
    items = request.items_token_ids
    distinct = len({tuple(item) for item in items})
    return {
        "distinct_items": distinct,
        "distinct_item_share": distinct / len(items) if items else 0.0,
        "distinct_query_tokens": len(set(request.query_token_ids)),
        "distinct_item_tokens": len({token for item in items for token in item}),
    }


def _check_special(labels: Sequence[int], delimiter: int, vocab_size: int | None) -> None:
    """Labels and delimiter are different ids of the vocabulary, where that is known. Raises UsageError."""
    if not labels:
        raise UsageError("there is no label; expected at least one token id: --labels ID,…")
    if len(set(labels)) < len(labels):
        raise UsageError(f"labels {', '.join(map(str, labels))}: one stands twice; expected different token ids")
    if delimiter in labels:
        raise UsageError(f"{delimiter} is both a label and the delimiter; choose another --labels or --delimiter")
    for name, flag, token in (*(("label", "--labels", i) for i in labels), ("delimiter", "--delimiter", delimiter)):
        if token < 0:
            raise UsageError(f"{name} {token} is no token id; expected 0 or more; choose another {flag}")
        if vocab_size is not None and token >= vocab_size:
            raise UsageError(
                f"{name} {token} is outside the vocabulary of {vocab_size} tokens; expected 0 to {vocab_size - 1}; "
                f"choose another {flag} or --vocab-size"
            )
