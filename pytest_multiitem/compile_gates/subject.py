"""The function that makes the cases of a kernel: imported, and whether it takes their arguments."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

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


def import_subject(kernel: str) -> Callable[..., Any]:
    """The function that makes the cases. Raises UsageError where there is none of that name."""
    name, _, attribute = kernel.partition(":")
    try:
        module = importlib.import_module(name)
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and f"{name}.".startswith(f"{missing}."):
            raise UsageError(
                f"no module {missing!r}{did_you_mean(missing.rpartition('.')[2], _neighbours(missing))}; expected one "
                "that can be imported from the current directory or the environment, such as kernels:segment_case"
            ) from None
        if isinstance(error, ImportError | AttributeError):  # another version, or a package that is not there
            raise StageError("module", error) from error
        where = traceback.extract_tb(error.__traceback__)[-1]
        line = f"{where.filename}, line {where.lineno}" if not isinstance(error, SyntaxError) else ""
        text = f"{type(error).__name__}: {error}" + (f" ({line})" if line else "")
        raise UsageError(f"{name} cannot be imported: {text}") from None
    function: Callable[..., Any] | None = getattr(module, attribute, None)
    if not callable(function):
        known = _functions(module)
        what = "has no function" if function is None else "has no callable"
        raise UsageError(
            f"{name} {what} {attribute!r}{did_you_mean(attribute, known)}; "
            f"its own functions: {', '.join(known) or 'none'}"
        )
    return function


def _neighbours(missing: str) -> Iterable[str]:
    """The modules beside the one that is missing."""
    package = missing.rpartition(".")[0]
    path = getattr(sys.modules[package], "__path__", []) if package else None
    return [module.name for module in pkgutil.iter_modules(path)]


def _functions(module: ModuleType) -> list[str]:
    return [
        name
        for name, value in vars(module).items()
        if callable(value) and not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]


def check_arguments(kernel: str, function: Callable[..., Any], case: dict[str, Any]) -> None:
    """Raise UsageError unless a function can be called with the arguments of a case."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a builtin without one: the call itself will say what is wrong
        return
    parameters = signature.parameters.values()
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
