"""Sizes, item counts, lengths, shared beginnings, token ids and labels as users send them, each against the same items
in smaller requests and on the serial server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from pytest_multiitem.adapters.attestation import Attestation
from pytest_multiitem.gates.evidence import baseline, evidence_of
from pytest_multiitem.gates.gate import Gate, Measurement, magnitude
from pytest_multiitem.gates.subject import Subject
from pytest_multiitem.gates.traffic import sample
from pytest_multiitem.results import details
from pytest_multiitem.scoring.cases import ASSUMED_VOCABULARY, Case, TokenIds, token_pool
from pytest_multiitem.scoring.ladder import Ladder, Rung, label_sets
from pytest_multiitem.scoring.limits import PLACED, placed_limit, row_difference
from pytest_multiitem.targets.target import Target, declared_semantics
from pytest_multiitem.transport.client import ScoreFailure, Scores
from pytest_multiitem.transport.refusals import refused_for_size

#: Serial rows [K] by query and item.
_Known = dict[TokenIds, dict[TokenIds, Scores]]
#: Items of the request whose labels change.
_LABELLED = 2


def ladder_of(subject: Subject) -> Ladder:
    """The ladder of a subject's packed server."""
    multi, settings = subject.multi, subject.settings
    vocab_size = multi.vocab_size or ASSUMED_VOCABULARY
    pool = token_pool(vocab_size, [*settings.labels, multi.delimiter])
    # A server that somebody else runs may know special tokens that are no content.
    every = pool if multi.vocab_size is None else tuple(i for i in range(vocab_size) if i != multi.delimiter)
    return Ladder(
        pool=pool,
        every_token=every,
        labels=settings.labels,
        max_tokens=multi.max_tokens,
        max_items=multi.max_items,
        seed=settings.seed,
        effort=settings.effort,
    )


def measure(subject: Subject) -> Measurement:
    """Score every rung packed; its items must score as in smaller requests, and some of them as on the serial server.

    The largest request that is timed is a rung too. The value is the largest difference between packed rows of the
    same item. A rung that the server refuses for its size is noted.
    """
    multi, serial, record, seed = subject.multi, subject.serial, subject.record, subject.settings.seed
    ladder, alone = ladder_of(subject), [baseline(multi, case, record) for case in subject.cases(multi)]
    axes: dict[str, details.Axis] = {
        name: details.Axis(not_tried=reason) for name, reason in ladder.not_tried().items()
    }
    known: _Known = serial.memo.setdefault(("ladder", declared_semantics(multi), multi.delimiter), {})
    problem = doubt = None
    rows = 0
    with multi.attest() as attestation:
        for rung in _with_timed(subject, ladder):
            axis = axes.setdefault(rung.axis, details.Axis())
            harm = None if multi.adapter is None else multi.adapter.hazard(multi.profile, rung.case)
            if harm is not None:
                axis.refused[rung.label] = f"not sent: {harm}"
                continue
            begin = multi.answers.mark()
            try:
                scores = multi.score(rung.case)
            except ScoreFailure as failure:
                if not refused_for_size(failure):
                    raise
                axis.refused[rung.label] = str(failure)[:200]
                continue
            judged = multi.judge_answers(seed, since=begin)
            apart = _from_serial(multi, serial, rung, scores, known)
            rows += judged.rows
            axis.tried.append(rung.label)
            axis.largest = max(axis.largest or 0.0, judged.largest, key=magnitude)
            axis.serial_largest = max(axis.serial_largest or 0.0, apart, key=magnitude)
            sample(record, "ladder", axis=rung.axis, rung=rung.label, difference=judged.largest, serial=apart)
            if judged.problem is not None:
                problem = f"{rung.axis} {rung.label}: {judged.problem}"
            elif not apart <= PLACED:
                problem = f"{rung.axis} {rung.label}: a score is {apart:.3g} away from the serial one"
            doubt = doubt or judged.doubt
            if problem is not None:
                break
    attestation.packed_sequences = attestation.packed_items = 0
    largest = max((axis.largest for axis in axes.values() if axis.largest is not None), key=magnitude, default=None)
    tried = sum(len(axis.tried) for axis in axes.values())
    return Measurement(
        target=multi,
        value=largest,
        evidence=evidence_of(multi, serial, subject.cases(multi), record, scored=alone, spread=alone),
        attestation=Attestation.joined([*(base.attestation for base in alone), attestation]),
        samples={"rungs": tried, "rows": rows},
        details=details.Ladder(effort=ladder.effort, axes=axes),
        problem=problem,
        doubt=doubt,
        holds=f"{rows} rows on {tried} rungs agree, to {largest:.3g}" if largest is not None else None,
    )


def _with_timed(subject: Subject, ladder: Ladder) -> Iterator[Rung]:
    yield from ladder.rungs()
    if subject.item_counts:
        count = max(subject.item_counts)
        case = subject.timing_case(subject.multi, count)
        yield Rung("the largest timed request", f"{count} items", case, (0, count // 2, count - 1))


def _from_serial(multi: Target, serial: Target, rung: Rung, scores: Scores, known: _Known) -> float:
    """How far the chosen rows of a rung are from the serial server's; items without tokens are left out.

    ``known``: what the serial server has scored for rungs before, and does for this one.
    """
    case, chosen = rung.case, [index for index in rung.serial if rung.case.items[index]]
    items = {case.items[index] for index in chosen}
    rows = known.setdefault(case.query, {})
    if new := sorted(items - rows.keys()):
        query = declared_semantics(multi).serial_query(case.query, multi.delimiter)
        rows.update(zip(new, serial.score_ids(query, new, case.labels), strict=True))
    return max((float(np.abs(rows[case.items[i]] - scores[i]).max()) for i in chosen), default=0.0)


def measure_labels(subject: Subject) -> Measurement:
    """Score a request at labels of every quarter of the vocabulary, one of them to 512: probabilities over the
    vocabulary, and the softmax over 26, against the serial server's.

    The value is the largest difference, in the unit of `scoring.limits.row_difference`.
    """
    multi, serial, record = subject.multi, subject.serial, subject.record
    cases = subject.cases(multi)
    first = next((case for case in cases if any(case.items)), None)
    if first is None:
        return Measurement(target=multi, value=None, doubt="no request has an item with tokens")
    case = replace(first, items=tuple(filter(None, first.items))[:_LABELLED])
    base = baseline(multi, first, record)
    vocab_size = multi.vocab_size or ASSUMED_VOCABULARY
    most = None if multi.adapter is None else multi.adapter.most_labels
    seen: dict[str, float | None] = {}
    since = [(server.answers, server.answers.mark()) for server in (multi, serial)]
    with multi.attest() as attestation:
        for name, labels in label_sets(vocab_size, [], seed=subject.settings.seed):
            for softmax in (False, True) if len(labels) == 26 else (False,):
                label = f"{name}, softmax" if softmax else name
                if softmax and most is not None and len(labels) > most:
                    seen[label] = None
                    continue
                seen[label] = _labels_apart(subject, case, labels, softmax)
                sample(record, "labels", case=case.name, labels=label, difference=seen[label])
    attestation.packed_sequences = attestation.packed_items = 0
    worst = max(seen, key=lambda label: magnitude(seen[label] or 0.0))
    value = seen[worst]
    assert value is not None
    compared = sum(difference is not None for difference in seen.values())
    if value <= placed_limit(multi.dtype):
        for answers, begin in since:  # every row has been compared with the other server's
            answers.drop(begin)
    return Measurement(
        target=multi,
        value=value,
        evidence=evidence_of(multi, serial, cases, record, scored=[base], spread=[base]),
        attestation=Attestation.joined([base.attestation, attestation]),
        samples={"label_sets": compared, "items": len(case.items)},
        details=details.Labels(differences=seen, vocab_size=vocab_size),
        problem=None if value <= PLACED else f"labels, {worst}: {_apart(value)} away from the serial server's",
        holds=f"{compared} sets of labels agree with the serial server, to {_apart(value)}",
    )


def _apart(value: float) -> str:
    return f"{value:.3g}"


def _labels_apart(subject: Subject, case: Case, labels: Sequence[int], softmax: bool) -> float:
    multi = subject.multi
    query = declared_semantics(multi).serial_query(case.query, multi.delimiter)
    ours = multi.score_ids(case.query, case.items, labels, apply_softmax=softmax)
    theirs = subject.serial.score_ids(query, case.items, labels, apply_softmax=softmax)
    return max(row_difference(a, b, apply_softmax=softmax) for a, b in zip(ours, theirs, strict=True))


SIZES = Gate(
    "every_size_agrees",
    "rows of requests of every size (packed tokens, items, lengths, shared beginnings, token ids) against the same "
    "items in smaller requests and on the serial server",
    rests_on="rungs of the ladder that were tried, and the same items elsewhere",
    measure=measure,
    needs=("multi", "serial"),
    judges=lambda backend: ("multi",),
    costly=True,
    short="sizes",
    order=7.1,
)
LABELS = Gate(
    "every_label_agrees",
    "probabilities of labels from every quarter of the vocabulary, 1 to 512 of them, against the serial server's",
    rests_on="the serial server's probabilities of the same labels",
    measure=measure_labels,
    needs=("multi", "serial"),
    judges=lambda backend: ("multi",),
    costly=True,
    short="labels",
    order=7.2,
)
GATES = (SIZES, LABELS)
