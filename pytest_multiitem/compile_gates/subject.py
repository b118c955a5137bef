"""The function that makes the cases of a kernel: imported, and whether it takes their arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pytest_multiitem.children.function import import_function, parameters_of
from pytest_multiitem.compile_gates.classify import Stage
from pytest_multiitem.compile_gates.shapes import shown
from pytest_multiitem.errors import UsageError, did_you_mean


class StageError(Exception):
    """What was raised, and in which stage.

    ``place``: where in a kernel's source, ``message``: why, where the toolchain says these otherwise than by the
    exception's frames and text.
    """

    def __init__(self, stage: Stage, error: BaseException, place: str = "", message: str = "") -> None:
        self.stage, self.error, self.place, self.message = stage, error, place, message


def import_subject(kernel: str, passing: tuple[type[Exception], ...]) -> Callable[..., Any]:
    """The function that makes the cases. Raises UsageError where there is none of that name or its module raises,
    StageError where that is one of ``passing``: what it needs is not there, or of another version."""
    try:
        return import_function(kernel, passing)
    except UsageError:
        raise
    except passing as error:
        raise StageError("module", error) from error


def check_arguments(kernel: str, function: Callable[..., Any], case: dict[str, Any]) -> None:
    """Raise UsageError unless a function can be called with the arguments of a case."""
    known = parameters_of(function)
    if known is None:  # the call itself will say what is wrong
        return
    parameters = known.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    takes = ", ".join(p.name if p.default is p.empty else f"{p.name}={p.default}" for p in named) or "no arguments"
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        for name in case:
            if name not in [p.name for p in named]:
                raise UsageError(
                    f"shape {shown(case)}: {kernel} has no argument {name!r}"
                    f"{did_you_mean(name, [p.name for p in named])}; it takes {takes}"
                )
    missing = [p.name for p in named if p.default is p.empty and p.name not in case]
    if missing:
        raise UsageError(
            f"{kernel} needs {', '.join(missing)}; give a value for each: --shape "
            f"{','.join(f'{name}=…' for name in missing)}"
        )
