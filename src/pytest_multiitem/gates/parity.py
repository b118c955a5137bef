"""Agreement between two servers: the two backends, or the two mask implementations of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pytest_multiitem.client import Scores
from pytest_multiitem.gates.base import Evidence, Gate
from pytest_multiitem.gates.measurement import Measurement, Recorder, max_abs, score_spread
from pytest_multiitem.scoring.cases import Case
from pytest_multiitem.servers.target import Attestation, Target, declared_semantics

_EVIDENCE = frozenset({"noise_floor", "score_spread"})

JAX_SERIAL_VS_TORCH_SERIAL = Gate(
    "jax_serial_vs_torch_serial_le_0p02",
    "max abs score difference, JAX serial vs PyTorch serial on the same checkpoint",
    "<=",
    0.02,
    evidence=_EVIDENCE,
)
JAX_MULTI_VS_TORCH_MULTI_SEMANTIC = Gate(
    "jax_multi_vs_torch_multi_semantic_le_0p02",
    "max abs score difference, JAX packed vs PyTorch serial on the packed semantics' context",
    "<=",
    0.02,
    evidence=_EVIDENCE,
)
CROSS_BACKEND_MAX_ABS = Gate(
    "cross_backend_max_abs_le_0p02",
    "max abs score difference between the backends at one client chunk size",
    "<=",
    0.02,
    evidence=_EVIDENCE,
)
CROSS_BACKEND_MEAN_ABS = Gate(
    "cross_backend_mean_abs_le_0p01",
    "mean abs score difference between the backends at one client chunk size",
    "<=",
    0.01,
    evidence=_EVIDENCE,
)
SEGMENT_VS_DENSE = Gate(
    "segment_vs_dense_le_1e_4",
    "max abs score difference, segment vs dense",
    "<=",
    1e-4,
    evidence=_EVIDENCE,
)
GATES = (
    JAX_SERIAL_VS_TORCH_SERIAL,
    JAX_MULTI_VS_TORCH_MULTI_SEMANTIC,
    CROSS_BACKEND_MAX_ABS,
    CROSS_BACKEND_MEAN_ABS,
    SEGMENT_VS_DENSE,
)


@dataclass(frozen=True, eq=False)
class Comparison:
    """All scores of two servers on the same requests; ``differences``: their absolute differences."""

    left: Target
    right: Target
    differences: Scores
    evidence: Evidence
    attestation: Attestation
    samples: dict[str, int]
    client_chunk_size: int | None


def compare(
    left: Target,
    right: Target,
    cases: Sequence[Case],
    *,
    delimiter: int,
    record: Recorder,
    client_chunk_size: int | None = None,
) -> Comparison:
    """Score every case twice on both sides; ``left`` is the side under test.

    Where ``left`` packs and ``right`` is serial, ``right`` scores the context that the packed
    semantics gives an item. ``client_chunk_size``: items per request (None: all in one).
    """
    aligned = left.profile.role != "serial" and right.profile.role == "serial"
    differences, floors, bases = [], [], []
    with left.attest() as seen_left, right.attest() as seen_right:
        for case in cases:
            other = case
            if aligned:
                query = declared_semantics(left).serial_query(case.query, delimiter)
                other = replace(case, query=tuple(query))
            ours, again = (_in_chunks(left, case, client_chunk_size) for _ in range(2))
            theirs, theirs_again = (_in_chunks(right, other, client_chunk_size) for _ in range(2))
            record(
                {
                    "kind": "comparison",
                    "left": left.profile.label,
                    "right": right.profile.label,
                    "case": case.name,
                    "client_chunk_size": client_chunk_size,
                    "left_scores": ours.tolist(),
                    "right_scores": theirs.tolist(),
                }
            )
            differences.append(np.abs(ours - theirs).ravel())
            floors += [max_abs(again - ours), max_abs(theirs_again - theirs)]
            bases.append(theirs)
    return Comparison(
        left,
        right,
        np.concatenate(differences) if differences else np.empty(0),
        Evidence(max(floors, default=None), None, score_spread(bases)),
        _both(seen_left, seen_right),
        {"cases": len(cases), "items": sum(map(len, bases))},
        client_chunk_size,
    )


def measure(comparison: Comparison, statistic: Callable[[Scores], float] = max_abs) -> Measurement:
    """The gated value of a comparison: ``statistic`` of all score differences."""
    found, left, right = comparison.differences, comparison.left.profile, comparison.right.profile
    unattested = "unattested" in comparison.attestation.mask
    doubt = None
    if left.mask_impl != right.mask_impl and None not in (left.mask_impl, right.mask_impl) and unattested:
        doubt = "the servers cannot say which mask they executed: this may compare one mask with itself"
    return Measurement(
        target=comparison.left,
        value=statistic(found) if found.size else None,
        evidence=comparison.evidence,
        attestation=comparison.attestation,
        samples=comparison.samples,
        details={
            "left": left.label,
            "right": right.label,
            "max_abs_diff": max_abs(found) if found.size else None,
            "mean_abs_diff": mean_abs(found) if found.size else None,
            "client_chunk_size": comparison.client_chunk_size,
        },
        doubt=doubt,
        backend=" vs ".join(dict.fromkeys((left.backend, right.backend))),
    )


def mean_abs(differences: Scores) -> float:
    """The mean absolute value."""
    return float(np.abs(differences).mean())


def _in_chunks(target: Target, case: Case, size: int | None) -> Scores:
    step = size or len(case.items)
    parts = [
        target.score_ids(case.query, case.items[at : at + step], case.labels) for at in range(0, len(case.items), step)
    ]
    return np.concatenate(parts)


def _both(left: Attestation, right: Attestation) -> Attestation:
    problems = [a.problem for a in (left, right) if a.problem]
    mask = left.mask if left.mask == right.mask else f"{left.mask} vs {right.mask}"
    return Attestation(mask, left.items_per_sequence, "; ".join(problems) or None)
