"""Equivalence: packed scores against the serial reference of the engine's declared semantics."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pytest_multiitem.adapters.attestation import Attestation
from pytest_multiitem.gates.evidence import (
    Baseline,
    baseline,
    floors,
    leak_visibility,
    max_abs,
    score_spread,
    semantic_visibility,
)
from pytest_multiitem.gates.gate import Evidence, Gate, Measurement
from pytest_multiitem.gates.subject import Subject
from pytest_multiitem.results import details
from pytest_multiitem.targets.target import declared_semantics


def measure(subject: Subject) -> Measurement:
    """Score every case packed and serially.

    The difference to plain ``query + item`` is reported beside it and never gated: a visible
    delimiter changes scores by design.
    """
    multi, serial, record = subject.multi, subject.serial, subject.record
    delimiter = multi.delimiter
    cases = subject.cases(multi)
    semantics = declared_semantics(multi)
    differences, plain, bases, attestations = [], [], [], []
    scored: list[Baseline] = []
    largest, worst = -1.0, details.WorstItem(max_abs_diff=-1.0)
    for case in cases:
        aligned = replace(case, query=tuple(semantics.serial_query(case.query, delimiter)))
        ours, theirs = baseline(multi, case, record), baseline(serial, aligned, record)
        packed, reference = ours.scores, theirs.scores
        scored += [ours, theirs]
        attestations.append(ours.attestation)
        query_only = reference if aligned == case else baseline(serial, case, record).scores
        difference = np.abs(packed - reference).max(axis=1)
        record(
            {
                "kind": "equivalence",
                "case": case.name,
                "packed": packed.tolist(),
                "reference": reference.tolist(),
                "query_only": query_only.tolist(),
            }
        )
        differences.append(difference)
        plain.append(np.abs(packed - query_only))
        bases.append(reference)
        if difference.max() > largest:
            item = int(difference.argmax())
            largest = float(difference[item])
            worst = details.WorstItem(max_abs_diff=largest, case=case.name, item=item)
    visibility, shifts = leak_visibility(serial, cases, semantics, delimiter, record)
    every = np.concatenate(differences) if differences else np.empty(0)
    return Measurement(
        target=multi,
        value=max_abs(every) if every.size else None,
        evidence=Evidence(
            **floors(scored),
            leak_visibility=visibility,
            score_spread=score_spread(bases),
            semantic_visibility=semantic_visibility(serial, cases, delimiter, record),
        ),
        attestation=Attestation.joined(attestations),
        samples={"cases": len(cases), "items": len(every)},
        details=details.Equivalence(
            mean_abs_diff=float(every.mean()) if every.size else None,
            worst=worst,
            query_only_max_abs_diff=max(map(max_abs, plain), default=None),
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
