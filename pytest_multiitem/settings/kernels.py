"""How a kernel is named: ``MODULE:FUNCTION``, so that another process can import it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pytest_multiitem.errors import UsageError


def parse_kernel(text: str) -> str:
    """A valid name. Raises ValueError saying what was expected."""
    module, colon, function = text.partition(":")
    is_file = module.endswith(".py") or "/" in module
    if is_file or not colon or not function.isidentifier() or not all(map(str.isidentifier, module.split("."))):
        hint = ""
        if is_file:
            dotted = module.removesuffix(".py").strip("./").replace("/", ".")
            hint = f"; name the module, not its file: {dotted}:{function or 'FUNCTION'}"
        raise ValueError(f"expected MODULE:FUNCTION, such as kernels:segment_case{hint}")
    return text


def name_of(kernel: str | Callable[..., Any]) -> str:
    """The name of a function, or of what is a name already. Raises UsageError where it has none."""
    if isinstance(kernel, str):
        try:
            return parse_kernel(kernel)
        except ValueError as error:
            raise UsageError(f"kernel {kernel!r} is not valid: {error}") from None
    name = getattr(kernel, "__qualname__", "")
    if not name.isidentifier():
        raise UsageError(
            f"{name or kernel!r} is not a function of a module; another process imports it, so "
            "define it at the top level of a module"
        )
    return f"{kernel.__module__}:{name}"
