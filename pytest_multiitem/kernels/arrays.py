"""From NumPy to the arrays of a kernel and back. torch and JAX are imported here only where a kernel has them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytest_multiitem.errors import EngineUnavailable, UsageError
from pytest_multiitem.kernels.abilities import Abilities, Dtype

#: Half the distance from 1 to the next number: the largest relative error of one rounding.
UNIT_ROUNDOFF: dict[Dtype, float] = {"float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}
#: The largest power of two whose product with numbers of a few units, summed over a head, is finite.
LARGE: dict[Dtype, float] = {"float32": 2.0**100, "bfloat16": 2.0**100, "float16": 2.0**9}


def rounded(x: NDArray[Any], dtype: Dtype) -> NDArray[np.float32]:
    """``x`` rounded to ``dtype``, to the nearest and halves to even, as float32. NaN and infinity stay."""
    single: NDArray[np.float32] = np.ascontiguousarray(x, dtype=np.float32)
    if dtype == "float32":
        return single
    if dtype == "float16":
        return single.astype(np.float16).astype(np.float32)
    bits = single.view(np.uint32)
    up = (bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) & np.uint32(0xFFFF0000)
    return np.where(np.isfinite(single), up.view(np.float32), single)


def check_device(kernel: str, can: Abilities) -> None:
    """Raises EngineUnavailable where this machine has no such device, or torch is missing; UsageError for what is none.

    Asked before any call: later the same errors would be those of the kernel, which may have spoiled its device.
    """
    if can.arrays != "torch":
        if can.device != "cpu":
            raise UsageError(
                f"{kernel} says device {can.device!r} and arrays {can.arrays!r}: a device is torch's alone"
            )
        return
    try:
        import torch
    except ImportError as error:
        raise EngineUnavailable(f"the kernel takes arrays of torch, which cannot be imported: {error}") from None
    try:
        device = torch.device(can.device)
    except RuntimeError:
        raise UsageError(
            f"{kernel} says device {can.device!r}: expected the name of one of torch's, such as cpu or cuda"
        ) from None
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:  # each device has its own way to be missing
        first = (str(error).splitlines() or [""])[0]
        raise EngineUnavailable(
            f"the kernel needs torch's device {can.device!r}, which is not here: {type(error).__name__}: {first}"
        ) from None


def to_kernel(x: NDArray[np.float32], dtype: Dtype, can: Abilities) -> Any:
    """An array as the kernel takes it. Raises EngineUnavailable where its library or device is missing."""
    if can.arrays == "numpy":
        return x.astype(np.float16) if dtype == "float16" else x.copy()
    try:
        if can.arrays == "torch":
            import torch

            return torch.from_numpy(x).to(device=can.device, dtype=getattr(torch, dtype), copy=True)
        import jax.numpy as jnp

        return jnp.asarray(x.astype(jnp.dtype(dtype)))
    except ImportError as error:
        raise EngineUnavailable(f"the kernel takes arrays of {can.arrays}, which cannot be imported: {error}") from None


def held_as(dtype: Dtype, can: Abilities) -> str:
    """The type of a kernel's arrays that hold numbers of ``dtype``: NumPy has no bfloat16."""
    return "float32" if can.arrays == "numpy" and dtype == "bfloat16" else dtype


def type_name(x: Any) -> str:
    """The type of an array's numbers, as `Dtype` names it."""
    return str(x.dtype).removeprefix("torch.")


def from_kernel(out: Any, can: Abilities) -> NDArray[np.float32]:
    """What a kernel has returned, as float32, which holds every number of the types above. Raises TypeError, in words
    that say what it is and what was expected, where it is no array of the kernel's library."""
    if can.arrays == "torch":
        import torch

        kinds: tuple[Any, ...] = (torch.Tensor,)
        expected = "torch.Tensor"
    elif can.arrays == "jax":
        import jax

        kinds, expected = (jax.Array, np.ndarray), "jax.Array"  # which JAX takes for each other
    else:
        kinds, expected = (np.ndarray,), "numpy.ndarray"
    if not isinstance(out, kinds):
        name = f"{type(out).__module__}.{type(out).__qualname__}".removeprefix("builtins.")
        raise TypeError(f"{name}, expected {expected}")
    if can.arrays == "torch":
        out = out.detach().to("cpu").float().numpy()
    return np.array(out, dtype=np.float32)
