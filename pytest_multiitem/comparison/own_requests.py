"""A user's own requests as a canonical workload, with where they came from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import msgspec

import pytest_multiitem
from pytest_multiitem.comparison.records import WORKLOAD_SCHEMA, Workload, WorkloadRequest
from pytest_multiitem.comparison.workload import discrimination
from pytest_multiitem.errors import UsageError
from pytest_multiitem.results.store import utc_now
from pytest_multiitem.scoring.cases import checksum_name, request_sha256
from pytest_multiitem.settings.settings import Settings
from pytest_multiitem.traffic.encoding import ANY_VOCABULARY, Request
from pytest_multiitem.traffic.loading import load

T = TypeVar("T")


def canonical_of(settings: Settings, *, served: str | None = None, vocab_size: int | None = None) -> Workload | None:
    """The requests of the settings' workload, those that are drawn of it, as a canonical workload; None where the
    settings have no workload.

    ``served``: where the served model's tokenizer may lie; ``vocab_size``: of the server, where it is known. Raises
    UsageError of one line for a request that cannot be used.
    """
    limit = settings.vocab_size or vocab_size or ANY_VOCABULARY
    own = load(settings, delimiter=settings.delimiter, vocab_size=limit, served=served)
    if own is None:
        return None
    counts = {len(request.labels) for request in own.requests}
    if len(counts) > 1:
        listed = " and ".join(map(str, sorted(counts)))
        raise UsageError(
            f"workload {settings.workload}: its requests have {listed} labels; rows of scores are compared, and need "
            "one number of labels: give each kind a file of its own"
        )
    requests = _named_once([_record(request) for request in own.requests])
    made = Workload(
        schema_version=WORKLOAD_SCHEMA,
        generated_at_utc=utc_now(),
        model=settings.model,
        query_tokens=_alike([len(r.query_token_ids) for r in requests]),
        num_items=_alike([len(r.items_token_ids) for r in requests]),
        item_tokens=_alike([len(item) for r in requests for item in r.items_token_ids]),
        delimiter_token_id=settings.delimiter,
        label_token_ids=_alike([r.label_token_ids for r in requests]),
        tokenizer={"name_or_path": own.source.tokenizer, "vocab_size": own.vocab_size},
        requests=requests,
        checksums={checksum_name(r.request_id): request_sha256(msgspec.to_builtins(r)) for r in requests},
        package_version=pytest_multiitem.__version__,
        source=own.source,
    )
    made.discrimination = discrimination(made)
    return made


def _record(request: Request) -> WorkloadRequest:
    return WorkloadRequest(
        request_id=request.name,
        query_token_ids=list(request.query),
        items_token_ids=[list(item) for item in request.items],
        label_token_ids=list(request.labels),
        apply_softmax=request.apply_softmax,
        item_first=request.item_first,
    )


def _named_once(requests: list[WorkloadRequest]) -> list[WorkloadRequest]:
    """Requests whose names differ: a name that comes again gets its number."""
    taken: set[str] = set()
    for number, request in enumerate(requests):
        while request.request_id in taken:
            request.request_id = f"{request.request_id}, request {number}"
        taken.add(request.request_id)
    return requests


def _alike(values: Sequence[T]) -> T | None:
    """What all values are; None where they differ."""
    return values[0] if values and all(value == values[0] for value in values) else None
