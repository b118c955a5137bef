"""Random inputs of a call."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pytest_multiitem.kernels.abilities import Dtype
from pytest_multiitem.kernels.arrays import rounded
from pytest_multiitem.kernels.layout import Layout
from pytest_multiitem.kernels.shapes import Shape

_Array = NDArray[np.float32]


def random_inputs(
    shape: Shape, layout: Layout, dtype: Dtype, seed: int = 0, shift: int = 0
) -> tuple[_Array, _Array, _Array]:
    """q, k and v of a shape, rounded to a type.

    Scores are of variance 1. Values are 1 on average, so that their sum grows with the keys: where it is held in too
    few bits, what is added later is lost. ``shift``: about which scores are, ±2^shift to twice that, + for every even
    query head and - for every odd one; 0: about 0.
    """
    random = np.random.default_rng((seed, layout.rows, shape.heads, shape.head_dim))
    q = random.standard_normal((layout.rows, shape.heads, shape.head_dim), dtype=np.float32)
    k, v = (random.standard_normal((layout.rows, shape.kv_heads, shape.head_dim), dtype=np.float32) for _ in range(2))
    if shift:
        # One product of powers of two, which no type rounds.
        power = shift + int(np.ceil(np.log2(shape.head_dim) / 2))
        q[:, 0::2, -1], q[:, 1::2, -1] = 2.0 ** (power // 2), -(2.0 ** (power // 2))
        k[:, :, -1] = 2.0 ** (power - power // 2)
    return rounded(q, dtype), rounded(k, dtype), rounded(1 + v / 2, dtype)
