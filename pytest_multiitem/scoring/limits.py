"""How far two scores of the same content may be apart, where only the way in which it is sent differs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: Items in other places, among other neighbours or in other requests: sums run over operands of other shapes, and
#: float32 scores differ by some 1e-6; the limit is the one between two masks (`segment_vs_dense_le_1e_4`).
PLACED_FLOAT32 = 1e-4
#: The same for bfloat16, for everything narrower, and where the server does not say: the limit of equivalence.
PLACED = 0.02
#: A difference of probabilities over the whole vocabulary is relative: label probabilities may be of any size. It
#: counts this much, so that the limits above allow 0.1 % and 20 %.
_RELATIVE = 0.1


def placed_limit(dtype: str | None) -> float:
    """The limit for a server of a precision, in its own words; None where it does not say."""
    return PLACED_FLOAT32 if is_float32(dtype) else PLACED


def is_float32(dtype: str | None) -> bool:
    """Whether a server says that it computes in float32."""
    return (dtype or "").removeprefix("torch.") == "float32"


def row_differences(
    left: NDArray[np.float64], right: NDArray[np.float64], *, apply_softmax: bool
) -> NDArray[np.float64]:
    """How far each of the rows of scores [N, K] is from the other's [N], in the unit of the limits above."""
    difference = np.abs(left - right)
    if not apply_softmax:
        largest = np.maximum(np.abs(left), np.abs(right))
        difference = _RELATIVE * np.divide(difference, largest, out=np.zeros_like(largest), where=largest > 0)
    return np.asarray(difference.max(axis=-1, initial=0.0))


def row_difference(left: NDArray[np.float64], right: NDArray[np.float64], *, apply_softmax: bool) -> float:
    """The same of two single rows [K]."""
    return float(row_differences(left, right, apply_softmax=apply_softmax))
