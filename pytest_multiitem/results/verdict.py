"""The verdicts that a gate can give."""

from __future__ import annotations

from enum import StrEnum


class Verdict(StrEnum):
    """What a gate says. No data is never PASS."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    NOT_RUN = "NOT_RUN"
