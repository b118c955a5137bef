"""Agreement between two servers: the two backends, or the two mask implementations of one."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import partial

import numpy as np

from pytest_multiitem.adapters.attestation import Attestation
from pytest_multiitem.gates.evidence import Baseline, baseline, evidence_of, max_abs
from pytest_multiitem.gates.gate import Gate, Measurement
from pytest_multiitem.gates.subject import Subject
from pytest_multiitem.gates.traffic import Recorder, sample
from pytest_multiitem.results import details
from pytest_multiitem.scoring.cases import Case
from pytest_multiitem.targets.target import Target, declared_semantics


def compare(subject: Subject, left: Target, right: Target, client_chunk_size: int | None = None) -> Measurement:
    """Score every case on both sides; ``left`` is the side under test. The value is the largest difference.

    Where ``left`` packs and ``right`` is serial, ``right`` scores the context that the packed
    semantics gives an item. ``client_chunk_size``: items per request (None: all in one).
    """
    cases, delimiter, record = subject.cases(left), left.delimiter, subject.record
    serial = None if left.profile.role == "serial" else subject.serial_at_hand(left)
    aligned = left.profile.role != "serial" and right.profile.role == "serial"
    pairs: list[tuple[Baseline, Baseline]] = []
    for case in cases:
        other = case
        if aligned:
            other = replace(case, query=tuple(declared_semantics(left).serial_query(case.query, delimiter)))
        ours = _in_chunks(left, case, client_chunk_size, record)
        theirs = _in_chunks(right, other, client_chunk_size, record)
        sample(
            record,
            "comparison",
            left=left.profile.label,
            right=right.profile.label,
            case=case.name,
            client_chunk_size=client_chunk_size,
            left_scores=ours.scores,
            right_scores=theirs.scores,
        )
        pairs.append((ours, theirs))
    differences = np.concatenate(
        [np.empty(0), *(np.abs(ours.scores - theirs.scores).ravel() for ours, theirs in pairs)]
    )
    largest, mean = (max_abs(differences), float(differences.mean())) if differences.size else (None, None)
    scored = [each for pair in pairs for each in pair]
    references = [theirs for _, theirs in pairs]
    evidence = evidence_of(left, serial, cases, record, scored=scored, spread=references)
    attestation = _both(*(Attestation.joined([pair[side].attestation for pair in pairs]) for side in (0, 1)))
    masks = {left.profile.mask_impl, right.profile.mask_impl}
    doubt = None
    if len(masks) > 1 and None not in masks and "unattested" in attestation.mask:
        doubt = "the servers cannot say which mask they executed: this may compare one mask with itself"
    return Measurement(
        target=left,
        value=largest,
        evidence=evidence,
        attestation=attestation,
        samples={"cases": len(cases), "items": sum(len(each.scores) for each in references)},
        details=details.Agreement(
            left=left.profile.label, right=right.profile.label, max_abs_diff=largest, mean_abs_diff=mean
        ),
        client_chunk_size=client_chunk_size,
        doubt=doubt,
        backend=" vs ".join(dict.fromkeys((left.profile.backend, right.profile.backend))),
    )


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


def _packed_jax_vs_serial_torch(subject: Subject) -> Measurement:
    if subject.backend == "pytorch":
        return compare(subject, subject.opposite.multi, subject.serial)
    return compare(subject, subject.multi, subject.opposite.serial)


def _packed_sides(subject: Subject) -> Measurement:
    """Both gates judge one comparison, each with details of its own."""
    left, right = subject.multi, subject.opposite.multi
    key = ("cross-backend", right, subject.client_chunk_size)
    if key not in left.memo:
        left.memo[key] = compare(subject, left, right, subject.client_chunk_size)
    compared: Measurement = left.memo[key]
    return replace(compared, details=deepcopy(compared.details))


def by_mean(compared: Measurement) -> Measurement:
    """A comparison whose value is the mean difference."""
    assert isinstance(compared.details, details.Agreement)
    return replace(compared, value=compared.details.mean_abs_diff)


_difference = partial(Gate, relation="<=", limit=0.02, evidence=frozenset({"noise_floor", "score_spread"}))

SERIAL_VS_REFERENCE = _difference(
    "serial_vs_reference_le_0p02",
    "max abs score difference, serial server vs transformers' own model of the same checkpoint",
    measure=lambda subject: compare(subject, subject.serial, subject.reference),
    needs=("serial", "reference"),
    short="reference",
    order=15,
)
JAX_SERIAL_VS_TORCH_SERIAL = _difference(
    "jax_serial_vs_torch_serial_le_0p02",
    "max abs score difference, JAX serial vs PyTorch serial on the same checkpoint",
    measure=lambda subject: compare(subject, subject.serial, subject.opposite.serial),
    needs=("serial", "opposite.serial"),
    short="serial j/t",
    order=11,
)
JAX_MULTI_VS_TORCH_MULTI_SEMANTIC = _difference(
    "jax_multi_vs_torch_multi_semantic_le_0p02",
    "max abs score difference, JAX packed vs PyTorch serial on the packed semantics' context",
    measure=_packed_jax_vs_serial_torch,
    needs=("multi", "opposite.serial"),
    judges=lambda backend: ("serial",) if backend == "pytorch" else ("multi",),
    short="multi-sem",
    order=12,
)
CROSS_BACKEND_MAX_ABS = _difference(
    "cross_backend_max_abs_le_0p02",
    "max abs score difference between the backends at one client chunk size",
    measure=_packed_sides,
    needs=("multi", "opposite.multi"),
    short="cross max",
    order=13,
)
CROSS_BACKEND_MEAN_ABS = _difference(
    "cross_backend_mean_abs_le_0p01",
    "mean abs score difference between the backends at one client chunk size",
    limit=0.01,
    measure=lambda subject: by_mean(_packed_sides(subject)),
    needs=("multi", "opposite.multi"),
    short="cross mean",
    order=14,
)
SEGMENT_VS_DENSE = _difference(
    "segment_vs_dense_le_1e_4",
    "max abs score difference, segment vs dense",
    limit=1e-4,
    measure=lambda subject: compare(subject, subject.multi, subject.other_mask),
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
