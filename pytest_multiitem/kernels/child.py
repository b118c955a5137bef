"""The process in which a kernel runs: ``python -m pytest_multiitem.kernels.child FD``.

The process is as `children.job` has it. Its events:

- ``{"usage": TEXT}``: the job cannot be done as asked; the last event;
- ``{"unavailable": TEXT}``: the kernel, or what it needs, is not there; the last event;
- ``{"can": …, "left_out": …, "groups": [[CHECK, DTYPE], …], "unplanned": […]}``: what the kernel says, what will
  be checked, and which checks have no shape;
- ``{"controls": […]}``;
- ``{"begin": {"check": …, "dtype": …, "shape": …}}`` before each shape, ``{"found": …}``, a failure, before it is made
  smaller, ``{"check": …}`` after each check.

A job with ``less`` is of a shape at which a kernel has ended its process: a step smaller each, with ``begin`` before
each, until the process ends in one, or ``{"less": "none"}``.
"""

from __future__ import annotations

import contextlib
import sys
from itertools import groupby
from typing import Any

import msgspec

from pytest_multiitem.children.function import import_function, required
from pytest_multiitem.children.job import events, read_job
from pytest_multiitem.errors import EngineUnavailable, MultiItemError, UsageError
from pytest_multiitem.kernels.abilities import abilities_of
from pytest_multiitem.kernels.arrays import check_device
from pytest_multiitem.kernels.look import Begin, controls, look, planned, unplanned
from pytest_multiitem.kernels.plan import CHECKS, Step
from pytest_multiitem.kernels.shapes import Shape, smaller
from pytest_multiitem.kernels.shrink import seen
from pytest_multiitem.kernels.subject import Subject
from pytest_multiitem.results.machine import package_versions

_PACKAGES = ("numpy", "torch", "triton", "jax", "flashinfer-python")


def main() -> None:
    """Do the job."""
    emit, job = events(), read_job()
    try:
        subject = subject_of(job["kernel"])
    except EngineUnavailable as error:
        return emit(unavailable=str(error))
    except UsageError as error:
        return emit(usage=str(error))

    def begin(step: Step) -> None:
        emit(begin={"check": step.check, "dtype": step.dtype, "shape": msgspec.to_builtins(step.shape)})

    if "less" in job:
        _smaller(subject, job["less"], begin)
        return emit(less="none")
    kept, left_out = planned(subject.can, job["checks"], job["memory"])
    groups = [(key, list(mine)) for key, mine in groupby(kept, key=lambda step: (step.check, step.dtype))]
    groups = [(key, mine) for key, mine in groups if [*key] not in job["done"]]
    versions = {name: version for name, version in package_versions(_PACKAGES).items() if name == "numpy" or _has(name)}
    emit(
        can=msgspec.to_builtins(subject.can),
        left_out=msgspec.to_builtins(left_out),
        groups=[key for key, _ in groups],
        unplanned=msgspec.to_builtins(unplanned(subject.can, job["checks"], kept)),
        versions=versions,
    )
    emit(controls=msgspec.to_builtins(controls(dict.fromkeys(check for (check, _), _ in groups))))
    for _, mine in groups:
        check = look(subject, mine, begin, job["shrink_seconds"], lambda it: emit(found=msgspec.to_builtins(it)))
        emit(check=msgspec.to_builtins(check))
    return None


def _smaller(subject: Subject, less: dict[str, Any], begin: Begin) -> None:
    """Make a check at every shape that is a step smaller, those aside that were tried before."""
    given = msgspec.convert(less["shape"], Shape)
    for shape in smaller(given, subject.can):
        if str(shape) in less["tried"]:
            continue
        begin(Step(less["check"], shape, less["dtype"], 0))
        with contextlib.suppress(MultiItemError):
            seen(CHECKS[less["check"]], subject, shape, less["dtype"])


def _has(package: str) -> bool:
    return package.partition("-")[0] in sys.modules


def subject_of(name: str) -> Subject:
    """The kernel of that name. Raises UsageError where there is none, EngineUnavailable where it cannot run here."""
    try:
        function = import_function(name, (ImportError,))
    except ImportError as error:
        module = name.partition(":")[0]
        raise EngineUnavailable(f"{module} cannot be imported: {type(error).__name__}: {error}") from None
    if takes := required(function):
        raise UsageError(
            f"{name} takes {', '.join(takes)}; expected a function without arguments that returns the kernel, such as: "
            f"def case(): return {name.partition(':')[2]}, {{'arrays': 'torch'}}"
        )
    try:
        made = function()
    except EngineUnavailable:
        raise
    except ImportError as error:
        raise EngineUnavailable(f"{name}: {type(error).__name__}: {error}") from None
    except Exception as error:
        raise UsageError(f"{name}() raised {type(error).__name__}: {error}; expected it to return a kernel") from error
    kernel, can = made if isinstance(made, tuple) and len(made) == 2 else (made, {})
    if not callable(kernel) or not (isinstance(can, dict) or hasattr(can, "__struct_fields__")):
        raise UsageError(
            f"{name}() returned {str(made)[:200]}; expected attention(q, k, v, layout), or that and what it can do, "
            "such as (attention, {'arrays': 'torch', 'dtypes': ['bfloat16']})"
        )
    able = abilities_of(can, name)
    check_device(name, able)
    return Subject(name, kernel, able)


if __name__ == "__main__":
    main()
