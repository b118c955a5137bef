"""Equivalence: packed scores against the serial reference of the engine's declared semantics."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pytest_multiitem.adapters.attestation import Attestation
from pytest_multiitem.gates.evidence import Baseline, baseline, evidence_of, leak_visibility, max_abs
from pytest_multiitem.gates.gate import Gate, Measurement
from pytest_multiitem.gates.subject import Subject
from pytest_multiitem.gates.traffic import sample
from pytest_multiitem.results import details
from pytest_multiitem.targets.target import declared_semantics


def measure(subject: Subject) -> Measurement:
    """Score every case packed and serially.

    The difference to plain ``query + item`` is reported beside it and never gated: a visible
    delimiter changes scores by design.
    """
    multi, serial, record = subject.multi, subject.serial, subject.record
    cases, semantics, delimiter = subject.cases(multi), declared_semantics(multi), multi.delimiter
    differences, plain = [], []
    packed: list[Baseline] = []
    reference: list[Baseline] = []
    largest, worst = -1.0, details.WorstItem(max_abs_diff=-1.0)
    for case in cases:
        aligned = replace(case, query=tuple(semantics.serial_query(case.query, delimiter)))
        ours, theirs = baseline(multi, case, record), baseline(serial, aligned, record)
        packed.append(ours)
        reference.append(theirs)
        query_only = (theirs if aligned == case else baseline(serial, case, record)).scores
        sample(
            record, "equivalence", case=case.name, packed=ours.scores, reference=theirs.scores, query_only=query_only
        )
        difference = np.abs(ours.scores - theirs.scores).max(axis=1)
        differences.append(difference)
        plain.append(max_abs(ours.scores - query_only))
        if difference.max() > largest:
            item = int(difference.argmax())
            largest = float(difference[item])
            worst = details.WorstItem(max_abs_diff=largest, case=case.name, item=item)
    _, shifts = leak_visibility(serial, cases, semantics, delimiter, record)
    every = np.concatenate(differences) if differences else np.empty(0)
    return Measurement(
        target=multi,
        value=max_abs(every) if every.size else None,
        evidence=evidence_of(
            multi, serial, cases, record, scored=[*packed, *reference], spread=reference, semantic=True
        ),
        attestation=Attestation.joined([each.attestation for each in packed]),
        samples={"cases": len(cases), "items": len(every)},
        details=details.Equivalence(
            mean_abs_diff=float(every.mean()) if every.size else None,
            worst=worst,
            query_only_max_abs_diff=max(plain, default=None),
            leak_visibility_median=float(np.median(shifts)) if shifts else None,
        ),
    )


EQUIVALENCE = Gate(
    "delimiter_aligned_equiv_le_0p02",
    "max abs score difference, packed vs the serial reference of the declared semantics",
    "<=",
    0.02,
    evidence=frozenset({"noise_floor", "leak_visibility", "score_spread"}),
    measure=measure,
    needs=("multi", "serial"),
    also_on=("extend",),
    short="equiv",
    order=3,
)
GATES = (EQUIVALENCE,)
