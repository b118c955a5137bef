"""The verdicts that a gate can give."""

from __future__ import annotations

from enum import StrEnum


class Verdict(StrEnum):
    """What a gate says. No data is never PASS."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    NOT_RUN = "NOT_RUN"


#: From the worst to the best.
WORST_FIRST = (Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.NOT_RUN, Verdict.PASS)


def worse(one: Verdict, other: Verdict) -> bool:
    """Whether a verdict is worse than another."""
    return WORST_FIRST.index(one) < WORST_FIRST.index(other)
