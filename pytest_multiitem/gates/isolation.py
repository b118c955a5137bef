"""Isolation: mutating one item must not change any other item's score, not even in the last bit."""

from __future__ import annotations

import numpy as np

from pytest_multiitem.adapters.attestation import Attestation
from pytest_multiitem.gates.content_isolation import changes, contents, leaks, mixes_experts
from pytest_multiitem.gates.evidence import evidence_of, leak_visibility
from pytest_multiitem.gates.gate import Gate, Measurement
from pytest_multiitem.gates.length_isolation import shape_floor
from pytest_multiitem.gates.subject import Subject
from pytest_multiitem.results import details
from pytest_multiitem.targets.target import declared_semantics


def measure(subject: Subject, *kinds: str) -> Measurement:
    """Mutate the first, a middle and the last item of every case and compare all other items.

    ``kinds``: of mutations. An engine whose mutated item keeps its own score does not read its items, and fails. Where
    others move although their shapes may be computed otherwise, and no content leaks, the shape floor is measured too.
    """
    multi, record = subject.multi, subject.record
    usable = [case for case in subject.cases(multi) if len(case.items) > 1]
    if not usable:  # no item is untouched where there is only one
        return Measurement(target=multi, value=None, samples={"cases": 0, "mutations": 0, "items": 0})
    mutated = changes(subject, usable, kinds)
    unchanged = mutated.unchanged
    _, shifts = leak_visibility(subject.serial, usable, declared_semantics(multi), multi.delimiter, record)
    evidence = evidence_of(multi, subject.serial, usable, record, scored=unchanged, spread=unchanged)
    if mutated.value and (mixes_experts(multi) or (kinds != ("same_length",) and not leaks(contents(subject)))):
        evidence.shape_floor, evidence.leak_bound = shape_floor(subject)
    return Measurement(
        target=multi,
        value=mutated.value,
        evidence=evidence,
        attestation=Attestation.joined(mutated.attestations),
        samples={
            "cases": len(usable),
            "mutations": len(mutated.worst),
            "items": sum(len(base.scores) for base in unchanged),
        },
        details=details.Isolation(
            worst=mutated.worst[:6],
            mutated_item_change_max=mutated.own_change,
            leak_visibility_median=float(np.median(shifts)) if shifts else None,
        ),
        problem=mutated.problem,
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
