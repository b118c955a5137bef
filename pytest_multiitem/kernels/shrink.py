"""From a shape at which a kernel is wrong to the smallest one at which it still is."""

from __future__ import annotations

import time

from pytest_multiitem.errors import MultiItemError
from pytest_multiitem.kernels.abilities import Dtype
from pytest_multiitem.kernels.finding import Finding
from pytest_multiitem.kernels.plan import Look
from pytest_multiitem.kernels.shapes import Shape, smaller
from pytest_multiitem.kernels.subject import KernelError, Subject


def seen(look: Look, subject: Subject, shape: Shape, dtype: Dtype) -> Finding | None:
    """What a check finds, where an exception of the kernel is a finding too."""
    try:
        return look(subject, shape, dtype)
    except KernelError as error:
        return Finding(str(error), trace=error.trace or None)


def smallest(
    look: Look, subject: Subject, shape: Shape, dtype: Dtype, finding: Finding, seconds: float
) -> tuple[Shape, Finding]:
    """The shape that is left when no step makes it smaller, or when the time is up; and what is wrong there.

    An exception stays one, and a wrong number a wrong number: else another fault would be shown.
    """
    deadline = time.monotonic() + seconds
    raises = finding.trace is not None
    tried = {shape}
    while True:
        for less in smaller(shape, subject.can):
            if less in tried:
                continue
            tried.add(less)
            if time.monotonic() > deadline:
                return shape, finding
            try:
                found = seen(look, subject, less, dtype)
            except MultiItemError:
                continue
            if found is not None and (found.trace is not None) == raises:
                shape, finding = less, found
                break
        else:
            return shape, finding
