"""Equivalence: packed scores against the serial reference of the engine's declared semantics, by two lines.

The contract's line holds for every precision. Where the precision is known to be float32, two right ways to a score are
a thousand times closer than that, and the second gate judges by a multiple of what was measured to be rounding.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pytest_multiitem.adapters.attestation import Attestation
from pytest_multiitem.gates.evidence import Baseline, baseline, evidence_of, leak_visibility, max_abs
from pytest_multiitem.gates.gate import Gate, Measurement, larger_floor
from pytest_multiitem.gates.judge import NOISE_FACTOR, blindness
from pytest_multiitem.gates.length_isolation import batch_floor, lengths, request_of
from pytest_multiitem.gates.rounding import precision_of
from pytest_multiitem.gates.scored_items import MOST, scored_items
from pytest_multiitem.gates.subject import Subject
from pytest_multiitem.gates.traffic import Recorder, sample
from pytest_multiitem.results import details
from pytest_multiitem.scoring.cases import Case
from pytest_multiitem.targets.target import Target, declared_semantics
from pytest_multiitem.transport.client import Scores
from pytest_multiitem.transport.one_item import NeverScored


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
    scored: list[details.ScoredItems] = []
    for case in cases:
        aligned = replace(case, query=tuple(semantics.serial_query(case.query, delimiter)))
        ours, theirs = baseline(multi, case, record), baseline(serial, aligned, record)
        packed.append(ours)
        reference.append(theirs)
        query_only = _query_only(serial, case, theirs if aligned == case else None, record)
        further = {} if query_only is None else {"query_only": query_only}
        sample(record, "equivalence", case=case.name, packed=ours.scores, reference=theirs.scores, **further)
        difference = np.abs(ours.scores - theirs.scores).max(axis=1)
        differences.append(difference)
        scored.append(scored_items(case, ours.scores, theirs.scores, max(1, MOST // len(cases))))
        if query_only is not None:
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
            scored=scored,
        ),
    )


def _query_only(serial: Target, case: Case, known: Baseline | None, record: Recorder) -> Scores | None:
    """The serial scores behind the query alone; ``known``: where these are the reference. None of a server that never
    gives them."""
    try:
        return (known or baseline(serial, case, record)).scores
    except NeverScored:
        return None


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


def measure_at_floor(subject: Subject) -> Measurement:
    """The same difference, judged by `AT_FLOOR` times the measured floor, but by no less than `LEAST` and no more than
    the contract's limit.

    The floor is the largest of quiet replays on both sides, the serial server's batches (items together against the
    same alone), and packed shapes that differ in length (`length_isolation`); it is measured where it decides. Where
    the precision is not known to be float32 on both sides, the floor of two ways to a score is not known either, and
    the contract's limit is all there is.
    """
    multi, serial = subject.multi, subject.serial
    compared = measure(subject)
    plain = compared.details
    assert isinstance(plain, details.Equivalence)
    evidence, most, value = compared.evidence, EQUIVALENCE.limit or 0.0, compared.value
    precise = all(precision_of(each.dtype, each.info.get("device")).exact for each in (multi, serial))
    replays, batches, shapes = evidence.noise_floor, None, None
    limit, basis = (LEAST, "the least for float32") if precise else (most, "the contract's, for want of a floor")
    if precise and value is not None and LEAST < value <= most:  # only then does a floor decide
        request, found = request_of(subject), lengths(subject)
        batches = None if request is None else batch_floor(serial, request, multi, subject.record)
        shapes = None if found is None or found.leaks else found.value
        floor = larger_floor(replays, batches, shapes) or 0.0
        if AT_FLOOR * floor > LEAST:
            limit, basis = AT_FLOOR * floor, f"{AT_FLOOR:g} times the floor {floor:.3g}"
    problem = doubt = holds = None
    if value is None:
        doubt = "nothing was measured"
    elif not value <= max(limit, NOISE_FACTOR * (replays or 0.0)):
        problem = f"packed and serial scores are {value:.3g} apart; the limit is {limit:.3g} ({basis})"
    elif value > limit or limit > most:
        doubt = f"packed and serial scores are {value:.3g} apart, but the floor is too high to judge by ({basis})"
    else:
        doubt = blindness(evidence, limit, EQUIVALENCE.evidence)
        holds = f"packed and serial scores are {value:.3g} apart, within {limit:.3g} ({basis})"
    return replace(
        compared,
        details=details.EquivalenceAtFloor(
            limit=limit,
            basis=basis,
            replay_floor=replays,
            serial_batch_floor=batches,
            shape_floor=shapes,
            mean_abs_diff=plain.mean_abs_diff,
            worst=plain.worst,
        ),
        problem=problem,
        doubt=doubt,
        holds=holds if doubt is None else None,
    )


#: The limit of `equivalence_at_floor` in measured floors. Healthy float32 builds are 9e-7 apart at most.
AT_FLOOR = 10.0
#: No less than this; of float32, whose order of sums is worth 1e-6 of a score on the built-in model.
LEAST = 1e-4
EQUIVALENCE_AT_FLOOR = Gate(
    "equivalence_at_floor",
    "max abs score difference, packed vs the serial reference of the declared semantics, against what rounding does",
    rests_on="float32 on both sides or the contract's limit, noise floor, leak visibility, score spread",
    measure=measure_at_floor,
    needs=("multi", "serial"),
    also_on=("extend",),
    short="equiv floor",
    order=3.5,
)
GATES = (EQUIVALENCE, EQUIVALENCE_AT_FLOOR)
