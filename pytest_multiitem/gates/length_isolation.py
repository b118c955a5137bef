"""Length isolation: the length of one item must not show in other items' scores beyond what rounding does.

Another length is another shape, and may round otherwise. How far is measured where no leak can be, in four ways, of
which the largest counts (the shape floor):

- the precision's own rounding, as far as the server says what it computes in;
- quiet replays;
- the serial server, where items that stand in one request are compared with the same items alone: whatever batches it
  makes of them, nothing can leak;
- the two sides of the changed item: whatever it does to others by way of a mask or of positions, it does to those
  behind it; so those before it show rounding alone. That is not taken for granted: of both sides the one that moved
  LESS counts, so that a leak must reach both, equally far, to pass for a floor. Then its trend remains.

Rounding knows no order of lengths. So the second test asks whether scores follow the length (`rounding.trend`), with no
floor at all. What looks like a trend is measured again, on another request: chance does not come twice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pytest_multiitem.adapters.attestation import Attestation
from pytest_multiitem.gates.evidence import Baseline, baseline, evidence_of, max_abs
from pytest_multiitem.gates.gate import Gate, Measurement, magnitude
from pytest_multiitem.gates.judge import FAR, NOISE_FACTOR, blindness
from pytest_multiitem.gates.rounding import Ladder, Precision, Trend, precision_of, trend
from pytest_multiitem.gates.subject import Subject
from pytest_multiitem.gates.traffic import Recorder, sample
from pytest_multiitem.results import details
from pytest_multiitem.results.records import Evidence
from pytest_multiitem.scoring.cases import Case, TokenIds
from pytest_multiitem.targets.target import Target, declared_semantics
from pytest_multiitem.transport.client import ScoreFailure

#: By how many tokens one item grows.
GROWTH = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256)
#: Items beside the changed one, and tokens of each at most.
_ITEMS, _TOKENS = 6, 40
#: Growth that a server may refuse; the ladder then ends below it.
_MAY_BE_REFUSED = 32
#: A trend as strong is chance once in a hundred measurements; twice in a row, in ten thousand.
_P = 0.01


@dataclass(frozen=True, eq=False)
class Lengths:
    """Ladders of one request, the floors, and whether scores follow the length. ``again``: the trend of the second
    request, where the first had one."""

    ladders: list[Ladder]
    base: Baseline
    attestation: Attestation
    precision: Precision
    serial_floor: float
    trend: Trend
    again: Trend | None = None

    @property
    def value(self) -> float:
        """The largest change of an untouched item's score."""
        return max((max_abs(ladder.changes) for ladder in self.ladders), key=magnitude, default=0.0)

    @property
    def side_floor(self) -> float:
        """The largest change on the side of the changed item where less moved."""
        sides = [
            max((max_abs(ladder.changes[:, ladder.before == before]) for ladder in self.ladders), default=0.0)
            for before in (True, False)
        ]
        return min(sides)

    @property
    def measured_floor(self) -> float:
        """The largest floor that was measured."""
        return max(self.base.floor, self.serial_floor, self.side_floor, key=magnitude)

    @property
    def floor(self) -> float:
        """The shape floor."""
        return max(self.precision.floor, self.measured_floor, key=magnitude)

    @property
    def follows(self) -> bool:
        """Whether scores follow the length: twice, and by more than this precision rounds."""
        first, second = self.trend, self.again
        return second is not None and _suspicious(second, self.precision) and _suspicious(first, self.precision)

    @property
    def leaks(self) -> bool:
        """Whether this is no rounding."""
        return self.follows or not self.value <= NOISE_FACTOR * self.floor


def _suspicious(found: Trend, precision: Precision) -> bool:
    return found.p <= _P and found.size > precision.trend


def lengths(subject: Subject) -> Lengths | None:
    """The ladders of a server: measured once, whichever gates need them. None where no request has two items."""
    multi = subject.multi
    request = request_of(subject)
    key = ("length isolation", request)
    if key not in multi.memo:
        multi.memo[key] = None if request is None else _measured(subject, request)
    known: Lengths | None = multi.memo[key]
    return known


def request_of(subject: Subject) -> Case | None:
    """The first request's query, and its first items with tokens, cut: what stands beside the changed item. The longest
    comes first, for a border that leaks may ask for length."""
    for case in subject.cases(subject.multi):
        items = [item[:_TOKENS] for item in case.items if item][:_ITEMS]
        if len(items) > 1:
            longest = max(range(len(items)), key=lambda index: len(items[index]))
            return replace(case, items=(items[longest], *items[:longest], *items[longest + 1 :]))
    return None


def _measured(subject: Subject, request: Case) -> Lengths:
    multi, record, seed = subject.multi, subject.record, subject.settings.seed
    base = baseline(multi, _with(request, 0, _tokens(request, 1, seed)), record)
    precision = precision_of(multi.dtype, multi.info.get("device"))
    with multi.attest() as attestation:
        ladders = _ladders(multi, request, seed, record)
        found = Lengths(ladders, base, attestation, precision, 0.0, Trend(1.0, 1.0, 0.0, 0.0))
        if found.value == 0.0 or not math.isfinite(found.value):  # nothing to explain
            return found
        first = trend(ladders, seed=seed)
        again = None
        if _suspicious(first, precision):
            other = replace(request, query=request.query[::-1], items=request.items[::-1])
            again = trend(_ladders(multi, other, seed + 1, record), seed=seed + 1)
    serial_floor = batch_floor(subject.serial, request, multi, record)
    return replace(found, serial_floor=serial_floor, trend=first, again=again)


def _ladders(multi: Target, request: Case, seed: int, record: Recorder) -> list[Ladder]:
    """One ladder each with the changed item first, in the middle and last."""
    count = len(request.items)
    longest = _tokens(request, 1 + GROWTH[-1], seed)
    room = None
    if multi.max_tokens is not None:
        room = multi.max_tokens - (len(request.query) + 1 + sum(len(item) + 1 for item in request.items) + 1)
    found = []
    for place in dict.fromkeys((0, count // 2, count)):
        tried: list[int] = []
        rows: list[NDArray[np.float64]] = []
        for length in (1 + grown for grown in GROWTH if room is None or grown == 0 or 1 + grown <= room):
            try:
                scores = multi.score(_with(request, place, longest[:length]))
            except ScoreFailure as failure:
                if length <= _MAY_BE_REFUSED or failure.status not in (400, 413, 422):
                    raise
                break
            sample(record, "length", case=request.name, place=place, length=length, scores=scores)
            tried.append(length)
            rows.append(np.delete(scores, place, axis=0))
        labels = rows[0].shape[1]
        before = np.repeat(np.arange(count) < place, labels)
        found.append(Ladder(tuple(tried), np.stack(rows).reshape(len(rows), -1), before))
        if not max_abs(found[-1].changes) <= FAR:  # no more need be known
            break
    return found


def _with(request: Case, place: int, item: TokenIds) -> Case:
    items = (*request.items[:place], item, *request.items[place:])
    return replace(request, name=f"{request.name}, item {place} of {len(item)} tokens", items=items)


def _tokens(request: Case, count: int, seed: int) -> TokenIds:
    drawn = np.random.default_rng(seed).integers(0, len(request.pool), count)
    return tuple(request.pool[place] for place in drawn.tolist())


def batch_floor(serial: Target, request: Case, multi: Target, record: Recorder) -> float:
    """How far the serial scores of a request's items move by being asked for together: measured once for a server."""
    key = ("batch floor", request, declared_semantics(multi), multi.delimiter)
    if key not in serial.memo:
        query = tuple(declared_semantics(multi).serial_query(request.query, multi.delimiter))
        together = serial.score_ids(query, request.items, request.labels)
        alone = [serial.score_ids(query, [item], request.labels) for item in request.items]
        sample(record, "serial batch", case=request.name, together=together, alone=np.concatenate(alone))
        serial.memo[key] = max_abs(together - np.concatenate(alone))
    floor: float = serial.memo[key]
    return floor


def measure(subject: Subject) -> Measurement:
    """Change the length of the first, a middle and the last item by 1, 2, 4 … 256 tokens, and compare all others.

    PASS: no change is more than `NOISE_FACTOR` shape floors, and none follows the length. FAIL: one is, of a precision
    that is known to be float32 or by more than the contract's limit of equivalence; or scores follow the length.
    """
    multi, record = subject.multi, subject.record
    found = lengths(subject)
    if found is None:
        return Measurement(target=multi, value=None, samples={"requests": 0, "items": 0})
    cases = subject.cases(multi)
    usable = [case for case in cases if len(case.items) > 1]
    evidence = evidence_of(
        multi,
        subject.serial,
        usable,
        record,
        scored=[found.base],
        spread=[baseline(multi, case, record) for case in usable],
    )
    evidence.traffic_floor = None  # nothing else runs here
    value = found.value
    if value:
        evidence.shape_floor, evidence.leak_bound = found.floor, found.trend.bound
    problem, doubt, holds = _judged(found, evidence)
    return Measurement(
        target=multi,
        value=value,
        evidence=evidence,
        attestation=Attestation.joined([found.base.attestation, found.attestation]),
        samples={
            "requests": sum(len(ladder.lengths) for ladder in found.ladders),
            "items": sum(ladder.scores.shape[1] for ladder in found.ladders) // found.base.scores.shape[1],
        },
        details=_details(found),
        problem=problem,
        doubt=doubt,
        holds=holds,
    )


def _judged(found: Lengths, evidence: Evidence) -> tuple[str | None, str | None, str | None]:
    """Problem, doubt, and why it holds."""
    value, floor, precision = found.value, found.floor, found.precision
    limit = NOISE_FACTOR * floor
    said = f"scores of untouched items move by {value:.3g}; the shape floor is {floor:.3g}"
    if not value <= limit:
        undecided = not precision.exact and value <= precision.most and not found.follows
        if undecided:
            what = "this precision may round by as much" if precision.known else "the server does not say its precision"
            return None, f"{said}, and no more than that was measured, but {what}", None
        return f"{said}: {value - limit:.3g} more than {NOISE_FACTOR:g} times that", None, None
    if found.follows:
        found_again = found.again or found.trend
        return (
            (
                f"{said}, but they follow the length of the changed item, by {found.trend.size:.3g} to the longest "
                f"(p = {found.trend.p:.2g}, and p = {found_again.p:.2g} on another request): rounding does not"
            ),
            None,
            None,
        )
    if floor > precision.most:
        return None, f"{said}, which is more than rounding should do ({precision.most:g})", None
    blind = blindness(_without_floor(evidence), limit if value else 0.0, ("leak_visibility", "score_spread"))
    if blind is not None:
        return None, blind, None
    if not value:
        return None, None, "no length of one item moves another's score by a bit"
    with_length = (
        f"with the length of the changed item they go {found.trend.size:.3g} at most (p = {found.trend.p:.2g})"
    )
    return None, None, f"{said}; {with_length}: a leak is at most {found.trend.bound:.3g} (95 %)"


def _without_floor(evidence: Evidence) -> Evidence:
    return Evidence(leak_visibility=evidence.leak_visibility, score_spread=evidence.score_spread)


def _details(found: Lengths) -> details.LengthIsolation:
    by_growth: dict[int, float] = {}
    for ladder in found.ladders:
        for length, moved in zip(ladder.lengths[1:], ladder.changes, strict=True):
            grown = length - ladder.lengths[0]
            by_growth[grown] = max(by_growth.get(grown, 0.0), max_abs(moved), key=magnitude)
    first, again = found.trend, found.again
    return details.LengthIsolation(
        changes={str(grown): change for grown, change in sorted(by_growth.items())},
        precision_floor=found.precision.floor,
        replay_floor=found.base.floor,
        serial_batch_floor=found.serial_floor,
        side_floor=found.side_floor,
        p_growth=first.p_growth,
        p_direction=first.p_direction,
        trend=first.size,
        leak_upper_95=first.bound,
        p_again=None if again is None else again.p,
    )


def shape_floor(subject: Subject) -> tuple[float | None, float | None]:
    """The shape floor and the bound of a leak, for gates that allow no difference; None where it leaks, or the floor is
    more than rounding should be. Shapes that these gates met may round although those of the ladders did not."""
    found, request = lengths(subject), request_of(subject)
    if found is None or request is None or found.leaks:
        return None, None
    floor = max(found.floor, batch_floor(subject.serial, request, subject.multi, subject.record))
    return (None, None) if floor > found.precision.most else (floor, found.trend.bound)


LENGTH_ISOLATION = Gate(
    "length_isolation",
    "max abs score change of untouched items when the length of one item changes, against what shapes alone do",
    rests_on="shape floor, no trend with the length, leak visibility, score spread",
    measure=measure,
    needs=("multi", "serial"),
    judges=lambda backend: ("multi",),
    costly=True,
    short="length",
    order=2.6,
)
GATES = (LENGTH_ISOLATION,)
