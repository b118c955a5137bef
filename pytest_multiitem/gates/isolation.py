"""Isolation: mutating one item must not change any other item's score, not even in the last bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from pytest_multiitem.adapters.attestation import Attestation
from pytest_multiitem.gates.evidence import baseline, floors, leak_visibility, max_abs, score_spread
from pytest_multiitem.gates.gate import Evidence, Gate, Measurement, magnitude
from pytest_multiitem.gates.subject import Subject
from pytest_multiitem.results import details
from pytest_multiitem.scoring.cases import mutations
from pytest_multiitem.targets.target import declared_semantics

_SATURATED = 1e-6


def measure(subject: Subject, *kinds: str) -> Measurement:
    """Mutate the first, a middle and the last item of every case and compare all other items.

    ``kinds``: of mutations. An engine whose mutated item keeps its own score does not read its items, and fails.
    """
    multi, record = subject.multi, subject.record
    usable = [case for case in subject.cases(multi) if len(case.items) > 1]
    if not usable:  # no item is untouched where there is only one
        return Measurement(target=multi, value=None, samples={"cases": 0, "mutations": 0, "items": 0})
    worst: list[details.MutatedItem] = []
    own_changes = []
    unchanged = [baseline(multi, case, record) for case in usable]
    bases = [base.scores for base in unchanged]
    attestations = [base.attestation for base in unchanged]
    for case, base in zip(usable, bases, strict=True):
        mutated = mutations(case, kinds, seed=subject.settings.seed)
        if not mutated:
            continue
        with multi.attest() as attestation:
            answers = [multi.score(mutation.case) for mutation in mutated]
        attestations.append(attestation)
        for mutation, scores in zip(mutated, answers, strict=True):
            changes = np.abs(scores - base).max(axis=1)
            own_changes.append(float(changes[mutation.index]))
            others = np.delete(changes, mutation.index)
            entry = details.MutatedItem(
                case=case.name,
                mutation=mutation.kind,
                mutated_index=mutation.index,
                max_abs_diff_unchanged=float(others.max()),
                mean_abs_diff_unchanged=float(others.mean()),
                changed_items=int((others != 0).sum()),
                own_change=own_changes[-1],
            )
            record({"kind": "isolation mutated", **msgspec.structs.asdict(entry), "scores": scores.tolist()})
            worst.append(entry)
    visibility, shifts = leak_visibility(subject.serial, usable, declared_semantics(multi), multi.delimiter, record)
    problem = None
    if own_changes and max(own_changes) == 0.0 and not _saturated(bases):
        problem = "the mutated item keeps its own score: the engine does not read its items"
    worst.sort(key=lambda entry: -magnitude(entry.max_abs_diff_unchanged or 0.0))
    return Measurement(
        target=multi,
        value=worst[0].max_abs_diff_unchanged if worst else None,
        evidence=Evidence(**floors(unchanged), leak_visibility=visibility, score_spread=score_spread(bases)),
        attestation=Attestation.joined(attestations),
        samples={"cases": len(usable), "mutations": len(worst), "items": sum(len(b) for b in bases)},
        details=details.Isolation(
            worst=worst[:6],
            mutated_item_change_max=max(own_changes, default=None),
            leak_visibility_median=float(np.median(shifts)) if shifts else None,
        ),
        problem=problem,
    )


def _saturated(bases: Sequence[np.ndarray[Any, Any]]) -> bool:
    """Whether every score lies so close to 0 or 1 that a real change could round away."""
    return all(max_abs(np.minimum(base, 1 - base)) < _SATURATED for base in bases)


#: The mutations of each gate.
KINDS = {
    "same_length_isolation_zero": ("same_length",),
    "changed_length_isolation_zero": ("longer", "shorter"),
}


def _gate(name: str, what: str, *, short: str, order: int) -> Gate:
    return Gate(
        name,
        f"max abs score change of untouched items when one item {what}",
        "==",
        0.0,
        evidence=frozenset({"noise_floor", "leak_visibility", "score_spread"}),
        measure=lambda subject: measure(subject, *KINDS[name]),
        needs=("multi", "serial"),
        judges=lambda backend: ("multi",),
        short=short,
        order=order,
    )


SAME_LENGTH = _gate("same_length_isolation_zero", "is mutated, same length", short="same", order=1)
CHANGED_LENGTH = _gate("changed_length_isolation_zero", "changes its length", short="changed", order=2)
GATES = (SAME_LENGTH, CHANGED_LENGTH)
