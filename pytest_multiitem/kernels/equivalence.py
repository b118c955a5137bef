"""Equivalence with float64: no result is further away than the rounding of its type explains.

Scores are about 0, and then all of them are higher or lower by one number. That leaves the right answer as it is, and
what is done to scores beside their scale, such as a soft cap or a clamp, is the stronger for it.

The limit follows from the number of roundings, and grows with the number of keys and of products that are summed in
float32, by their root: Higham and Mary, A New Approach to Probabilistic Rounding Error Analysis, SIAM Journal on
Scientific Computing 41 (2019), theorem 2.4.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pytest_multiitem.kernels.abilities import Dtype
from pytest_multiitem.kernels.arrays import UNIT_ROUNDOFF
from pytest_multiitem.kernels.finding import Finding, first_wrong, place
from pytest_multiitem.kernels.inputs import random_inputs
from pytest_multiitem.kernels.reference import Attended, attended
from pytest_multiitem.kernels.shapes import Shape
from pytest_multiitem.kernels.subject import Subject

#: Numbers that a good kernel may round to the type: the weights, the result of a part of the keys, the result.
_ROUNDINGS = 3
#: λ of the source: a sum is outside its bound with probability 2 exp(-λ²/2), 0.0007.
_LAMBDA = 4.0
_SINGLE = UNIT_ROUNDOFF["float32"]
#: By which powers of two scores are shifted.
_SHIFTS = (0, 8)


def single_error(right: Attended, head_dim: int) -> NDArray[np.float64]:
    """Relative error of a result [rows, heads, 1] that is computed in float32 throughout.

    Both sums over n keys, values and weights; and what an error of a score does to its weight and to their sum: that
    of a dot product of D terms, and of the exponential, whose argument is rounded.
    """
    sums = 2 * np.sqrt(right.keys)
    scores = 2 * (np.sqrt(head_dim) + 2) * right.products
    found: NDArray[np.float64] = _LAMBDA * _SINGLE * (sums + scores)
    return found


def limits(right: Attended, head_dim: int, dtype: Dtype) -> NDArray[np.float64]:
    """How far each number [rows, heads, D] of a result may be from the right one."""
    found: NDArray[np.float64] = right.magnitude * (_ROUNDINGS * UNIT_ROUNDOFF[dtype] + single_error(right, head_dim))
    return found


def equivalence(subject: Subject, shape: Shape, dtype: Dtype) -> Finding | None:
    """Whether each number, and the root mean square of all, is as near as the type allows."""
    return next((found for shift in _SHIFTS if (found := _differs(subject, shape, dtype, shift))), None)


def _differs(subject: Subject, shape: Shape, dtype: Dtype, shift: int) -> Finding | None:
    layout = shape.layout()
    q, k, v = random_inputs(shape, layout, dtype, shift=shift)
    out = subject(q, k, v, layout, dtype)
    right = attended(q, k, v, layout)
    rounds_to = subject.rounds_to(dtype)
    roundoff = UNIT_ROUNDOFF[rounds_to]
    single = single_error(right, shape.head_dim)
    limit = limits(right, shape.head_dim, rounds_to)
    counts = layout.judged
    error = np.abs(out - right.out)
    where = f", where scores are about ±{2**shift} to ±{2 ** (shift + 1)}" if shift else ""
    wrong = ~(error <= limit) & counts[:, None, None]
    if wrong.any():
        row, head = first_wrong(wrong)
        at = int(np.flatnonzero(wrong[row, head])[0])
        return Finding(
            f"{place(layout, row)} (head {head}) is {out[row, head, at]:.7g}, float64 gives "
            f"{right.out[row, head, at]:.7g}: off by {error[row, head, at]:.3g}, limit of {rounds_to} "
            f"{limit[row, head, at]:.3g}; {int(wrong.any(axis=(1, 2)).sum()):,} of {layout.rows:,} rows are off{where}",
            row,
            head,
        )
    # Independent roundings, each even within one unit, have a third of its square as their variance.
    allowed = right.magnitude[counts] * (np.sqrt(_ROUNDINGS / 3) * roundoff + single[counts] / _LAMBDA)
    spread, due = (float(np.sqrt(np.mean(np.square(each)))) for each in (error[counts], allowed))
    if spread <= due:
        return None
    return Finding(
        f"the root mean square of all errors is {spread:.3g}, {spread / due:.2f} times what roundings to {rounds_to} "
        f"explain{where or ': a sum is held in too few bits'}"
    )
