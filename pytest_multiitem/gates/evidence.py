"""What is measured around a value, shared by all gates: floors, visibility, spread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, pairwise

import numpy as np

from pytest_multiitem.adapters.attestation import Attestation
from pytest_multiitem.gates.gate import larger_floor, magnitude
from pytest_multiitem.gates.traffic import Recorder, surrounded
from pytest_multiitem.scoring.cases import Case
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.targets.target import Target
from pytest_multiitem.transport.client import Scores

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
    found: Baseline = target.memo[case]
    return found


def floors(found: Sequence[Baseline]) -> dict[str, float | None]:
    """Both floors of several requests, as `Evidence` takes them: the largest of each."""
    return {
        "noise_floor": larger_floor(*(each.floor for each in found)),
        "traffic_floor": larger_floor(*(each.traffic_floor for each in found)),
    }


def replayed(target: Target, case: Case, record: Recorder) -> tuple[Scores, float]:
    """The scores [N, K] of a request that nothing else is beside, and its quiet noise floor."""
    scores = target.score(case)
    record({"kind": "scores", "server": target.profile.label, "case": case.name, "scores": scores.tolist()})
    return scores, replay_floor(target, case, scores, record)


def replay_floor(target: Target, case: Case, first: Scores, record: Recorder) -> float:
    """How far replays of the same request move its scores: the noise floor, an A/A comparison."""
    return max((max_abs(replay(target, case, record) - first) for _ in range(_REPLAYS - 1)), key=magnitude)


def replay(target: Target, case: Case, record: Recorder) -> Scores:
    """The scores [N, K] of a request that was sent before."""
    again = target.score(case)
    record({"kind": "replay", "server": target.profile.label, "case": case.name, "scores": again.tolist()})
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
        serial.memo[key] = _neighbour_shifts(serial, chosen, semantics, delimiter, record)
    shifts: list[float] = serial.memo[key]
    return larger_floor(*shifts), shifts


def _neighbour_shifts(
    serial: Target, cases: Sequence[Case], semantics: Semantics, delimiter: int, record: Recorder
) -> list[float]:
    shifts: list[float] = []
    for case in cases:
        query = semantics.serial_query(case.query, delimiter)
        between = (delimiter,) if semantics.sees_first_delimiter else ()
        filled = [item for item in case.items if item]
        for left, right in islice(pairwise(filled), _VISIBILITY_PAIRS):
            scores = serial.score_ids(query, [right, (*left, *between, *right)], case.labels)
            record({"kind": "leak visibility", "case": case.name, "scores": scores.tolist()})
            shifts.append(max_abs(scores[1] - scores[0]))
    return shifts


def semantic_visibility(serial: Target, cases: Sequence[Case], delimiter: int, record: Recorder) -> float | None:
    """How far the delimiter in front of an item moves its score, on this very model: the largest difference of
    ``query + d + item`` and ``query + item`` over a few items.

    Below the limit of a gate, it could not tell the two semantics apart. None where no request has an item with
    tokens. Measured once for a server.
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
            plain, aligned = (serial.score_ids(query, items, case.labels) for query in queries)
            record(
                {"kind": "semantic visibility", "case": case.name, "plain": plain.tolist(), "aligned": aligned.tolist()}
            )
            shifts.append(max_abs(aligned - plain))
        serial.memo[key] = larger_floor(*shifts)
    found: float | None = serial.memo[key]
    return found
