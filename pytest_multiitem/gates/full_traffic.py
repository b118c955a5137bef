"""Traffic as users send it: many different requests in flight, fresh connections, other endpoints, cold caches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from threading import Barrier

import numpy as np

from pytest_multiitem.adapters.attestation import Attestation
from pytest_multiitem.adapters.base import Neighbour
from pytest_multiitem.gates.every_score import CONNECTIONS
from pytest_multiitem.gates.evidence import baseline, evidence_of, max_abs
from pytest_multiitem.gates.gate import Gate, Measurement, magnitude
from pytest_multiitem.gates.ladder import ladder_of
from pytest_multiitem.gates.rounding import precision_of
from pytest_multiitem.gates.subject import Subject
from pytest_multiitem.results import details
from pytest_multiitem.scoring.cases import Case, TokenIds, drawn
from pytest_multiitem.scoring.limits import PLACED, placed_limit
from pytest_multiitem.targets.target import Target, declared_semantics
from pytest_multiitem.transport.client import ScoreFailure, Scores

#: Requests in flight at the same time, at most: of a server that the run owns, and of one that serves others as well.
OWN_MOST, ATTACHED_MOST, QUICK_MOST = 64, 16, 16
_ITEMS = (5, 9)
_QUERY = 20
#: Requests of every level in flight, at least: a few at a time are sent several times, for they may miss one another.
_OF_A_LEVEL = 48
#: Requests that are replayed before there is any traffic.
_REPLAYED = 9
#: Score requests after each request of a neighbour.
_AFTER_NEIGHBOUR = 2
#: Requests whose items are sent behind the first one's query, once that is known.
_BEHIND_KNOWN = 3
#: The stage that is compared with the serial server as well, which may compute otherwise.
_KNOWN = "known queries"


def measure(subject: Subject) -> Measurement:
    """Score different requests one by one; then over fresh connections, at the same time, after and beside requests to
    other endpoints, and after the caches were flushed: each must score what it scored alone. Behind a query that is
    known by then, and behind others that are almost it, items must score what the serial server gives them too.

    The value is the largest difference.
    """
    multi, settings, record = subject.multi, subject.settings, subject.record
    cases = subject.cases(multi)
    alone = [baseline(multi, case, record) for case in cases]
    most = settings.max_in_flight or (OWN_MOST if multi.owned else ATTACHED_MOST)
    most = min(most, QUICK_MOST) if settings.effort == "quick" else most
    stages: dict[str, details.Stage] = {}
    not_tried: dict[str, str] = {}
    with multi.attest() as attestation, _Played(multi, requests_of(subject, most)) as played:
        played.alone()
        for name, stage, reason in _stages(subject, played, most):
            if reason is not None:
                not_tried[name] = reason
                continue
            differences = stage()
            stages[name] = details.Stage(requests=len(differences), largest=max(differences, key=magnitude))
    attestation.packed_sequences = attestation.packed_items = 0
    judged = multi.judge_answers(settings.seed, since=played.begin)
    limits = {name: placed_limit(multi.dtype) for name in stages}
    if _KNOWN in limits:
        limits[_KNOWN] = _serial_limit(multi, subject.serial_at_hand(multi))
    worst = max(stages, key=lambda name: magnitude((stages[name].largest or 0.0) / limits[name]))
    value, limit = stages[worst].largest or 0.0, limits[worst]
    problem, doubt = judged.problem, judged.doubt
    if not value <= limit:
        problem = f"{worst}: a request is {value:.3g} away from what it scores alone, at most {limit:g}"
        if played.noise > limit:
            problem, doubt = None, f"replaying the same request, quietly, moves scores by {played.noise:.3g}"
    return Measurement(
        target=multi,
        value=value,
        evidence=evidence_of(multi, subject.serial_at_hand(multi), cases, record, scored=alone, spread=alone),
        attestation=Attestation.joined([*(base.attestation for base in alone), attestation]),
        samples={"requests": sum(stage.requests for stage in stages.values()), "most_in_flight": most},
        details=details.Traffic(stages=stages, not_tried=not_tried),
        problem=problem,
        doubt=doubt,
        holds=f"{len(played.cases)} requests score what they score alone, to {value:.3g}, in {len(stages)} kinds of "
        f"traffic, up to {most} in flight",
    )


def _serial_limit(multi: Target, serial: Target | None) -> float:
    """How far the two servers may be apart: little where both compute in float32."""
    both = [each for each in (multi, serial) if each is not None]
    exact = all(precision_of(each.dtype, each.info.get("device")).exact for each in both)
    return placed_limit(multi.dtype) if exact else PLACED


def almost(query: TokenIds, pool: TokenIds) -> list[TokenIds]:
    """Queries that keys of a cache might take for this one: its first, a middle or its last token is another one, or
    some are in another order, one is missing at the end, or one more stands there."""
    count = len(query)
    found = []
    for at in dict.fromkeys((0, count // 2, count - 1)):
        other = next(token for token in pool if token not in query)
        found.append((*query[:at], other, *query[at + 1 :]))
    found += [(*query[1:], query[0]), (*query[:-2], *query[:-3:-1]), query[:-1], (*query, query[0])]
    return [each for each in dict.fromkeys(found) if each and each != query]


def requests_of(subject: Subject, count: int) -> list[Case]:
    """So many small requests, every one with a query of its own; all of one shape."""
    ladder = ladder_of(subject)
    pool = ladder.pool
    draw = partial(drawn, np.random.default_rng([subject.settings.seed, 31]), pool)
    query = min(_QUERY, max(1, (ladder.most_tokens - sum(_ITEMS) - len(_ITEMS)) // 2))
    return [
        Case(f"traffic {number}", draw(query), tuple(map(draw, _ITEMS)), ladder.labels, pool) for number in range(count)
    ]


class _Played(ExitStack):
    """Requests, and what each scores alone. Close it: it opens connections for those that are sent at the same time.

    ``noise``: how far two quiet replays of a request are apart, at the median. That they both are away from its first
    answer is none: a server that scores otherwise what it knows is wrong.
    """

    def __init__(self, multi: Target, cases: Sequence[Case]) -> None:
        super().__init__()
        self.multi = multi
        self.noise = 0.0
        self._servers: list[Target] = []
        self.cases = cases
        self.begin = multi.answers.mark()
        self._alone: list[Scores] = []

    def alone(self) -> None:
        """Send them one by one, and a few of them twice more."""
        self._alone = [self.multi.score(case) for case in self.cases]
        once, again = ([self.multi.score(case) for case in self.cases[:_REPLAYED]] for _ in range(2))
        self.noise = float(np.median([max_abs(right - left) for left, right in zip(once, again, strict=True)]))

    def away(self, number: int, scores: Scores) -> float:
        """How far an answer is from the one that the request got alone."""
        return max_abs(scores - self._alone[number])

    def fresh_connections(self, count: int) -> list[float]:
        """A request over new connections, each of them open until all have been used."""
        with ExitStack() as stack:
            return [self.away(0, stack.enter_context(self.multi.another()).score(self.cases[0])) for _ in range(count)]

    def in_flight(self, count: int) -> list[float]:
        """Different requests, ``count`` of them sent at the same moment, over connections of their own."""
        while len(self._servers) < count:
            self._servers.append(self.enter_context(self.multi.another()))
        servers = self._servers
        with ThreadPoolExecutor(count, thread_name_prefix="multiitem-traffic") as pool:
            together = Barrier(count)

            def send(place: int) -> list[float]:
                away = []
                for turn in range(max(1, _OF_A_LEVEL // count)):
                    together.wait()
                    number = (place + turn * count) % len(self.cases)
                    away.append(self.away(number, servers[place].score(self.cases[number])))
                return away

            def abandoning(place: int) -> list[float]:
                try:
                    return send(place)
                except BaseException:
                    together.abort()  # nobody waits for one that failed
                    raise

            futures = [pool.submit(abandoning, place) for place in range(count)]
            failures = [future.exception() for future in futures]
            for failure in failures:
                if isinstance(failure, ScoreFailure) or (
                    failure is not None and not any(isinstance(each, ScoreFailure) for each in failures)
                ):
                    raise failure
            return [each for future in futures for each in future.result()]

    def beside(self, neighbour: Neighbour) -> list[float]:
        """Requests after a neighbour's, and while it asks."""
        away = []
        neighbour.ask(self.multi.client)
        away += [self.away(number, self.multi.score(self.cases[number])) for number in range(_AFTER_NEIGHBOUR)]
        with self.multi.another() as other, ThreadPoolExecutor(1) as pool:
            asking = pool.submit(neighbour.ask, other.client)
            away.append(self.away(0, self.multi.score(self.cases[0])))
            asking.result()
        return [*away, self.away(1 % len(self.cases), self.multi.score(self.cases[1 % len(self.cases)]))]

    def known(self, serial: Target) -> list[float]:
        """Other items behind the first request's query, and its items behind queries that are almost that one, each
        against the serial server; after each of them the first request again."""
        multi, first = self.multi, self.cases[0]
        behind = [replace(first, items=each.items) for each in self.cases[1:_BEHIND_KNOWN]]
        near = [replace(first, query=query) for query in almost(first.query, first.pool)]
        away = []
        for case in (*behind, *near, *behind):
            query = declared_semantics(multi).serial_query(case.query, multi.delimiter)
            away.append(max_abs(multi.score(case) - serial.score_ids(query, case.items, case.labels)))
            away.append(self.away(0, multi.score(first)))
        return away

    def cold(self) -> list[float]:
        """A request after a flush, again, after one with another query, and again."""
        self.multi.flush_cache()
        numbers = (0, 0, len(self.cases) - 1, 0, len(self.cases) - 1)
        return [self.away(number, self.multi.score(self.cases[number])) for number in numbers]


def _stages(
    subject: Subject, played: _Played, most: int
) -> Iterator[tuple[str, Callable[[], list[float]], str | None]]:
    """Name, what to play, and why it cannot be."""
    multi, settings = played.multi, subject.settings
    yield "fresh connections", partial(played.fresh_connections, CONNECTIONS), None
    serial = subject.serial_at_hand(multi)
    if serial is None or not declared_semantics(multi).has_serial_reference:
        yield _KNOWN, list, "no serial server to compare with, or no serial scores that packed ones equal"
    else:
        yield _KNOWN, partial(played.known, serial), None
    level = 2
    while level <= most:
        yield f"{level} in flight", partial(played.in_flight, level), None
        level *= 2
    yield "fresh connections after traffic", partial(played.fresh_connections, CONNECTIONS), None
    neighbours = () if multi.adapter is None else multi.adapter.neighbours
    allowed = multi.owned or settings.mixed_traffic
    for neighbour in neighbours:
        reason = None if allowed else "another's server: add --multiitem-mixed-traffic"
        yield f"beside {neighbour.path}", partial(played.beside, neighbour), reason
    if not neighbours:
        yield "beside other endpoints", list, "the engine has none that may be asked beside score requests"
    flushes = multi.adapter is not None and multi.adapter.flushes_cache
    may_flush = None if flushes and multi.owned else "another's server" if flushes else "the engine has no such request"
    yield "cold and warm caches", played.cold, may_flush


TRAFFIC = Gate(
    "traffic_agrees",
    "what a request scores among up to 64 others with other queries, over fresh connections, beside other endpoints, "
    "and with cold caches, against what it scores alone; behind known queries and almost known ones, against serial "
    "scores",
    rests_on="the same requests alone",
    measure=measure,
    needs=("multi",),
    also_on=("extend",),
    costly=True,
    short="traffic",
    order=5.1,
)
GATES = (TRAFFIC,)
