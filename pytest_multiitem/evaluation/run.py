"""One evaluation from its options to its file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest_multiitem
from pytest_multiitem.adapters.base import choose_engine
from pytest_multiitem.errors import UsageError
from pytest_multiitem.evaluation import records
from pytest_multiitem.evaluation.measure import measure
from pytest_multiitem.evaluation.records import EVALUATION_SCHEMA, Evaluation, Isolation
from pytest_multiitem.evaluation.requests import Requests, Shape, built_in, workload
from pytest_multiitem.results.machine import machine_info
from pytest_multiitem.results.store import utc_now
from pytest_multiitem.scoring.cases import ASSUMED_VOCABULARY
from pytest_multiitem.targets.endpoint import UNKNOWN, OneItemClient, Said, WholeRequestClient, base_url, connect, told
from pytest_multiitem.targets.target import Target


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the user asks for. ``timeout``: seconds a request may take, whole. None: what the server says counts,
    or nothing is wanted."""

    mode: Literal["multi", "serial"]
    url: str
    output: Path
    labels: tuple[int, ...]
    delimiter: int
    semantics: str | None
    seed: int
    query_tokens: int
    item_tokens: int
    items: tuple[int, ...]
    timed_runs: int
    warmup_runs: int
    model: str | None
    backend: str | None
    engine: str | None
    vocab_size: int | None
    workload: Path | None
    timeout: float
    api_key: str | None
    ca_file: Path | None


def evaluate(options: Options, *, say: Callable[[str], None]) -> Evaluation:
    """Measure an endpoint and write its file, whole or with the failure that ended it.

    Raises UsageError where the options cannot be used; then nothing is written.
    """
    url = base_url(options.url)
    records.check_writable(options.output)
    kind = WholeRequestClient if options.mode == "multi" else OneItemClient
    with kind(url, timeout=options.timeout, api_key=options.api_key, ca_file=options.ca_file) as client:
        engine = None if options.engine is None else choose_engine(options.engine)
        said = Said(options.model, options.backend, options.semantics, engine, options.vocab_size)
        target = connect(options.mode, client, said, options.delimiter)
        requests = _requests(options, target)
        evaluation = _blank(options, target, requests)
        try:
            measure(
                target,
                requests,
                evaluation,
                seed=options.seed,
                counts=options.items,
                warmup_runs=options.warmup_runs,
                timed_runs=options.timed_runs,
                say=say,
            )
        finally:
            records.write(options.output, evaluation)
    return evaluation


def _requests(options: Options, target: Target) -> Requests:
    shape = Shape(
        seed=options.seed,
        labels=options.labels,
        delimiter=options.delimiter,
        vocab_size=target.vocab_size or ASSUMED_VOCABULARY,
        query_tokens=options.query_tokens,
        item_tokens=options.item_tokens,
        counts=options.items,
    )
    if options.workload is None:
        return built_in(shape)
    requests = workload(options.workload, shape, target.encode)
    for case in requests.cases:
        if target.adapter is not None and (harm := target.adapter.hazard(target.profile, case)) is not None:
            raise UsageError(f"request {case.name!r} is not sent: {harm}")
    return requests


def _blank(options: Options, target: Target, requests: Requests) -> Evaluation:
    """An evaluation in which nothing is measured yet."""
    semantics = target.profile.semantics
    return Evaluation(
        mode=options.mode,
        url=options.url,
        model=options.model or target.model,
        labels=list(requests.cases[0].labels),
        delimiter=options.delimiter,
        isolation=Isolation(query_ids=[], item_ids=[]),
        performance={},
        schema_version=EVALUATION_SCHEMA,
        created_at_utc=utc_now(),
        package_version=pytest_multiitem.__version__,
        semantics=None if semantics is None else semantics.value,  # type: ignore[arg-type]
        backend=None if target.profile.backend == UNKNOWN else target.profile.backend,
        seed=options.seed,
        warmup_runs=options.warmup_runs,
        server=told(target),
        machine=machine_info(),
    )
