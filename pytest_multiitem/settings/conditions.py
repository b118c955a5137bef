"""What counts as a regression: ``p95 > 15%``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, cast

Metric = Literal["p50", "p95", "mean", "throughput"]

_CONDITION = re.compile(r"(p50|p95|mean|throughput)\s*([<>])\s*([+-]?\d+(?:\.\d+)?)\s*%")


@dataclass(frozen=True)
class Condition:
    """A regression: a time that grows by more than ``percent``, or a throughput that falls by more than that.

    ``limit``: the ratio new / baseline from which on it is one.
    """

    text: str
    metric: Metric
    limit: float


def parse(text: str) -> Condition:
    """A condition such as ``p95 > 15%`` or ``throughput < -10%``. Raises ValueError saying what was expected."""
    match = _CONDITION.fullmatch(text.strip())
    if match is not None:
        metric, sign, percent = match[1], match[2], float(match[3])
        is_worse = (sign == "<" and -100 < percent <= 0) if metric == "throughput" else (sign == ">" and percent >= 0)
        if is_worse:
            return Condition(text.strip(), cast(Metric, metric), 1 + percent / 100)
    raise ValueError("expected a condition such as 'p95 > 15%' (p50, p95, mean) or 'throughput < -10%'")


def condition_texts(text: str) -> tuple[str, ...]:
    """Conditions separated by commas, each as it was typed. Raises ValueError saying what was expected."""
    return tuple(dict.fromkeys(parse(condition).text for condition in text.split(",")))
