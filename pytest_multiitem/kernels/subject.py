"""A kernel as the checks call it: NumPy in, NumPy out, and one error for whatever it does otherwise."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pytest_multiitem.children.device import lacks_device
from pytest_multiitem.errors import EngineUnavailable, MultiItemError
from pytest_multiitem.kernels.abilities import Abilities, Dtype
from pytest_multiitem.kernels.arrays import UNIT_ROUNDOFF, from_kernel, held_as, to_kernel, type_name
from pytest_multiitem.kernels.layout import Layout

#: ``attention(q, k, v, layout) -> out``: q and out [rows, heads, D], k and v [rows, kv_heads, D].
Attention = Callable[[Any, Any, Any, Layout], Any]
#: Whose lines are not where a kernel is wrong.
_LIBRARIES: Final = ("numpy", "torch", "jax", "jaxlib", "triton", "flashinfer")


class KernelError(Exception):
    """A kernel raised, or returned what is no result. ``trace``: where, as Python shows it."""

    def __init__(self, message: str, trace: str = "") -> None:
        super().__init__(message)
        self.trace = trace


@dataclass(frozen=True)
class Subject:
    """A kernel, its name, and what it says that it can do. ``paged``: sizes of pages whose table it has asked for."""

    name: str
    attention: Attention
    can: Abilities
    paged: set[int] = field(default_factory=set)

    def rounds_to(self, dtype: Dtype) -> Dtype:
        """The coarser one of the type of its arguments and that of its result."""
        return max(dtype, self.can.result_dtype or dtype, key=UNIT_ROUNDOFF.__getitem__)

    def __call__(
        self, q: NDArray[np.float32], k: NDArray[np.float32], v: NDArray[np.float32], layout: Layout, dtype: Dtype
    ) -> NDArray[np.float32]:
        """The kernel's result [rows, heads, D]. ``q``, ``k``, ``v`` hold numbers of ``dtype``.

        Raises KernelError, and EngineUnavailable where the kernel says that it cannot run on this machine.
        """
        query, key, value = (to_kernel(each, dtype, self.can) for each in (q, k, v))
        return self._result(query, key, value, layout, dtype)

    def overwrites(
        self, q: NDArray[np.float32], k: NDArray[np.float32], v: NDArray[np.float32], layout: Layout, dtype: Dtype
    ) -> str | None:
        """``keys`` or ``values`` where a call leaves other numbers in those that it was given; None where it does not.

        Queries are not looked at: a kernel may write its result in their place. Raises as a call does.
        """
        query, key, value = (to_kernel(each, dtype, self.can) for each in (q, k, v))
        self._result(query, key, value, layout, dtype)
        if self.can.arrays == "jax":  # whose arrays cannot be written
            return None
        for name, given, left in (("keys", k, key), ("values", v, value)):
            if not np.array_equal(from_kernel(left, self.can), given):
                return name
        return None

    def _result(self, query: Any, key: Any, value: Any, layout: Layout, dtype: Dtype) -> NDArray[np.float32]:
        # Its own each time: what it writes into one is not what the next call, or the judge, reads.
        given = replace(layout)
        try:
            with np.errstate(all="ignore"):
                returned = self.attention(query, key, value, given)
        except MultiItemError:
            raise
        except Exception as error:
            said = f"{type(error).__name__}: {_first_line(error)}"
            if lacks_device(said):
                why = f"the kernel needs a GPU, and there is none: {said.rstrip('.')}{_remedy(error)}"
                raise EngineUnavailable(why) from error
            trace = "".join(traceback.format_exception(error))
            raise KernelError(f"it raised {said}{_where(error)}", trace) from error
        if given.page_size is not None and given.pages_were_read:
            self.paged.add(given.page_size)
        try:
            out = from_kernel(returned, self.can)
        except TypeError as error:
            raise KernelError(f"it returned {error}") from None
        if out.shape != tuple(query.shape):
            expected = list(query.shape)
            raise KernelError(f"it returned an array of shape {list(out.shape)}, expected that of q, {expected}")
        due = self.can.result_dtype or dtype
        if (found := type_name(returned)) != held_as(due, self.can):
            why = "what it says, result_dtype" if self.can.result_dtype else "that of q"
            raise KernelError(f"it returned an array of {found}, expected {why}, {held_as(due, self.can)}")
        return out


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:300]


def _remedy(error: Exception) -> str:
    """A Triton kernel need not have the GPU."""
    of_triton = any(module.startswith("triton.") for module, _, _ in _frames(error))
    return "; in Triton's interpreter it runs without one: TRITON_INTERPRET=1" if of_triton else ""


def _where(error: Exception) -> str:
    """The innermost line that is neither a library's nor of this package's checks."""
    for module, file, line in reversed(_frames(error)):
        if module.partition(".")[0] not in _LIBRARIES and not module.startswith(__package__) and file[:1] != "<":
            return f" (line {line} of {Path(file).name})"
    return ""


def _frames(error: Exception) -> list[tuple[str, str, int]]:
    """Module, file and line of each frame of an exception, outermost first."""
    walked = traceback.walk_tb(error.__traceback__)
    return [(frame.f_globals.get("__name__", ""), frame.f_code.co_filename, line) for frame, line in walked]
