"""Whether a canonical workload is what it says, and can tell items apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from pytest_multiitem.comparison.files import Artefact
from pytest_multiitem.comparison.records import Workload, WorkloadRequest
from pytest_multiitem.comparison.workload import degenerate, request_sha256

#: What other tools call the checksum of a file's only request.
_ONLY_REQUEST = ("request_sha256", "sha256")


def summary(workload: Workload) -> str:
    """What it holds, in a few words."""
    shapes = set()
    for request in workload.requests:
        lengths = {len(item) for item in request.items_token_ids} or {0}
        extremes = "-".join(map(str, sorted({min(lengths), max(lengths)})))
        shapes.add(f"{len(request.query_token_ids)}/{len(request.items_token_ids)}/{extremes}")
    count = len(workload.requests)
    return f"{count} request{'s' * (count != 1)} of {', '.join(sorted(shapes))}"


def problems(artefact: Artefact[Workload]) -> list[str]:
    """What is wrong with a workload whose schema holds."""
    workload = artefact.record
    if not workload.requests:
        return ["requests: there is none"]
    found = [
        f"request {name}: {count} requests are called that"
        for name, count in Counter(request.request_id for request in workload.requests).items()
        if count > 1
    ]
    found += _checksum_problems(workload, artefact.content["requests"])
    for request in workload.requests:
        found += [f"request {request.request_id}: {problem}" for problem in _request_problems(request, workload)]
    return found + degenerate(workload)


def _checksum_problems(workload: Workload, raw_requests: list[dict[str, Any]]) -> Iterator[str]:
    names = [request.request_id for request in workload.requests]
    also = _ONLY_REQUEST if len(names) == 1 else ()
    for name, raw in zip(names, raw_requests, strict=True):
        given = {key: workload.checksums[key] for key in (name, *also) if key in workload.checksums}
        if not given:
            yield f"request {name}: it has no checksum"
        actual = request_sha256(raw)
        for key, checksum in given.items():
            if checksum != actual:
                yield f"request {name}: the checksum {key!r} is {checksum:.64}, but its content has {actual}"
    for key in workload.checksums:
        if key not in names and key not in also:
            yield f"checksums: {key!r} is no request of this file"


def _request_problems(request: WorkloadRequest, workload: Workload) -> Iterator[str]:
    query, items, labels = request.query_token_ids, request.items_token_ids, request.label_token_ids
    for what, tokens in (("query", query), ("list of items", items), ("list of labels", labels)):
        if not tokens:
            yield f"the {what} is empty"
    if workload.num_items is not None and items and len(items) != workload.num_items:
        yield f"{len(items)} items, but num_items is {workload.num_items}"
    if workload.query_tokens is not None and query and len(query) != workload.query_tokens:
        yield f"a query of {len(query)} tokens, but query_tokens is {workload.query_tokens}"
    other = [index for index, item in enumerate(items) if len(item) != workload.item_tokens]
    if workload.item_tokens is not None and other:
        first = f"item {other[0]} has {len(items[other[0]])} tokens"
        yield f"{first}, but item_tokens is {workload.item_tokens}{_more(other)}"
    if workload.label_token_ids is not None and labels != workload.label_token_ids:
        yield f"labels {labels}, but label_token_ids is {workload.label_token_ids}"
    delimiter = workload.delimiter_token_id
    if delimiter is not None and delimiter in labels:
        yield f"the label {delimiter} is the delimiter"
    if len(set(labels)) < len(labels):
        yield f"labels {labels}: one stands twice"
    content = [("the query", query), *((f"item {i}", item) for i, item in enumerate(items))]
    for what, banned in (("the delimiter", {delimiter} - {None}), ("a label", set(labels) - {delimiter})):
        where = [(name, token) for name, tokens in content for token in tokens if token in banned]
        if where:
            yield f"{where[0][0]} holds {what}, {where[0][1]}{_more(where)}"
    content.append(("the list of labels", labels))
    negative = [(name, token) for name, tokens in content for token in tokens if token < 0]
    if negative:
        yield f"{negative[0][0]} holds {negative[0][1]}, which is no token id{_more(negative)}"


def _more(found: list[Any]) -> str:
    return f" (and {len(found) - 1} more)" if len(found) > 1 else ""
