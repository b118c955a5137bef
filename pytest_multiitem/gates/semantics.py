"""Which semantics a server really has: its packed scores beside the serial references of every one of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pytest_multiitem.engine.causal_reference import Request, restarting_scores
from pytest_multiitem.errors import EngineUnavailable
from pytest_multiitem.gates.equivalence import EQUIVALENCE
from pytest_multiitem.gates.evidence import baseline, evidence_of, max_abs
from pytest_multiitem.gates.gate import Gate, Measurement, magnitude
from pytest_multiitem.gates.judge import NOISE_FACTOR
from pytest_multiitem.gates.subject import Subject
from pytest_multiitem.results import details
from pytest_multiitem.scoring.cases import Case
from pytest_multiitem.scoring.semantics import Semantics, unisolated
from pytest_multiitem.targets.target import Target, declared_semantics
from pytest_multiitem.transport.client import Scores

#: Plain causal attention over ``query d item_1 d item_2 …``: no isolation at all.
CAUSAL = "causal"
#: The same, with positions that restart at each delimiter: no serial request expresses it.
CAUSAL_RESTARTING = "causal_restarting"
_ITEMS = 6
#: The items of each packed sequence.
_Sequences = tuple[tuple[tuple[int, ...], ...], ...]


def measure(subject: Subject) -> Measurement:
    """Score the first items with tokens of a case packed, and serially as each semantics has an item see its context.

    The declared semantics holds where it is nearest and the next one is clearly farther away; FAIL names
    the one that is nearer, or says that there is none. Scores that are not of the declared semantics are compared with
    `CAUSAL_RESTARTING` as well, computed from the checkpoint of the settings, or else the one that the server names.
    """
    multi, serial, record = subject.multi, subject.serial, subject.record
    delimiter = multi.delimiter
    cases, declared = subject.cases(multi), declared_semantics(multi)
    case = next((case for case in cases if any(case.items)), None)
    if case is None:  # no request has an item with tokens, and one without any would be refused
        return Measurement(target=multi, value=None, samples={"items": 0})
    case = replace(case, items=tuple(item for item in case.items if item)[:_ITEMS])
    packed = baseline(multi, case, record)
    size = multi.profile.chunk_size or 0
    if size < 2:  # 0: all in one; 1: an item sees nobody, whatever the attention
        size = len(case.items)
    sequences: _Sequences = tuple(case.items[at : at + size] for at in range(0, len(case.items), size))
    references = _references(serial, case, sequences, delimiter)
    distances = {name: max_abs(packed.scores - scores) for name, scores in references.items()}
    noise = NOISE_FACTOR * packed.noise
    problem, doubt = _judge(distances, declared, noise)
    not_compared: dict[str, str] = {}
    if problem is not None:  # a healthy server is not worth the loading of a model
        named = _named(distances, noise)
        try:
            model = subject.settings.model or multi.model
            if model is None:
                raise EngineUnavailable("the server does not name its checkpoint; name it: --model DIR")
            scores = restarting_scores(Request(model, case.query, sequences, case.labels, delimiter, declared))
            distances[CAUSAL_RESTARTING] = max_abs(packed.scores - scores)
            if named is None or _named(distances, noise) is not None:  # a second name for the same scores says less
                problem, _ = _judge(distances, declared, noise)
        except EngineUnavailable as error:
            not_compared[CAUSAL_RESTARTING] = str(error)
            if named is None:
                problem = f"{problem}; {CAUSAL_RESTARTING} was not compared: {error}"
    record({"kind": "semantics", "case": case.name, "distances": distances, "declared": declared.value})
    nearest, following = _two_nearest(distances)
    return Measurement(
        target=multi,
        value=distances[declared],
        evidence=evidence_of(multi, serial, cases, record, scored=[packed], spread=[packed], semantic=True),
        attestation=packed.attestation,
        samples={"items": len(case.items)},
        details=details.Semantics(distances={**distances}, nearest=nearest, not_compared=not_compared),
        problem=problem,
        doubt=doubt,
        holds=f"nearest to {declared.value} ({distances[nearest]:.3g}; next {following}, {distances[following]:.3g})",
    )


def _two_nearest(distances: Mapping[str, float]) -> tuple[str, str]:
    nearest, following = sorted(distances, key=lambda name: magnitude(distances[name]))[:2]
    return nearest, following


def _named(distances: Mapping[str, float], noise: float) -> str | None:
    """The one reference that scores are those of: near, and clearly nearer than every other."""
    nearest, following = _two_nearest(distances)
    near = distances[nearest] <= max(noise, EQUIVALENCE.limit or 0.0)
    clear = distances[following] - distances[nearest] > max(noise, distances[nearest])
    return nearest if near and clear else None


def _judge(distances: Mapping[str, float], declared: Semantics, noise: float) -> tuple[str | None, str | None]:
    """What is wrong with scores at these distances, and what keeps them from a PASS."""
    nearest, following = _two_nearest(distances)
    away, named = distances[declared], _named(distances, noise)
    if named not in (None, declared):
        return (
            f"the server declares {declared.value}, but its scores are those of {nearest}: {distances[nearest]:.3g} "
            f"away from it, {away:.3g} from {declared.value}"
        ), None
    if away > max(noise, EQUIVALENCE.limit or 0.0):
        return (
            f"the server declares {declared.value}, but its scores are {away:.3g} away from it, and those of no other "
            f"semantics either (nearest {nearest}, {distances[nearest]:.3g})"
        ), None
    if named is None:
        return None, (
            f"{nearest} ({distances[nearest]:.3g}) and {following} ({distances[following]:.3g}) are hardly apart"
        )
    return None, None


def _references(serial: Target, case: Case, sequences: _Sequences, delimiter: int) -> Mapping[str, Scores]:
    """Serial scores [N, K] of a case under every semantics that some serial request can express."""
    references = {
        semantics.value: serial.score_ids(semantics.serial_query(case.query, delimiter), case.items, case.labels)
        for semantics in Semantics
        if semantics.has_serial_reference
    }
    query = Semantics.PREFIX_FIRST_DELIM.serial_query(case.query, delimiter)
    seen = [before for items in sequences for before in unisolated(items, delimiter)]
    references[CAUSAL] = serial.score_ids(query, seen, case.labels)
    return references


AS_DECLARED = Gate(
    "semantics_as_declared",
    "which serial reference packed scores are nearest to: the declared semantics, another one, or plain causal "
    "attention",
    rests_on="serial references that differ by semantics",
    measure=measure,
    needs=("multi", "serial"),
    short="semantics",
    order=4,
)
GATES = (AS_DECLARED,)
