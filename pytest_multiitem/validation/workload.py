"""Whether a canonical workload is what it says, and can tell items apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from pytest_multiitem.comparison import workload as canonical
from pytest_multiitem.comparison.files import Artefact
from pytest_multiitem.comparison.records import Workload, WorkloadRequest
from pytest_multiitem.scoring.cases import checksum_names


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
    counted = Counter(request.request_id for request in workload.requests)
    found = [f"request {name}: {count} requests are called that" for name, count in counted.items() if count > 1]
    found += canonical.contradictions(artefact)
    for request in workload.requests:
        name = request.request_id
        if not any(key in workload.checksums for key in checksum_names(name, len(workload.requests))):
            found.append(f"request {name}: it has no checksum")
        found += [f"request {name}: {problem}" for problem in _request_problems(request, workload)]
    return found + canonical.doubts(workload)


def _request_problems(request: WorkloadRequest, workload: Workload) -> Iterator[str]:
    query, items, labels = request.query_token_ids, request.items_token_ids, request.label_token_ids
    for what, tokens in (("query", query), ("list of items", items), ("list of labels", labels)):
        if not tokens:
            yield f"the {what} is empty"
    delimiter = workload.delimiter_token_id
    if delimiter is not None and delimiter in labels:
        yield f"the label {delimiter} is the delimiter"
    if len(set(labels)) < len(labels):
        yield f"labels {labels}: one stands twice"
    content = [("the query", query), *((f"item {i}", item) for i, item in enumerate(items))]
    own_content = workload.source is not None  # a user's text may name the labels
    for what, banned in (
        ("the delimiter", {delimiter} - {None}),
        ("a label", set() if own_content else set(labels) - {delimiter}),
    ):
        where = [(name, token) for name, tokens in content for token in tokens if token in banned]
        if where:
            yield f"{where[0][0]} holds {what}, {where[0][1]}{_more(where)}"
    content.append(("the list of labels", labels))
    negative = [(name, token) for name, tokens in content for token in tokens if token < 0]
    if negative:
        yield f"{negative[0][0]} holds {negative[0][1]}, which is no token id{_more(negative)}"


def _more(found: list[Any]) -> str:
    return f" (and {len(found) - 1} more)" if len(found) > 1 else ""
