"""Determinism: the same call gives the same bits, at once and after other work, and leaves keys and values alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pytest_multiitem.kernels.abilities import Dtype
from pytest_multiitem.kernels.finding import Finding, first_wrong, place
from pytest_multiitem.kernels.inputs import random_inputs
from pytest_multiitem.kernels.shapes import Shape, beyond
from pytest_multiitem.kernels.subject import Subject


def repeats(subject: Subject, shape: Shape, dtype: Dtype) -> Finding | None:
    """The same call three times: the second at once, the third after calls of other shapes and values.

    Between them memory that a kernel keeps is filled with other numbers, so what it forgets to write becomes visible.
    Then its keys and values must be as they were given: a server's cache is read again by the next call.
    """
    layout = shape.layout()
    q, k, v = random_inputs(shape, layout, dtype)
    first = subject(q, k, v, layout, dtype)
    for name in ("called again", "called after other work"):
        if name != "called again":
            _work(subject, shape, dtype)
        out = subject(q, k, v, layout, dtype)
        same = (out == first) | (np.isnan(out) & np.isnan(first))
        wrong = ~same & layout.judged[:, None, None]
        if wrong.any():
            row, head = first_wrong(wrong)
            at = int(np.flatnonzero(wrong[row, head])[0])
            return Finding(
                f"{place(layout, row)} (head {head}) was {first[row, head, at]:.9g}, and is {out[row, head, at]:.9g} "
                f"where the kernel is {name}",
                row,
                head,
            )
    if (spoilt := subject.overwrites(q, k, v, layout, dtype)) is not None:
        return Finding(
            f"it overwrites the {spoilt} that it is given, so that the next call reads others from the cache"
        )
    return None


def _work(subject: Subject, shape: Shape, dtype: Dtype) -> None:
    """Other values of the same shape, then a larger one."""
    query, items = shape.lengths[0]
    larger = replace(shape, lengths=((query + 3, (*items, *items, 2)), *shape.lengths[1:]))
    others = [shape, *([larger] if beyond(larger, subject.can) is None else [])]
    for seed, other in enumerate(others, 1):
        layout = other.layout()
        q, k, v = random_inputs(other, layout, dtype, seed)
        subject(q * 2, k, v * -3, layout, dtype)
