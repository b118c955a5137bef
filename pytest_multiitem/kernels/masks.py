"""The mask that a kernel has, read from its results: scores that are all equal, and values that are one-hot."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from pytest_multiitem.kernels.abilities import Dtype
from pytest_multiitem.kernels.layout import Layout
from pytest_multiitem.kernels.shapes import Shape
from pytest_multiitem.kernels.subject import Subject


class TooSlow(Exception):
    """A mask took longer than it may."""


def recovered(
    subject: Subject, shape: Shape, layout: Layout, dtype: Dtype, seconds: float = np.inf
) -> NDArray[np.bool_]:
    """The mask [rows, heads, keys] of a kernel: which keys have a weight that is not 0.

    Queries and keys are 0, so that a row of n keys has the weight 1/n for each. Key c has the value 1 in place c
    modulo D and 0 elsewhere, D keys in one call. NaN is no weight, and no 0 either: it counts as seen. Raises TooSlow
    where the calls take longer than so many seconds.
    """
    deadline = time.monotonic() + seconds
    rows, dim = layout.rows, shape.head_dim
    zeros = np.zeros((rows, shape.heads, dim), dtype=np.float32)
    found = np.zeros((rows, shape.heads, rows), dtype=np.bool_)
    for start in range(0, rows, dim):
        if time.monotonic() > deadline:
            raise TooSlow
        width = min(dim, rows - start)
        v = np.zeros((rows, shape.kv_heads, dim), dtype=np.float32)
        v[start + np.arange(width), :, np.arange(width)] = 1
        out = subject(zeros, zeros[:, : shape.kv_heads].copy(), v, layout, dtype)
        found[:, :, start : start + width] = out[:, :, :width] != 0
    return found
