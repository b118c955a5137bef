"""Agreement between two servers: the two backends, or the two mask implementations of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from pytest_multiitem.adapters.attestation import Attestation
from pytest_multiitem.gates.evidence import Baseline, baseline, floors, leak_visibility, max_abs, score_spread
from pytest_multiitem.gates.gate import Evidence, Gate, Measurement
from pytest_multiitem.gates.subject import Subject
from pytest_multiitem.gates.traffic import Recorder
from pytest_multiitem.results import details
from pytest_multiitem.scoring.cases import Case
from pytest_multiitem.targets.target import Target, declared_semantics
from pytest_multiitem.transport.client import Scores


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


def compare(subject: Subject, left: Target, right: Target, client_chunk_size: int | None = None) -> Comparison:
    """Score every case on both sides; ``left`` is the side under test.

    Where ``left`` packs and ``right`` is serial, ``right`` scores the context that the packed
    semantics gives an item. ``client_chunk_size``: items per request (None: all in one).
    """
    cases, delimiter, record = subject.cases(left), left.delimiter, subject.record
    serial = None if left.profile.role == "serial" else subject.serial_at_hand(left)
    aligned = left.profile.role != "serial" and right.profile.role == "serial"
    differences, bases = [], []
    scored: list[Baseline] = []
    seen: tuple[list[Attestation], list[Attestation]] = ([], [])
    for case in cases:
        other = case
        if aligned:
            other = replace(case, query=tuple(declared_semantics(left).serial_query(case.query, delimiter)))
        ours, theirs = (
            _in_chunks(target, each, client_chunk_size, record) for target, each in ((left, case), (right, other))
        )
        for side, found in zip(seen, (ours, theirs), strict=True):
            side.append(found.attestation)
        record(
            {
                "kind": "comparison",
                "left": left.profile.label,
                "right": right.profile.label,
                "case": case.name,
                "client_chunk_size": client_chunk_size,
                "left_scores": ours.scores.tolist(),
                "right_scores": theirs.scores.tolist(),
            }
        )
        differences.append(np.abs(ours.scores - theirs.scores).ravel())
        scored += [ours, theirs]
        bases.append(theirs.scores)
    visibility = None
    if serial is not None and left.profile.semantics is not None:
        visibility, _ = leak_visibility(serial, cases, left.profile.semantics, delimiter, record)
    return Comparison(
        left,
        right,
        np.concatenate(differences) if differences else np.empty(0),
        Evidence(**floors(scored), leak_visibility=visibility, score_spread=score_spread(bases)),
        _both(*map(Attestation.joined, seen)),
        {"cases": len(cases), "items": sum(map(len, bases))},
        client_chunk_size,
    )


def figure(comparison: Comparison, statistic: Callable[[Scores], float] = max_abs) -> Measurement:
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
        details=details.Agreement(
            left=left.label,
            right=right.label,
            max_abs_diff=max_abs(found) if found.size else None,
            mean_abs_diff=mean_abs(found) if found.size else None,
        ),
        client_chunk_size=comparison.client_chunk_size,
        doubt=doubt,
        backend=" vs ".join(dict.fromkeys((left.backend, right.backend))),
    )


def mean_abs(differences: Scores) -> float:
    """The mean absolute value."""
    return float(np.abs(differences).mean())


def _in_chunks(target: Target, case: Case, size: int | None, record: Recorder) -> Baseline:
    """A case in requests of ``size`` items each (None: all in one). Its floors are those of its first request:
    the replays of every one would take twice as long as what they are the floor of."""
    if size is None or size >= len(case.items):
        return baseline(target, case, record)
    parts = [replace(case, items=case.items[at : at + size]) for at in range(0, len(case.items), size)]
    first = baseline(target, parts[0], record)
    with target.attest() as attestation:
        scores = [first.scores, *(target.score(part) for part in parts[1:])]
    joined = Attestation.joined([first.attestation, attestation])
    return replace(first, scores=np.concatenate(scores), attestation=joined)


def _both(left: Attestation, right: Attestation) -> Attestation:
    problems = [a.problem for a in (left, right) if a.problem]
    mask = left.mask if left.mask == right.mask else f"{left.mask} vs {right.mask}"
    return replace(left, mask=mask, problem="; ".join(problems) or None)


def _serial_sides(subject: Subject) -> Measurement:
    return figure(compare(subject, subject.serial, subject.opposite.serial))


def _packed_jax_vs_serial_torch(subject: Subject) -> Measurement:
    if subject.backend == "pytorch":
        return figure(compare(subject, subject.opposite.multi, subject.serial))
    return figure(compare(subject, subject.multi, subject.opposite.serial))


def _packed_sides(subject: Subject, statistic: Callable[[Scores], float]) -> Measurement:
    """Both gates judge one comparison."""
    left, right = subject.multi, subject.opposite.multi
    key = ("cross-backend", right, subject.client_chunk_size)
    if key not in left.memo:
        left.memo[key] = compare(subject, left, right, subject.client_chunk_size)
    return figure(left.memo[key], statistic)


_EVIDENCE = frozenset({"noise_floor", "score_spread"})

SERIAL_VS_REFERENCE = Gate(
    "serial_vs_reference_le_0p02",
    "max abs score difference, serial server vs transformers' own model of the same checkpoint",
    "<=",
    0.02,
    evidence=_EVIDENCE,
    measure=lambda subject: figure(compare(subject, subject.serial, subject.reference)),
    needs=("serial", "reference"),
    short="reference",
    order=15,
)
JAX_SERIAL_VS_TORCH_SERIAL = Gate(
    "jax_serial_vs_torch_serial_le_0p02",
    "max abs score difference, JAX serial vs PyTorch serial on the same checkpoint",
    "<=",
    0.02,
    evidence=_EVIDENCE,
    measure=_serial_sides,
    needs=("serial", "opposite.serial"),
    short="serial j/t",
    order=11,
)
JAX_MULTI_VS_TORCH_MULTI_SEMANTIC = Gate(
    "jax_multi_vs_torch_multi_semantic_le_0p02",
    "max abs score difference, JAX packed vs PyTorch serial on the packed semantics' context",
    "<=",
    0.02,
    evidence=_EVIDENCE,
    measure=_packed_jax_vs_serial_torch,
    needs=("multi", "opposite.serial"),
    judges=lambda backend: ("serial",) if backend == "pytorch" else ("multi",),
    short="multi-sem",
    order=12,
)
CROSS_BACKEND_MAX_ABS = Gate(
    "cross_backend_max_abs_le_0p02",
    "max abs score difference between the backends at one client chunk size",
    "<=",
    0.02,
    evidence=_EVIDENCE,
    measure=lambda subject: _packed_sides(subject, max_abs),
    needs=("multi", "opposite.multi"),
    short="cross max",
    order=13,
)
CROSS_BACKEND_MEAN_ABS = Gate(
    "cross_backend_mean_abs_le_0p01",
    "mean abs score difference between the backends at one client chunk size",
    "<=",
    0.01,
    evidence=_EVIDENCE,
    measure=lambda subject: _packed_sides(subject, mean_abs),
    needs=("multi", "opposite.multi"),
    short="cross mean",
    order=14,
)
SEGMENT_VS_DENSE = Gate(
    "segment_vs_dense_le_1e_4",
    "max abs score difference, segment vs dense",
    "<=",
    1e-4,
    evidence=_EVIDENCE,
    measure=lambda subject: figure(compare(subject, subject.multi, subject.other_mask)),
    needs=("multi", "other_mask"),
    short="seg/dense",
    order=9,
)
GATES = (
    SERIAL_VS_REFERENCE,
    JAX_SERIAL_VS_TORCH_SERIAL,
    JAX_MULTI_VS_TORCH_MULTI_SEMANTIC,
    CROSS_BACKEND_MAX_ABS,
    CROSS_BACKEND_MEAN_ABS,
    SEGMENT_VS_DENSE,
)
