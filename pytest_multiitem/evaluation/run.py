"""One evaluation from its options to its file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest_multiitem
from pytest_multiitem.adapters.base import choose_engine
from pytest_multiitem.evaluation.clients import OneItemClient
from pytest_multiitem.evaluation.measure import measure
from pytest_multiitem.evaluation.records import EVALUATION_SCHEMA, Evaluation, Isolation, check_writable
from pytest_multiitem.evaluation.requests import Requests, requests_for
from pytest_multiitem.results.machine import machine_info
from pytest_multiitem.results.store import utc_now, write_record
from pytest_multiitem.settings.settings import Settings
from pytest_multiitem.targets.attach import UNKNOWN, attach, base_url, client_of
from pytest_multiitem.targets.target import Target
from pytest_multiitem.transport.client import ScoreClient

#: What of a server's own description is kept; the rest may hold keys and paths.
_DESCRIPTION = (
    "engine", "version", "backend", "device", "dtype", "vocab_size", "scoring_mode", "semantics", "tp_size",
    "attention_backend", "multi_item_mask_impl", "multi_item_scoring_chunk_size", "multi_item_scoring_delimiter",
    "multi_item_enable_prefill_extend", "multi_item_extend_batch_size", "enable_mis", "versions",
)  # fmt: skip


def evaluate(
    settings: Settings, *, mode: Literal["multi", "serial"], url: str, output: Path, say: Callable[[str], None]
) -> Evaluation:
    """Measure an endpoint and write its file, whole or with the failure that ended it.

    ``settings``: those that the user gave count as what is said of the server, as `targets.attach` reads them. Raises
    UsageError where they cannot be used; then nothing is written.
    """
    address = base_url(url)
    check_writable(output)
    engine = None
    if settings.origins["engine"] != "default":
        engine = choose_engine(settings.engine)
        settings = engine.fit(replace(settings, multi_url=address))  # its launch profiles declare its semantics
    kind = ScoreClient if mode == "multi" else OneItemClient
    with client_of(address, settings, kind=kind) as client:
        target = attach(mode, client, settings, engine)
        requests = requests_for(settings, target)
        evaluation = _blank(settings, target, requests, mode=mode)
        try:
            measure(target, requests, evaluation, settings, say)
        finally:
            write_record(output, evaluation)
    return evaluation


def _blank(settings: Settings, target: Target, requests: Requests, *, mode: Literal["multi", "serial"]) -> Evaluation:
    """An evaluation in which nothing is measured yet."""
    semantics = target.profile.semantics
    return Evaluation(
        mode=mode,
        url=target.url,
        model=settings.model or target.model,
        labels=list(requests.cases[0].labels),
        delimiter=target.delimiter,
        isolation=Isolation(query_ids=[], item_ids=[]),
        performance={},
        schema_version=EVALUATION_SCHEMA,
        created_at_utc=utc_now(),
        package_version=pytest_multiitem.__version__,
        semantics=None if semantics is None else semantics.value,  # type: ignore[arg-type]
        backend=None if target.profile.backend == UNKNOWN else target.profile.backend,
        seed=settings.seed,
        traffic=requests.source,
        warmup_runs=settings.bench_warmup_runs,
        server={name: target.info[name] for name in _DESCRIPTION if name in target.info},
        machine=machine_info(),
    )
