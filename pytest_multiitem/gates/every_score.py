"""Every score that was received, compared with something it must equal; and the same requests from beginning to end."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np

from pytest_multiitem.adapters.attestation import Attestation
from pytest_multiitem.gates.evidence import baseline, evidence_of
from pytest_multiitem.gates.gate import Gate, Measurement
from pytest_multiitem.gates.subject import Subject
from pytest_multiitem.results import details
from pytest_multiitem.scoring.limits import PLACED
from pytest_multiitem.targets.answers import Context, cross_checked
from pytest_multiitem.targets.target import declared_semantics

#: Fresh connections over which the requests of the gates are sent once more.
CONNECTIONS = 4
#: Items that the serial server is asked for, of those that it has not scored yet.
_SERIAL_SAMPLE = 24
_SERIAL_AT_ONCE = 8


def measure(subject: Subject) -> Measurement:
    """Send the requests of the gates once more over fresh connections, ask the serial server for a sample of all items
    that were scored packed, and judge whatever came in and was not judged yet.

    The value is the largest difference between rows of the same item from the packed server.
    """
    multi, serial, record = subject.multi, subject.serial_at_hand(subject.multi), subject.record
    seed = subject.settings.seed
    cases = subject.cases(multi)
    alone = [baseline(multi, case, record) for case in cases]
    with multi.attest() as attestation:
        for case in cases:
            with ExitStack() as stack:
                for _ in range(CONNECTIONS):
                    stack.enter_context(multi.another()).score(case)
    attestation.packed_sequences = attestation.packed_items = 0
    judged, total = multi.judge_answers(seed), multi.answers.total
    problem, compared, apart = judged.problem, 0, 0.0
    if serial is not None and problem is None:
        compared, apart, problem = _against_serial(subject, seed)
    return Measurement(
        target=multi,
        value=total.largest,
        evidence=evidence_of(multi, serial, cases, record, scored=alone, spread=alone),
        attestation=Attestation.joined([*(base.attestation for base in alone), attestation]),
        samples={"answers": total.answers, "rows": total.rows, "asked_again": total.asked, "serial_rows": compared},
        details=details.EveryScore(
            contradictions=judged.contradictions,
            unstable=judged.unstable or None,
            serial_max_abs_diff=apart if compared else None,
            wrong=[str(row) for row in judged.wrong[:5]],
        ),
        problem=problem,
        doubt=judged.doubt if total.rows else "no row could be compared",
        holds=f"{total.rows} rows of {total.answers} answers agree with the same items elsewhere, to "
        f"{total.largest:.3g}"
        if total.rows
        else None,
    )


def _against_serial(subject: Subject, seed: int) -> tuple[int, float, str | None]:
    """Rows that both servers have scored: how many, their largest difference, and what is wrong with one."""
    multi, serial = subject.multi, subject.serial_at_hand(subject.multi)
    assert serial is not None
    semantics, delimiter = declared_semantics(multi), multi.delimiter

    def behind(query: tuple[int, ...]) -> list[int]:
        return semantics.serial_query(query, delimiter)

    usual = {tuple(subject.settings.labels), *(case.labels for case in subject.cases(multi))}

    def is_usual(context: Context) -> bool:
        """Other labels, and probabilities, are judged by gates of their own."""
        return context.apply_softmax and context.labels in usual

    random = np.random.default_rng(seed)
    contexts = [(context, list(filter(None, items))) for context, items in multi.answers.known() if items]
    contexts = [(context, items) for context, items in contexts if items and is_usual(context)]
    asked = 0
    for place in random.permutation(len(contexts)):
        if asked >= _SERIAL_SAMPLE:
            break
        context, items = contexts[place]
        chosen = [items[at] for at in random.permutation(len(items))[:_SERIAL_AT_ONCE]]
        serial.score_ids(behind(context.query), chosen, context.labels)
        asked += len(chosen)
    serial.judge_answers(seed)
    rows, apart = 0, 0.0
    for context, item, ours, theirs in cross_checked(multi.answers, serial.answers, behind):
        if not is_usual(context):
            continue
        difference = context.difference(ours, theirs)
        rows, apart = rows + 1, max(apart, difference)
        if not difference <= PLACED:
            what = f"an item of {len(item)} tokens behind a query of {len(context.query)}"
            return rows, apart, f"wrong_scores: {what} is {difference:.3g} away from its serial score"
    return rows, apart, None


EVERY_SCORE = Gate(
    "every_score_agrees",
    "every score that was received, against the same item in other requests, over other connections, at other times, "
    "and on the serial server",
    rests_on="rows of every answer, compared",
    measure=measure,
    needs=("multi",),
    costly=True,
    short="every score",
    order=17.5,
)
GATES = (EVERY_SCORE,)
