"""The function that ``MODULE:FUNCTION`` names, imported into this process."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

from pytest_multiitem.errors import UsageError, did_you_mean

#: Functions of a module that are named where the one that was asked for is not among them, at most.
_NAMED = 12


def import_function(kernel: str, passing: tuple[type[Exception], ...]) -> Callable[..., Any]:
    """The function. Raises UsageError where there is none of that name, or where its module raises; of what a module
    raises, ``passing`` is let through: it says that something else is missing or of another version."""
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
        if isinstance(error, passing):
            raise
        where = traceback.extract_tb(error.__traceback__)[-1]
        line = f"{where.filename}, line {where.lineno}" if not isinstance(error, SyntaxError) else ""
        text = f"{type(error).__name__}: {error}" + (f" ({line})" if line else "")
        raise UsageError(f"{name} cannot be imported: {text}") from None
    function: Callable[..., Any] | None = getattr(module, attribute, None)
    if not callable(function):
        known = _functions(module)
        what = "has no function" if function is None else "has no callable"
        more = f" and {len(known) - _NAMED} more" if len(known) > _NAMED else ""
        raise UsageError(
            f"{name} {what} {attribute!r}{did_you_mean(attribute, known)}; "
            f"its own functions: {', '.join(known[:_NAMED]) or 'none'}{more}"
        )
    return function


def parameters_of(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter] | None:
    """What a function takes, by name; None where nobody can say."""
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # a builtin without a signature
        return None


def required(function: Callable[..., Any]) -> list[str]:
    """The arguments without which a function cannot be called; none where nobody can say."""
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = (parameters_of(function) or {}).values()
    return [p.name for p in parameters if p.default is p.empty and p.kind not in several]


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
