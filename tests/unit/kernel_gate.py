"""The checks of a kernel in the test's own process."""

from __future__ import annotations

from itertools import groupby

from pytest_multiitem.kernels.gate import CHECK_NAMES
from pytest_multiitem.kernels.look import look, planned

MEMORY = 2**31


def checks_of(subject, names=CHECK_NAMES, shrink_seconds=0.0):
    """Every check of a kernel, in each type, by name and type."""
    kept, _ = planned(subject.can, names, MEMORY)
    groups = groupby(kept, key=lambda step: (step.check, step.dtype))
    return {key: look(subject, list(mine), lambda *at: None, shrink_seconds) for key, mine in groups}


def killers(subject):
    """The names of the checks that see something wrong."""
    return {name for (name, _), check in checks_of(subject).items() if check.failure is not None}
