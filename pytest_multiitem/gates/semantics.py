"""Which semantics a server really has: its packed scores beside the serial references of every one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pytest_multiitem.gates.equivalence import EQUIVALENCE
from pytest_multiitem.gates.evidence import (
    baseline,
    floors,
    leak_visibility,
    max_abs,
    score_spread,
    semantic_visibility,
)
from pytest_multiitem.gates.gate import Evidence, Gate
from pytest_multiitem.gates.judge import NOISE_FACTOR
from pytest_multiitem.gates.record import Measurement
from pytest_multiitem.gates.traffic import Recorder
from pytest_multiitem.results import details
from pytest_multiitem.scoring.cases import Case
from pytest_multiitem.scoring.semantics import Semantics, unisolated
from pytest_multiitem.targets.target import Target, declared_semantics
from pytest_multiitem.transport.client import Scores

AS_DECLARED = Gate(
    "semantics_as_declared",
    "which serial reference packed scores are nearest to: the declared semantics, another one, or plain causal "
    "attention",
    "holds",
    None,
)
GATES = (AS_DECLARED,)

#: Plain causal attention over ``query d item_1 d item_2 …``: no isolation at all.
CAUSAL = "causal"
_ITEMS = 6


def measure(multi: Target, serial: Target, cases: Sequence[Case], *, delimiter: int, record: Recorder) -> Measurement:
    """Score the first items with tokens of a case packed, and serially as each semantics has an item see its context.

    The declared semantics holds where it is nearest and the next one is clearly farther away; FAIL names
    the one that is nearer, or says that there is none.
    """
    declared = declared_semantics(multi)
    case = next((case for case in cases if any(case.items)), None)
    if case is None:  # no request has an item with tokens, and one without any would be refused
        return Measurement(target=multi, value=None, samples={"items": 0})
    case = replace(case, items=tuple(item for item in case.items if item)[:_ITEMS])
    packed = baseline(multi, case, record)
    references = _references(serial, case, delimiter)
    distances = {name: max_abs(packed.scores - scores) for name, scores in references.items()}
    record({"kind": "semantics", "case": case.name, "distances": distances, "declared": declared.value})
    nearest, following = sorted(distances, key=distances.__getitem__)[:2]
    noise = NOISE_FACTOR * packed.noise
    clear = distances[following] - distances[nearest] > max(noise, distances[nearest])
    away = distances[declared.value]
    problem = doubt = None
    if clear and nearest != declared.value:
        problem = (
            f"the server declares {declared.value}, but its scores are those of {nearest}: {distances[nearest]:.3g} "
            f"away from it, {away:.3g} from {declared.value}"
        )
    elif away > max(noise, EQUIVALENCE.limit or 0.0):
        problem = (
            f"the server declares {declared.value}, but its scores are {away:.3g} away from it, and those of no other "
            f"semantics either (nearest {nearest}, {distances[nearest]:.3g})"
        )
    elif not clear:
        doubt = f"{nearest} ({distances[nearest]:.3g}) and {following} ({distances[following]:.3g}) are hardly apart"
    return Measurement(
        target=multi,
        value=distances[declared.value],
        evidence=Evidence(
            **floors([packed]),
            leak_visibility=leak_visibility(serial, cases, declared, delimiter, record)[0],
            score_spread=score_spread([packed.scores]),
            semantic_visibility=semantic_visibility(serial, cases, delimiter, record),
        ),
        attestation=packed.attestation,
        samples={"items": len(case.items)},
        details=details.Semantics(distances={**distances}, nearest=nearest),
        problem=problem,
        doubt=doubt,
        holds=f"nearest to {declared.value} ({distances[nearest]:.3g}; next {following}, {distances[following]:.3g})",
    )


def _references(serial: Target, case: Case, delimiter: int) -> Mapping[str, Scores]:
    """Serial scores [N, K] of a case under every semantics that some serial request can express."""
    found = {
        semantics.value: serial.score_ids(semantics.serial_query(case.query, delimiter), case.items, case.labels)
        for semantics in Semantics
        if semantics.has_serial_reference
    }
    query = Semantics.PREFIX_FIRST_DELIM.serial_query(case.query, delimiter)
    found[CAUSAL] = serial.score_ids(query, unisolated(case.items, delimiter), case.labels)
    return found
