"""Property-based isolation: relations that must not change scores, on requests found by a search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pytest_multiitem.adapters.attestation import Attestation
from pytest_multiitem.gates.evidence import score_spread
from pytest_multiitem.gates.gate import Gate, Measurement, magnitude
from pytest_multiitem.gates.judge import MIN_SCORE_SPREAD
from pytest_multiitem.gates.relation_judge import Judge, Violation
from pytest_multiitem.gates.subject import Subject
from pytest_multiitem.properties.play import Player, send
from pytest_multiitem.results import details
from pytest_multiitem.results.counterexample import Counterexample, Server
from pytest_multiitem.results.records import Evidence
from pytest_multiitem.results.store import checksum, utc_now
from pytest_multiitem.scoring.cases import ASSUMED_VOCABULARY, Case, TokenIds, token_pool
from pytest_multiitem.scoring.relations import (
    ScoreBody,
    Space,
    beside_serial,
    budget,
    relation,
    relation_names,
    relations,
)
from pytest_multiitem.targets.target import Target

#: Labels of a request: with three of them, an order is more than a swap.
_LABELS = 3
#: Item lengths of the request whose replays are the noise floor.
_PROBE_LENGTHS = (1, 20, 3, 17, 2, 18, 9, 33)


def measure(subject: Subject) -> Measurement:
    """Try the subject's number of examples, the relations in turn; of each that does not hold, one request is made
    small and kept. Where nothing is to be made small, the first one ends it. The value is the largest difference over
    the relations that allow none.
    """
    from pytest_multiitem.properties.search import search  # Hypothesis: no other gate needs it

    multi, settings = subject.multi, subject.settings
    serial, context = _serial_side(subject)
    space = space_of(
        multi, labels=settings.labels, delimiter=multi.delimiter, max_tokens=settings.property_max_tokens,
        context=context,
    )  # fmt: skip
    tried = relations(space)
    begin = multi.answers.mark()

    def score(request: ScoreBody) -> Any:
        with multi.watch():
            return send(multi.client, request)

    def score_serially(request: ScoreBody) -> Any:
        assert serial is not None  # no relation asks for it otherwise
        with serial.watch():
            return send(serial.client, request)

    with multi.attest() as attestation, Player(score, multi.client.another, score_serially) as player:
        judge = Judge(player, multi.dtype, subject.record)
        probe = _probe(space)
        judge.probe(probe)
        if context is not None and serial is not None:
            judge.calibrate(beside_serial(probe, context), (multi.dtype, serial.dtype))
        share = budget(tried, subject.examples)
        for kind in tried:
            over = judge.ended is not None or (judge.found and not subject.shrink)
            if share[kind.name] and not over:
                own_seed = settings.seed + relation_names().index(kind.name)
                search(kind, space, judge.holds, examples=share[kind.name], seed=own_seed, shrink=subject.shrink)
        if judge.ended is not None:
            with multi.watch():  # a sender beside it may have met the server's end first
                raise judge.ended
        if not judge.found and judge.unanswered is not None:
            raise judge.unanswered
        reproduced = [judge.again(violation) for violation in judge.found.values()]
    if not subject.shrink:  # a build among hundreds: its relations alone judge what the search received
        multi.answers.drop(begin)
    for violation, again in zip(judge.found.values(), reproduced, strict=True):
        subject.keep(_counterexample(multi, serial, violation, settings.seed, again))
    return _measurement(multi, judge, requests=player.played, attestation=attestation)


def _serial_side(subject: Subject) -> tuple[Target, TokenIds] | tuple[None, None]:
    """The serial server at hand, and what it reads between a query and an item; nothing where packed scores equal no
    serial ones."""
    multi = subject.multi
    semantics, serial = multi.profile.semantics, subject.serial_at_hand(multi)
    if serial is None or semantics is None or not semantics.has_serial_reference:
        return None, None
    return serial, tuple(semantics.serial_query((), multi.delimiter))


def space_of(
    multi: Target, *, labels: Sequence[int], delimiter: int, max_tokens: int, context: TokenIds | None = None
) -> Space:
    """What requests to a server are drawn from; ids that harm it are none of them."""
    pool = token_pool(multi.vocab_size or ASSUMED_VOCABULARY, [*labels, delimiter])
    own = tuple(dict.fromkeys(labels))
    further = max(0, _LABELS - len(own)) + 1
    spare: int | None = None
    if len(pool) > 2 * further:
        pool, more = pool[:-further], pool[-further:]
        own, spare = (*own, *more[1:]), more[0]
    longest = min(max_tokens, multi.max_tokens or max_tokens)
    sample = Case("an empty item", pool[:1], (pool[:1], ()), own, pool)
    adapter = multi.adapter
    empty_items = adapter is not None and adapter.allows_empty_items and adapter.hazard(multi.profile, sample) is None
    return Space(pool, own, spare, longest, empty_items, context)


def _probe(space: Space) -> ScoreBody:
    budget = max(1, (space.max_tokens - 7) // len(_PROBE_LENGTHS) - 1)
    items = [space.tokens(min(length, budget), 11 * length, 7) for length in _PROBE_LENGTHS]
    items = items[: max(1, (space.max_tokens - 7) // 2)]
    return ScoreBody(query=space.tokens(7, 5, 101), items=tuple(items), label_token_ids=space.labels)


def _measurement(multi: Target, judge: Judge, *, requests: int, attestation: Attestation) -> Measurement:
    found, spread = [*judge.found.values()], score_spread(judge.bases)
    exact, placed = (
        max((seen.worst or 0.0 for seen in judge.seen.values() if seen.exact is kind), key=magnitude, default=0.0)
        for kind in (True, False)
    )
    findings = [
        details.ViolatedRelation(
            relation=violation.scenario.relation,
            base=str(violation.scenario.base),
            difference=violation.difference,
            limit=violation.limit,
        )
        for violation in found
    ]
    return Measurement(
        target=multi,
        value=exact,
        evidence=Evidence(noise_floor=judge.floor, score_spread=spread),
        attestation=attestation,
        samples={
            "examples": judge.examples,
            "requests": requests,
            "most_items": judge.most,
            "most_tokens": judge.longest,
        },
        details=details.Relations(
            relations=judge.seen,
            over_limit=judge.over_limit,
            dismissed_as_noise=judge.dismissed,
            not_reproduced=judge.unstable,
            rounding={**judge.rounding},
            no_reference=judge.no_reference,
            counterexample=next(iter(findings), None),
            further=findings[1:],
        ),
        problem=_problem(found),
        doubt=_doubt(judge, spread),
        holds=f"no relation is violated in {judge.examples} examples; scores differ by {exact:.3g} at most where "
        f"items keep their places, by {placed:.3g} where they do not",
    )


def _problem(found: Sequence[Violation]) -> str | None:
    """What is wrong, the first violation in full."""
    if not found:
        return None
    further = ", ".join(violation.scenario.relation for violation in found[1:])
    return problem_of(found[0]) + (f"; violated as well: {further}" if further else "")


def problem_of(violation: Violation) -> str:
    """A violation in one sentence."""
    scenario, difference = violation.scenario, violation.difference
    if difference is None:
        return f"{scenario.relation}: {violation.failure}"
    known = relation(scenario.relation)
    states = scenario.relation if known is None else f"{scenario.relation}: {known.states.rstrip('.')}"
    return f"{states}; but scores of {scenario.base} differ by {difference:.3g}, the limit is {violation.limit:g}"


def _doubt(judge: Judge, spread: float | None) -> str | None:
    """Why nothing was decided although no relation was seen to be violated."""
    if judge.dismissed or judge.floor:
        return (
            f"replaying the same request moves scores by {judge.floor:.3g}: a violation of a relation that allows no "
            "difference could not be told from noise"
        )
    if judge.unstable:
        return f"a request gave other scores at another time, by {judge.unstable:.3g}: no relation can be blamed for it"
    if judge.rounding:
        worst = ", ".join(f"{name} {difference:.3g}" for name, difference in judge.rounding.items())
        return (
            "all of it is rounding: scores differ where lengths change, by no more than sums over other shapes may "
            f"({worst}), and by nothing where only content changes"
        )
    if judge.no_reference is not None:
        return f"nothing could be compared with the serial server: {judge.no_reference}"
    if 2 * judge.over_limit > judge.examples:
        return f"the server refused {judge.over_limit} of {judge.examples} requests as too long"
    if spread is None:
        return "no request had two different items: nothing could be compared"
    if not spread > MIN_SCORE_SPREAD:
        return f"scores hardly differ between items (range {spread:.3g}): these requests cannot show a violation"
    return None


def _counterexample(
    multi: Target, serial: Target | None, violation: Violation, seed: int, reproduced: bool
) -> Counterexample:
    scenario, profile = violation.scenario, multi.profile
    known = relation(scenario.relation)
    return Counterexample(
        created_at_utc=utc_now(),
        relation=scenario.relation,
        states="" if known is None else known.states,
        scenario=scenario,
        scenario_sha256=checksum(scenario),
        limit=violation.limit,
        difference=violation.difference,
        failure=violation.failure,
        base_rows=[] if violation.base is None else violation.base.tolist(),
        variant_rows=[] if violation.variant is None else violation.variant.tolist(),
        noise=violation.noise,
        reproduced=reproduced,
        seed=seed,
        examples=violation.example,
        server=Server(
            url=multi.url,
            label=profile.label,
            engine=multi.engine,
            model=multi.model,
            dtype=multi.dtype,
            semantics=None if profile.semantics is None else profile.semantics.value,
            mask_requested=profile.mask_impl,
        ),
        serial_url=serial.url if scenario.serial and serial is not None else None,
    )


RELATIONS_HOLD = Gate(
    "metamorphic_relations_hold",
    "scores agree under every relation that must not change them, on requests found by a search",
    rests_on="noise floor 0, score spread",
    measure=measure,
    needs=("multi",),
    costly=True,
    short="relations",
    order=7,
)
GATES = (RELATIONS_HOLD,)
