"""Kernels whose result is known; a run in which they behave otherwise tells nothing about any other kernel.

Imported by the process of `tpu.compiler` only: this needs JAX.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

Case = tuple[Callable[..., Any], tuple[Any, ...]]

_TILE = jax.ShapeDtypeStruct((128, 128), jnp.float32)
#: 512 MiB in float32: more vector memory than any TPU has (16 to 128 MiB).
_TOO_MANY_ROWS = 2**20


def good() -> Case:
    """Lowers and compiles: one matrix product under a causal mask."""

    def kernel(left: Any, right: Any, out: Any) -> None:
        product = jnp.dot(left[...], right[...], preferred_element_type=jnp.float32)
        row, column = (lax.broadcasted_iota(jnp.int32, product.shape, axis) for axis in (0, 1))
        out[...] = jnp.where(column <= row, product, 0.0)

    return pl.pallas_call(kernel, out_shape=_TILE), (_TILE, _TILE)


def asks() -> Case:
    """Lowers and compiles where JAX answers with a TPU: as JAX's own ragged_paged_attention, it asks while traced."""

    def case(tile: Any) -> Any:
        kinds = {device.device_kind for device in (*jax.devices(), *jax.local_devices())}
        if jax.default_backend() != "tpu" or not all(kind.startswith("TPU") for kind in kinds):
            raise ValueError(f"asked for its device, JAX answers {kinds} and {jax.default_backend()!r}: no TPU")
        return good()[0](tile, tile)

    return case, (_TILE,)


def not_lowerable() -> Case:
    """Does not lower: a TPU kernel cannot hold a Cholesky decomposition."""

    def kernel(matrix: Any, out: Any) -> None:
        out[...] = lax.linalg.cholesky(matrix[...])

    return pl.pallas_call(kernel, out_shape=_TILE), (_TILE,)


def not_compilable() -> Case:
    """Lowers but does not compile: its scratch memory exceeds the vector memory of any chip."""

    def kernel(tile: Any, out: Any, scratch: Any) -> None:
        scratch[0:128, :] = tile[...]
        out[...] = scratch[0:128, :] + 1.0

    scratch = [pltpu.VMEM((_TOO_MANY_ROWS, 128), jnp.float32)]
    return pl.pallas_call(kernel, out_shape=_TILE, scratch_shapes=scratch), (_TILE,)


def no_kernel() -> Case:
    """Lowers and compiles, but holds no TPU kernel: the gate must notice."""
    return lambda tile: tile + 1.0, (_TILE,)
