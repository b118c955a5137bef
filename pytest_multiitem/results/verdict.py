"""The verdicts that a gate can give."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Final

#: The reason of a gate that is NOT_RUN since the command line deselects its tests.
DESELECTED: Final = "deselected on the command line"


class Verdict(StrEnum):
    """What a gate says. No data is never PASS. ERROR: it could not be measured, and no score of the server under test
    is to blame; it fails a run as FAIL does."""

    PASS = "PASS"
    FAIL = "FAIL"
    ERROR = "ERROR"
    INCONCLUSIVE = "INCONCLUSIVE"
    NOT_RUN = "NOT_RUN"


#: From the worst to the best.
WORST_FIRST = (Verdict.FAIL, Verdict.ERROR, Verdict.INCONCLUSIVE, Verdict.NOT_RUN, Verdict.PASS)


def rank(verdict: str) -> int:
    """The place of a verdict among all, 0 being the worst: what a ``min`` or a ``sorted`` goes by."""
    return WORST_FIRST.index(Verdict(verdict))


def worse(one: Verdict, other: Verdict) -> bool:
    """Whether a verdict is worse than another."""
    return rank(one) < rank(other)


def worst(verdicts: Iterable[Verdict], *, of_none: Verdict) -> Verdict:
    """The worst of some verdicts; ``of_none``: what there is to say where there are none."""
    return min(verdicts, key=rank, default=of_none)


def failing(*, allow_inconclusive: bool) -> frozenset[Verdict]:
    """The verdicts that fail a run by themselves."""
    always = {Verdict.FAIL, Verdict.ERROR}
    return frozenset(always if allow_inconclusive else {*always, Verdict.INCONCLUSIVE})
