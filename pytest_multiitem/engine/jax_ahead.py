"""JAX programs that are compiled ahead of a call, of which nothing but the executable is kept.

``jax.jit`` keeps, besides every executable, what the function was traced and lowered to, as long as the function lives:
2 to 3 MiB for each shape of the tiny model's programs. And the C library keeps what compiling has freed.
"""

from __future__ import annotations

import ctypes
import functools
import inspect
import sys
import threading
from collections.abc import Callable, Hashable
from typing import Any

import jax


class Program:
    """A function of arrays that is compiled once for each shape, type and place of its arguments.

    ``static``: names of the parameters that are part of the program, not of its data. ``donated``: names of those whose
    memory it may reuse. May be called from any thread; compiles one program at a time.
    """

    def __init__(self, function: Callable[..., Any], static: tuple[str, ...], donated: tuple[str, ...]) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._static, self._donated = static, donated
        parameters = inspect.signature(function).parameters
        self._names = tuple(parameters)
        self._defaults = {name: p.default for name, p in parameters.items() if p.default is not p.empty}
        self._compiled: dict[Hashable, Any] = {}
        self._compiling = threading.Lock()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given = self._defaults | dict(zip(self._names, args, strict=False)) | kwargs
        arrays = [given[name] for name in self._names if name not in self._static]
        leaves, tree = jax.tree.flatten(arrays)
        shapes = tuple((leaf.shape, leaf.dtype, getattr(leaf, "sharding", None)) for leaf in leaves)
        key = (*(given[name] for name in self._static), tree, shapes)
        compiled = self._compiled.get(key)
        if compiled is None:
            with self._compiling:
                compiled = self._compiled.get(key)
                if compiled is None:
                    compiled = self.jitted().lower(*(given[name] for name in self._names)).compile()
                    self._compiled[key] = compiled
                    _return_freed_memory()
        return compiled(*arrays)

    @property
    def count(self) -> int:
        """How many programs have been compiled."""
        return len(self._compiled)

    def jitted(self) -> Any:
        """A new ``jax.jit`` of the function; what JAX keeps for it goes with it."""

        @functools.wraps(self._function)
        def once(*args: Any, **kwargs: Any) -> Any:
            return self._function(*args, **kwargs)

        return jax.jit(once, static_argnames=self._static, donate_argnames=self._donated)


def program(*static: str, donated: tuple[str, ...] = ()) -> Callable[[Callable[..., Any]], Program]:
    """Make a function a :class:`Program`."""
    return lambda function: Program(function, static, donated)


def _return_freed_memory() -> None:
    """Give the system what the C library has of freed memory, where that library is glibc."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
