"""The process in which a kernel runs: ``python -m pytest_multiitem.kernels.child FD``.

Reads a job (JSON, a line) from standard input, which stays open as long as its parent lives, and writes an event
(JSON) a line to the file descriptor FD:

- ``{"usage": TEXT}``: the job cannot be done as asked; the last event;
- ``{"unavailable": TEXT}``: the kernel, or what it needs, is not there; the last event;
- ``{"can": …, "left_out": …, "groups": [[CHECK, DTYPE], …], "unplanned": […]}``: what the kernel says, what will
  be checked, and which checks have no shape;
- ``{"controls": […]}``;
- ``{"begin": [CHECK, DTYPE, SHAPE]}`` before each shape, ``{"check": …}`` after each check.

Whatever the kernel prints goes to standard output, which is not looked at.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec

from pytest_multiitem.errors import EngineUnavailable, UsageError, did_you_mean
from pytest_multiitem.kernels.abilities import abilities_of
from pytest_multiitem.kernels.arrays import check_device
from pytest_multiitem.kernels.look import controls, look, planned, unplanned
from pytest_multiitem.kernels.subject import Subject
from pytest_multiitem.results.machine import package_versions

_PACKAGES = ("numpy", "torch", "triton", "jax", "flashinfer-python")


def main() -> None:
    """Do the job."""
    out = os.fdopen(int(sys.argv[1]), "w", buffering=1, encoding="utf-8")

    def emit(**event: Any) -> None:
        out.write(json.dumps(event) + "\n")

    job = _job()
    sys.path[:] = [*dict.fromkeys([*job["path"], *sys.path])]
    try:
        subject = subject_of(job["kernel"])
    except EngineUnavailable as error:
        return emit(unavailable=str(error))
    except UsageError as error:
        return emit(usage=str(error))
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
        check = look(subject, mine, lambda *at: emit(begin=at), job["shrink_seconds"])
        emit(check=msgspec.to_builtins(check))
    return None


def _has(package: str) -> bool:
    return package.partition("-")[0] in sys.modules


def _job() -> dict[str, Any]:
    """The job; from then on this process and all that it has started end when the parent is gone."""
    source = os.dup(0)
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    line = b""
    while not line.endswith(b"\n"):
        part = os.read(source, 1 << 16)
        if not part:
            raise SystemExit("the parent is gone")
        line += part
    threading.Thread(target=_end_with_parent, args=(source,), daemon=True).start()
    job: dict[str, Any] = json.loads(line)
    return job


def _end_with_parent(source: int) -> None:
    os.read(source, 1)  # nothing comes any more but the end
    if os.getpgrp() == os.getpid():  # the group is this process's own
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(1)


def subject_of(name: str) -> Subject:
    """The kernel of that name. Raises UsageError where there is none, EngineUnavailable where it cannot run here."""
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        missing = getattr(error, "name", None)
        if isinstance(error, ModuleNotFoundError) and missing and f"{module_name}.".startswith(f"{missing}."):
            raise UsageError(
                f"no module {missing!r}; expected one that can be imported from the current directory or the "
                "environment, such as kernels:attention"
            ) from None
        raise EngineUnavailable(f"{module_name} cannot be imported: {type(error).__name__}: {error}") from None
    except Exception as error:
        raise UsageError(f"{module_name} cannot be imported: {type(error).__name__}: {error}") from error
    function: Callable[..., Any] | None = getattr(module, attribute, None)
    if not callable(function):
        own = [
            each
            for each, value in vars(module).items()
            if callable(value) and not each.startswith("_") and getattr(value, "__module__", None) == module.__name__
        ]
        raise UsageError(
            f"{module_name} has no function {attribute!r}{did_you_mean(attribute, own)}; "
            f"its own functions: {', '.join(own) or 'none'}"
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
