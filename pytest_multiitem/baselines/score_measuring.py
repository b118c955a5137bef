"""A run's scores, in the form in which they are saved: every request of its workload, from each of its servers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from typing import Any

from pytest_multiitem.adapters.attestation import Attestation
from pytest_multiitem.adapters.base import Profile
from pytest_multiitem.baselines.golden import GoldenScores, ScoredRequest, ScoredServer, sha256_of, workload_sha256
from pytest_multiitem.errors import EngineUnavailable
from pytest_multiitem.gates.evidence import Baseline, baseline
from pytest_multiitem.results.store import utc_now
from pytest_multiitem.scoring.cases import Case, request_sha256
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.scoring.vocabulary import ATTACHED
from pytest_multiitem.settings.settings import Settings
from pytest_multiitem.targets.run import Run
from pytest_multiitem.targets.target import Target

#: Settings that scores depend on.
SETTINGS = (
    "engine", "model", "models", "dtype", "device", "semantics", "labels", "delimiter", "seed", "workload",
    "server_chunk_size", "segment_threshold", "profiles", "multi_profile", "serial_profile",
)  # fmt: skip


def measure(
    run: Run, name: str, *, run_id: str, machine: Mapping[str, Any], versions: Mapping[str, str]
) -> GoldenScores:
    """Score the workload on every packed and serial server of the run's settings; what the gates have scored already
    is not sent again. A server that cannot run here is ``missing``, with the reason.

    Raises ScoreFailure, ServerError or UsageError where a server does not start or answer.
    """
    servers: dict[str, ScoredServer] = {}
    requests: list[ScoredRequest] = []
    missing: dict[str, str] = {}
    for profile in profiles_of(run.settings):
        try:
            target = run.target(profile)
            cases = run.cases(target)
        except EngineUnavailable as error:
            missing[name_of(profile)] = str(error)
            continue
        server = name_of(profile)
        scored = [(case, _scored(run, target, case)) for case in cases]
        servers[server] = _described(run, target, Attestation.joined([found.attestation for _, found in scored]))
        requests += [_request(server, case, found) for case, found in scored]
    golden = GoldenScores(
        name=name,
        saved_at_utc=utc_now(),
        workload_sha256=workload_sha256({each.request: each.request_sha256 for each in requests}),
        servers=servers,
        requests=requests,
        missing=missing,
        run_id=run_id,
        machine=dict(machine),
        versions=dict(versions),
        settings={name: run.settings.shown(name) for name in SETTINGS},
    )
    golden.scores_sha256 = sha256_of(golden)
    return golden


def profiles_of(settings: Settings) -> list[Profile]:
    """The packed servers of the settings, and the serial one of each backend; those that are attached, where a URL is
    given."""
    semantics = Semantics(settings.semantics)
    if settings.multi_url is not None or settings.serial_url is not None:
        named = settings.origins["mask_impl"] != "default"
        masks = settings.mask_impl[:1] if named else (ATTACHED,)
        packed = [Profile("multi", ATTACHED, mask, 0, semantics) for mask in masks if settings.multi_url is not None]
        return [*packed, *([Profile("serial", ATTACHED)] if settings.serial_url is not None else [])]
    return [
        profile
        for model, backend in product(settings.models or (None,), settings.backend)
        for profile in (
            *(
                Profile("multi", backend, mask, chunk, semantics, model)
                for mask, chunk in product(settings.mask_impl, settings.server_chunk_size)
            ),
            Profile("serial", backend, model=model),
        )
    ]


def name_of(profile: Profile) -> str:
    """What a server is called in every run: of an attached one, which mask it has is its own word."""
    return replace(profile, mask_impl=None if profile.backend == ATTACHED else profile.mask_impl).label


def _scored(run: Run, target: Target, case: Case) -> Baseline:
    """A request as such a server is asked: the serial one with the query whose scores the packed one must give."""
    if target.profile.role == "serial":
        semantics = Semantics(run.settings.semantics)
        case = replace(case, query=tuple(semantics.serial_query(case.query, target.delimiter)))
    return baseline(target, case, run.record)


def _request(server: str, case: Case, found: Baseline) -> ScoredRequest:
    return ScoredRequest(
        server=server,
        request=case.name,
        request_sha256=_sha256(case),
        labels=list(case.labels),
        scores=found.scores.tolist(),
        noise_floor=found.noise if math.isfinite(found.noise) else None,
    )


def _sha256(case: Case) -> str:
    return request_sha256(
        {"query": list(case.query), "items": [list(item) for item in case.items], "labels": list(case.labels)}
    )


def _described(run: Run, target: Target, executed: Attestation) -> ScoredServer:
    profile = target.profile
    return ScoredServer(
        role=profile.role,
        engine=target.engine,
        version=target.engine_version(run.settings),
        backend=profile.backend,
        mask_attested=executed.mask,
        attestation_problem=executed.problem,
        server_chunk_size=profile.chunk_size,
        semantics=run.settings.semantics if profile.semantics is None else profile.semantics.value,
        delimiter=target.delimiter,
        model=target.model,
        dtype=target.dtype,
    )
