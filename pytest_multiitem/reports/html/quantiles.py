"""Five values that stand for a distribution."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_SHARES = (5, 25, 50, 75, 95)


def five_of(values: Sequence[float]) -> list[float] | None:
    """The 5th, 25th, 50th, 75th and 95th percentile; None of nothing."""
    return [float(each) for each in np.percentile(values, _SHARES)] if values else None
