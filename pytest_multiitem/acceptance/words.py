"""Gates and differences in the words of somebody who owns a product."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from pytest_multiitem.transport.client import FailureKind

#: Gates without whose PASS there is no YES, from the one that says most about a FAIL to the one that says least: what
#: each looks at, and what its FAIL means.
CORRECTNESS: Final[Mapping[str, tuple[str, str]]] = {
    "content_isolation": (
        "other candidates' words leave a candidate's score alone",
        "a candidate's score changes when the words of another candidate in the same request change",
    ),
    "same_length_isolation_zero": (
        "swapping one candidate for another of the same length leaves the others' scores alone, bit by bit",
        "a candidate's score changes when another candidate in the same request is swapped",
    ),
    "length_isolation": (
        "other candidates' lengths leave a candidate's score alone",
        "a candidate's score changes with the length of another candidate in the same request",
    ),
    "changed_length_isolation_zero": (
        "swapping one candidate for a longer or shorter one leaves the others' scores alone, bit by bit",
        "a candidate's score changes when another candidate in the same request becomes longer or shorter",
    ),
    "delimiter_aligned_equiv_le_0p02": (
        "a candidate scores packed what it scores alone, to 0.02",
        "candidates get other scores in a packed request than alone",
    ),
    "equivalence_at_floor": (
        "a candidate scores packed what it scores alone, up to rounding",
        "candidates get other scores in a packed request than alone, by more than rounding",
    ),
    "semantics_as_declared": (
        "a candidate sees the query and itself, as the server declares",
        "candidates see something else than the query and themselves",
    ),
    "every_size_agrees": (
        "a candidate's score does not depend on how many others there are, or how long",
        "a candidate's score depends on how many candidates are in the request, or how long they are",
    ),
    "every_label_agrees": (
        "the scores are right for every label",
        "the scores of some labels are wrong",
    ),
    "request_isolation_le_0p02": (
        "other requests leave a request's scores alone",
        "a request's scores change with the requests before it or beside it",
    ),
    "traffic_agrees": (
        "scores stay the same under traffic, over every connection",
        "a request's scores change under traffic",
    ),
    "metamorphic_relations_hold": (
        "no request was found whose scores break a rule that they must keep",
        "a request was found whose scores break a rule that they must keep",
    ),
    "request_contract_holds": (
        "what is asked for is what is answered",
        "the server does not answer what it is asked for, or takes what it cannot score",
    ),
    "every_score_agrees": (
        "no score of the whole run contradicts another one",
        "scores of the same candidate contradict each other",
    ),
    "negative_control_fails": (
        "these requests would show a leak if there was one",
        "these requests would not show a leak",
    ),
}  # fmt: skip

#: Those of other gates that say something to such a reader.
_FURTHER: Final[Mapping[str, tuple[str, str]]] = {
    "speedup_n32_ge_3x": (
        "32 candidates in one request are at least three times as fast as 32 requests",
        "32 candidates in one request are not three times as fast as 32 requests",
    ),
}

#: All that have words for such a reader.
TOLD: Final = frozenset({*CORRECTNESS, *_FURTHER})
#: Gates that allow no difference: a right server whose rounding depends on the shape of a batch cannot PASS them.
WANT_EQUAL_BITS: Final = ("same_length_isolation_zero", "changed_length_isolation_zero", "metamorphic_relations_hold")
#: Those that tell a leak from rounding.
BEYOND_ROUNDING: Final = ("content_isolation", "length_isolation")
#: The reason of a gate that a run has not come to.
NOT_REACHED: Final = "the run did not come to it"
#: Those of the serial side that one server cannot be asked for: they need scores that it never gives.
NEEDS_A_SERIAL_SERVER: Final = ("semantics_as_declared",)


#: What is against a server that gives no scores, by the kind of failure that its gate's reason names.
NO_SCORES: Final[Mapping[FailureKind, str]] = {
    FailureKind.HTTP_ERROR: "it refuses requests that it must answer",
    FailureKind.CONNECTION: "it stops answering",
    FailureKind.TIMEOUT: "it does not answer in time",
    FailureKind.OOM: "it runs out of memory",
    FailureKind.BAD_JSON: "what it answers is no JSON",
    FailureKind.BAD_RESPONSE: "what it answers are no scores",
}
_KIND: Final = re.compile(rf"(?:^|: )({'|'.join(FailureKind)}): ")


def no_scores(reason: str) -> str | None:
    """What is against a server, where a gate's reason is that it gave no scores; None where it is about scores."""
    found = _KIND.search(reason)
    return None if found is None else NO_SCORES.get(FailureKind(found[1]))


def says(gate: str) -> str:
    """What a gate looks at."""
    return {**CORRECTNESS, **_FURTHER}.get(gate, (f"the gate {gate} holds", ""))[0]


def means(gate: str) -> str:
    """What its FAIL means."""
    return {**CORRECTNESS, **_FURTHER}.get(gate, ("", f"the gate {gate} does not hold"))[1]


def small(value: float) -> str:
    """A difference, short: 4e-6, 0.02, 0."""
    if value == 0:
        return "0"
    if abs(value) >= 0.001:
        return f"{value:.2g}"
    digits, _, exponent = f"{value:.0e}".partition("e")
    return f"{digits}e{int(exponent)}"


def factor(value: float) -> str:
    """How many times: 9.1, 12, 0.95."""
    return f"{value:.3g}" if value < 1 else f"{value:.1f}" if value < 10 else f"{value:.0f}"


def counted(count: int, what: str) -> str:
    """A number with its noun: 1 request, 12 requests."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def percent(ratio: float) -> str:
    """By how much a ratio of speeds is above or below 1: 3 % faster, 21 % slower."""
    share = abs(ratio - 1) * 100
    shown = f"{share:.0f}" if share >= 1 else f"{share:.1f}"
    return f"{shown} % {'faster' if ratio > 1 else 'slower'}"
