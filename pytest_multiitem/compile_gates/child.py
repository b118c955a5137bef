"""The process in which a toolchain compiles: a module of a toolchain calls `serve` with its compiler.

The process is as `children.job` has it. Its events:

- ``{"usage": TEXT}``: the job cannot be done as asked; the last event;
- ``{"failed": FAILURE}``: the toolchain or the module cannot be imported; the last event;
- ``{"versions": {…}}``: both are imported;
- ``{"begin": N}``, then ``{"end": N, "seconds": …}`` with ``failed``, or with what the compiler found: one step each.
"""

from __future__ import annotations

import linecache
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from pytest_multiitem.children.job import events, read_job
from pytest_multiitem.compile_gates.subject import StageError, check_arguments, import_subject
from pytest_multiitem.errors import UsageError
from pytest_multiitem.results.machine import package_versions

#: This room's own part in a traceback is no place in anybody's kernel.
_HERE = Path(__file__).parent
_LONGEST_LINE = 120


class Compiler(Protocol):
    """A toolchain in its process."""

    #: Distributions whose versions a report names, and modules that are the toolchain's own.
    packages: tuple[str, ...]
    modules: tuple[str, ...]

    def load(self, chips: dict[str, dict[str, Any]]) -> ModuleType:
        """Import the toolchain; the module of the control kernels. Raises StageError where that is not possible."""
        ...

    def run(self, chip: str, tier: str, make: Callable[..., Any], case: dict[str, Any]) -> dict[str, Any]:
        """Compile one case for one chip; what was found, as `records.Check` has it. Raises StageError."""
        ...


def serve(compiler: Compiler) -> None:
    """Do the job that comes on standard input."""
    emit, job = events(), read_job()
    absent: StageError | None = None
    try:
        try:
            controls = compiler.load(job["chips"])
        except StageError as stopped:
            absent = stopped
        # A name that is misspelt is misspelt on a machine without the toolchain as well.
        subject = import_subject(job["kernel"], (Exception,) if absent else (ImportError, AttributeError))
        for case in job["cases"]:
            check_arguments(job["kernel"], subject, case)
        if absent:
            raise absent
    except StageError as stopped:
        return emit(failed=_failure(absent or stopped, compiler.modules))
    except UsageError as error:
        return emit(usage=str(error))
    emit(versions=package_versions(compiler.packages))
    for step in job["steps"]:
        make = getattr(controls, step["control"]) if step["control"] else subject
        case = job["cases"][step["case"]] if step["control"] is None else {}
        emit(begin=step["id"])
        start = time.perf_counter()
        try:
            result = compiler.run(step["chip"], step["tier"], make, case)
        except StageError as stopped:
            result = {"failed": _failure(stopped, compiler.modules)}
        emit(end=step["id"], seconds=round(time.perf_counter() - start, 3), **result)
    return None


def _failure(stopped: StageError, modules: Iterable[str]) -> dict[str, Any]:
    """What `classify` judges."""
    error = stopped.error
    frames = list(traceback.walk_tb(error.__traceback__))
    owner = ""
    if isinstance(error, AttributeError) and error.obj is not None:
        obj = error.obj
        owner = obj.__name__ if isinstance(obj, ModuleType) else f"{type(obj).__module__}.{type(obj).__qualname__}"
    return {
        "stage": stopped.stage,
        "kind": type(error).__name__,
        "bases": [base.__name__ for base in type(error).__mro__],
        "message": stopped.message or str(error),
        "raised_in": frames[-1][0].f_globals.get("__name__", "") if frames else "",
        "owner": owner,
        "place": stopped.place or _place(error, tuple(modules)),
        "trace": "".join(traceback.format_exception(error)),
    }


def _place(error: BaseException | None, modules: tuple[str, ...]) -> str:
    """The innermost line outside the toolchain, ``FILE:LINE: SOURCE``; empty where none is known.

    Of what an exception was raised from, where itself was raised by the toolchain alone: a toolchain may raise its own
    exception in place of one with the kernel's frames.
    """
    is_outside = outside(modules)
    while error is not None:
        for frame, number in reversed(list(traceback.walk_tb(error.__traceback__))):
            file = frame.f_code.co_filename
            if is_outside(file):
                return place(file, number)
        error = error.__cause__ or error.__context__
    return ""


def outside(modules: Iterable[str]) -> Callable[[str], bool]:
    """Whether a file is neither the toolchain's nor this room's. Frames that a toolchain makes up have files, but no
    modules."""
    known = [getattr(sys.modules.get(name), "__path__", []) for name in modules]
    without = [_HERE, *(Path(path) for paths in known for path in paths)]
    return lambda file: not file.startswith("<") and not any(map(Path(file).is_relative_to, without))


def place(file: str, number: int) -> str:
    """``FILE:LINE: SOURCE``, the file as from the current directory where it is below it."""
    path = Path(file)
    shown = str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file
    source = linecache.getline(file, number).strip()
    return f"{shown}:{number}" + (f": {source[:_LONGEST_LINE]}" if source else "")
