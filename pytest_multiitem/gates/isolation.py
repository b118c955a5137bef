"""Isolation: mutating one item must not change any other item's score, not even in the last bit."""

from __future__ import annotations

import msgspec
import numpy as np

from pytest_multiitem.adapters.attestation import Attestation
from pytest_multiitem.gates.evidence import baseline, evidence_of, leak_visibility, max_abs
from pytest_multiitem.gates.gate import Gate, Measurement, magnitude
from pytest_multiitem.gates.subject import Subject
from pytest_multiitem.gates.traffic import sample
from pytest_multiitem.results import details
from pytest_multiitem.scoring.cases import mutations
from pytest_multiitem.targets.target import declared_semantics

#: Scores closer than this to 0 or 1: a real change could round away.
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
    unchanged = [baseline(multi, case, record) for case in usable]
    attestations = [base.attestation for base in unchanged]
    for case, base in zip(usable, unchanged, strict=True):
        mutated = mutations(case, kinds, seed=subject.settings.seed)
        if not mutated:
            continue
        with multi.attest() as attestation:
            answers = [multi.score(mutation.case) for mutation in mutated]
        attestations.append(attestation)
        for mutation, scores in zip(mutated, answers, strict=True):
            changes = np.abs(scores - base.scores).max(axis=1)
            others = np.delete(changes, mutation.index)
            entry = details.MutatedItem(
                case=case.name,
                mutation=mutation.kind,
                mutated_index=mutation.index,
                max_abs_diff_unchanged=float(others.max()),
                mean_abs_diff_unchanged=float(others.mean()),
                changed_items=int((others != 0).sum()),
                own_change=float(changes[mutation.index]),
            )
            sample(record, "isolation mutated", **msgspec.structs.asdict(entry), scores=scores)
            worst.append(entry)
    _, shifts = leak_visibility(subject.serial, usable, declared_semantics(multi), multi.delimiter, record)
    own_change = max((entry.own_change or 0.0 for entry in worst), default=None)
    problem = None
    if own_change == 0.0 and not all(max_abs(np.minimum(b.scores, 1 - b.scores)) < _SATURATED for b in unchanged):
        problem = "the mutated item keeps its own score: the engine does not read its items"
    worst.sort(key=lambda entry: -magnitude(entry.max_abs_diff_unchanged or 0.0))
    return Measurement(
        target=multi,
        value=worst[0].max_abs_diff_unchanged if worst else None,
        evidence=evidence_of(multi, subject.serial, usable, record, scored=unchanged, spread=unchanged),
        attestation=Attestation.joined(attestations),
        samples={"cases": len(usable), "mutations": len(worst), "items": sum(len(base.scores) for base in unchanged)},
        details=details.Isolation(
            worst=worst[:6],
            mutated_item_change_max=own_change,
            leak_visibility_median=float(np.median(shifts)) if shifts else None,
        ),
        problem=problem,
    )


#: The mutations of each gate.
KINDS = {"same_length_isolation_zero": ("same_length",), "changed_length_isolation_zero": ("longer", "shorter")}


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
