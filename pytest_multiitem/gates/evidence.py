"""What is measured around a value, shared by all gates: floors, visibility, spread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, pairwise

import numpy as np

from pytest_multiitem.adapters.attestation import Attestation
from pytest_multiitem.gates.gate import larger_floor, magnitude
from pytest_multiitem.gates.traffic import Recorder, sample, surrounded
from pytest_multiitem.results.records import Evidence
from pytest_multiitem.scoring.cases import Case
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.targets.target import Target
from pytest_multiitem.transport.client import Scores
from pytest_multiitem.transport.one_item import NeverScored

_REPLAYS = 3
_VISIBILITY_PAIRS = 4
_VISIBILITY_CASES = 3


def max_abs(difference: Scores) -> float:
    """The largest absolute value; NaN where there is one, 0.0 of nothing."""
    return float(np.abs(difference).max()) if difference.size else 0.0


@dataclass(frozen=True, eq=False)
class Baseline:
    """The scores [N, K] of an unchanged request, how far replays move them (``floor``: quiet ones, ``traffic_floor``:
    one among other requests), and what was executed."""

    scores: Scores
    floor: float
    traffic_floor: float
    attestation: Attestation

    @property
    def noise(self) -> float:
        """The larger floor; not finite where one of them is not."""
        return max(self.floor, self.traffic_floor, key=magnitude)


def baseline(target: Target, case: Case, record: Recorder) -> Baseline:
    """Score a request and replay it, quietly and among others: once for a server, whichever gates need it."""
    if case not in target.memo:
        with target.attest() as quiet:
            scores, floor = replayed(target, case, record)
        with target.attest() as busy:
            again = surrounded(target, case, record)
        busy.packed_sequences = busy.packed_items = 0  # how small the other requests are says nothing of this one
        attestation = Attestation.joined([quiet, busy])
        target.memo[case] = Baseline(scores, floor, max_abs(again - scores), attestation)
    measured: Baseline = target.memo[case]
    return measured


def evidence_of(
    packed: Target,
    serial: Target | None,
    cases: Sequence[Case],
    record: Recorder,
    *,
    scored: Sequence[Baseline],
    spread: Sequence[Baseline],
    semantic: bool = False,
) -> Evidence:
    """The larger floors of the ``scored`` requests, the range of the scores of the ``spread`` ones, and how visible a
    leak between the items of ``cases`` would be by ``serial``, where there is one; so a delimiter with ``semantic``."""
    evidence = Evidence(
        noise_floor=larger_floor(*(each.floor for each in scored)),
        traffic_floor=larger_floor(*(each.traffic_floor for each in scored)),
        score_spread=score_spread([each.scores for each in spread]),
    )
    if serial is not None and packed.profile.semantics is not None:
        evidence.leak_visibility, _ = leak_visibility(serial, cases, packed.profile.semantics, packed.delimiter, record)
        if semantic:
            evidence.semantic_visibility = semantic_visibility(serial, cases, packed.delimiter, record)
    return evidence


def replayed(target: Target, case: Case, record: Recorder) -> tuple[Scores, float]:
    """The scores [N, K] of a request that nothing else is beside, and its quiet noise floor."""
    scores = target.score(case)
    sample(record, "scores", server=target.profile.label, case=case.name, scores=scores)
    return scores, replay_floor(target, case, scores, record)


def replay_floor(target: Target, case: Case, first: Scores, record: Recorder) -> float:
    """How far replays of the same request move its scores: the noise floor, an A/A comparison."""
    return max((max_abs(replay(target, case, record) - first) for _ in range(_REPLAYS - 1)), key=magnitude)


def replay(target: Target, case: Case, record: Recorder) -> Scores:
    """The scores [N, K] of a request that was sent before."""
    again = target.score(case)
    sample(record, "replay", server=target.profile.label, case=case.name, scores=again)
    return again


def score_spread(scores: Sequence[Scores]) -> float | None:
    """The range of the scores over a request's items; the median over the requests with two items or more."""
    ranges = [float(np.ptp(s, axis=0).max()) for s in scores if len(s) > 1]
    return float(np.median(ranges)) if ranges else None


def leak_visibility(
    serial: Target, cases: Sequence[Case], semantics: Semantics, delimiter: int, record: Recorder
) -> tuple[float | None, list[float]]:
    """How far an item's score moves when a neighbour stands in front of it, on this very model.

    Measured on the serial server alone: ``query + d + item_j + d + item_i`` against
    ``query + d + item_i`` (without delimiters where the semantics has none). Returns the largest
    shift and all of them; None where no request has two items with tokens. Measured once for a server.
    """
    chosen = tuple(cases[:_VISIBILITY_CASES])
    key = ("leak visibility", chosen, semantics, delimiter)
    if key not in serial.memo:
        shifts: list[float] = []
        between = (delimiter,) if semantics.sees_first_delimiter else ()
        for case in chosen:
            query = semantics.serial_query(case.query, delimiter)
            for left, right in islice(pairwise(filter(None, case.items)), _VISIBILITY_PAIRS):
                scores = serial.score_ids(query, [right, (*left, *between, *right)], case.labels)
                sample(record, "leak visibility", case=case.name, scores=scores)
                shifts.append(max_abs(scores[1] - scores[0]))
        serial.memo[key] = shifts
    known: list[float] = serial.memo[key]
    return larger_floor(*known), known


def semantic_visibility(serial: Target, cases: Sequence[Case], delimiter: int, record: Recorder) -> float | None:
    """How far the delimiter in front of an item moves its score, on this very model: the largest difference of
    ``query + d + item`` and ``query + item`` over a few items.

    Below the limit of a gate, it could not tell the two semantics apart. None where no request has an item with
    tokens, and of a server that never scores without the delimiter. Measured once for a server.
    """
    chosen = tuple(cases[:_VISIBILITY_CASES])
    key = ("semantic visibility", chosen, delimiter)
    if key not in serial.memo:
        shifts = []
        for case in chosen:
            items = [item for item in case.items if item][:_VISIBILITY_PAIRS]
            if not items:
                continue
            queries = (case.query, (*case.query, delimiter))
            try:
                plain, aligned = (serial.score_ids(query, items, case.labels) for query in queries)
            except NeverScored:
                continue
            sample(record, "semantic visibility", case=case.name, plain=plain, aligned=aligned)
            shifts.append(max_abs(aligned - plain))
        serial.memo[key] = larger_floor(*shifts)
    largest: float | None = serial.memo[key]
    return largest
