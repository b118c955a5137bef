"""Kernels for the command: right, wrong, and such as cannot be checked."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from pytest_multiitem.errors import EngineUnavailable
from pytest_multiitem.kernels import planted

LIMITS = {"max_rows": 80, "max_items": 8}


def right():
    return planted.Tiled(), LIMITS


def leaks():
    """The last item sees the one before."""
    return planted.Tiled(bounds=planted._place_kept), LIMITS


def spills_nan():
    """It multiplies weights of 0 with what is hidden."""
    return planted.subject(next(fault for fault in planted.FAULTS if fault.name == "nan_spill")).attention, LIMITS


def raises():
    def attention(q, k, v, layout):
        if max(layout.item_lengths) > 3:
            raise IndexError("tile 4 of 4")
        return planted.Tiled()(q, k, v, layout)

    return attention, LIMITS


def other_shape():
    return lambda q, k, v, layout: q[:1]


def dies():
    def attention(q, k, v, layout):
        if layout.rows > 15:
            os.abort()
        return planted.Tiled()(q, k, v, layout)

    return attention, LIMITS


def hangs():
    return lambda q, k, v, layout: time.sleep(600)


def hangs_later():
    """Of random queries, not of codes; the file that BEGAN names says that it has begun."""

    def attention(q, k, v, layout):
        if len(np.unique(q)) > 100:
            Path(os.environ["BEGAN"]).touch()
            time.sleep(600)
        return planted.Tiled()(q, k, v, layout)

    return attention, LIMITS


def hangs_where_it_is_small():
    """Wrong at the first shape that is tried, and without an answer at those that are a step smaller."""

    def attention(q, k, v, layout):
        if layout.rows < 17:
            time.sleep(600)
        out = planted.Tiled()(q, k, v, layout)
        out[0] = 0
        return out

    return attention, LIMITS


def says_pages():
    """It reads no page."""
    return planted.Tiled(), {**LIMITS, "page_sizes": (4, 16)}


def needs_a_device():
    raise EngineUnavailable("this kernel needs a CUDA device")


def finds_no_gpu():
    """As Triton says it when a kernel is launched."""

    def attention(q, k, v, layout):
        raise RuntimeError("0 active drivers ([]). There should only be one.")

    return attention, LIMITS


def on_an_absent_device():
    return planted.Tiled(), {"arrays": "torch", "device": "cuda:99"}


def on_a_device_that_is_none():
    return planted.Tiled(), {"arrays": "torch", "device": "cudb"}


def numpy_on_a_device():
    return planted.Tiled(), {"device": "cuda"}


def needs_a_package():
    import no_such_package  # noqa: F401


def no_kernel():
    return 7


def is_the_kernel(q, k, v, layout):
    return planted.Tiled()(q, k, v, layout)


def unknown_ability():
    return planted.Tiled(), {"dtype": "float32"}


def small_heads():
    return planted.Tiled(), {"head_dims": (8,)}


def of_five_rows():
    return planted.Tiled(), {"max_rows": 5}
