"""A small segment-attention kernel that compiles for TPUs, and the same broken in ways that were seen in real ones.

Each is a function that returns (callable, abstract arguments), as ``multiitem tpu-check`` takes it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

Case = tuple[Callable[..., Any], tuple[jax.ShapeDtypeStruct, ...]]


def working(*, rows: int = 128, keys: int = 256, prefix: int = 128, head_dim: int = 128) -> Case:
    """Rows see the prefix, and the keys of their own segment."""

    def visible(row_segment: Any, key_segment: Any, column: Any) -> Any:
        return (column < prefix) | (row_segment == key_segment)

    return _case(visible, rows, keys, head_dim)


def integer_gather(*, rows: int = 128, keys: int = 256, prefix: int = 128, head_dim: int = 128) -> Case:
    """Looks the segments of the keys up in a table, by an integer index each."""

    def visible(row_segment: Any, key_segment: Any, column: Any) -> Any:
        table = jnp.broadcast_to(row_segment, (rows, keys))
        return (column < prefix) | (row_segment == table[key_segment[0, :rows] % rows])

    return _case(visible, rows, keys, head_dim)


def compiler_crash(*, rows: int = 128, keys: int = 256, prefix: int = 128, head_dim: int = 128) -> Case:
    """The same with a table of one dimension: libtpu 0.0.42.1 does not refuse it, it aborts."""

    def visible(row_segment: Any, key_segment: Any, column: Any) -> Any:
        looked_up = row_segment[:, 0][key_segment[0] % rows]
        return (column < prefix) | (row_segment == looked_up[None, :])

    return _case(visible, rows, keys, head_dim)


def boolean_truncation(*, rows: int = 128, keys: int = 256, prefix: int = 128, head_dim: int = 128) -> Case:
    """Chooses between two masks: a select of booleans, which is one of int8 and a truncation back."""

    def visible(row_segment: Any, key_segment: Any, column: Any) -> Any:
        return jnp.where(column < prefix, key_segment >= 0, row_segment == key_segment)

    return _case(visible, rows, keys, head_dim)


def vmem_overflow(*, rows: int = 128, keys: int = 256, prefix: int = 128, head_dim: int = 128) -> Case:
    """Keeps the scores of every row and key of a long sequence in vector memory: 1 GiB."""

    def visible(row_segment: Any, key_segment: Any, column: Any) -> Any:
        return (column < prefix) | (row_segment == key_segment)

    return _case(visible, rows, keys, head_dim, scratch=(2**14, 2**14))


def ragged_paged(*, tokens: int = 128, pages: int = 32, dtype: str = "bfloat16") -> Case:
    """JAX's own attention over a paged cache with its default arguments: it asks which TPU it runs on."""
    from jax.experimental.pallas.ops.tpu.ragged_paged_attention import ragged_paged_attention

    integers = [jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((8,), (8, 4), (9,), (1,))]
    queries = jax.ShapeDtypeStruct((tokens, 16, 128), dtype)
    cache = jax.ShapeDtypeStruct((pages, 16, 16, 128), dtype)  # pages of 16 tokens, 8 heads of keys and of values
    return ragged_paged_attention, (queries, cache, *integers)


def tiles_of_its_chip() -> Case:
    """Asks for its device by all the ways that are answered, and lowers for no other chip than that."""
    device = jax.devices()[0]
    if not device.device_kind.startswith("TPU") or jax.local_devices()[0].platform != "tpu":
        raise ValueError(f"Only TPUs have tiles here, not {device!r}")
    return working() if jax.default_backend() == "tpu" else no_kernel()


def cache_update(*, mode: str = "donated") -> Case:
    """Writes into a cache that it is given for good; ``mode``: also with an argument that is None, or bound before."""

    def kernel(cache: Any, row: Any, out: Any) -> None:
        out[...] = cache[...] + row[...]

    tile, row = jax.ShapeDtypeStruct((128, 128), jnp.float32), jax.ShapeDtypeStruct((1, 128), jnp.float32)
    call = pl.pallas_call(kernel, out_shape=tile, input_output_aliases={0: 0})

    def updated(cache: Any, row: Any, bias: Any, scale: float = 1.0) -> Any:
        return call(cache, row * scale if bias is None else row + bias)

    if mode == "partial":
        return functools.partial(updated, bias=None, scale=2.0), (tile, row)
    donating = jax.jit(updated, donate_argnames="cache") if mode == "donated" else updated
    return donating, (tile, row, None)


def own_way_of_asking() -> Case:
    """Asks in a way that is not answered: what it then says is about where it runs, not about itself."""
    from jax._src import xla_bridge

    kind = xla_bridge.devices()[0].device_kind
    raise ValueError(f"Only TPU devices are supported: Invalid device_kind: '{kind}'")


def no_kernel() -> Case:
    """What interpret mode leaves: a program without a TPU kernel."""
    tile = jax.ShapeDtypeStruct((8, 128), jnp.float32)

    def double(block: Any, out: Any) -> None:
        out[...] = block[...] * 2.0

    return pl.pallas_call(double, out_shape=tile, interpret=True), (tile,)


def _case(
    visible: Callable[[Any, Any, Any], Any],
    rows: int,
    keys: int,
    head_dim: int,
    *,
    scratch: tuple[int, int] | None = None,
) -> Case:
    scores_shape = scratch or (rows, keys)

    def kernel(q: Any, k: Any, v: Any, row_segment: Any, key_segment: Any, out: Any, scores: Any) -> None:
        column = lax.broadcasted_iota(jnp.int32, (rows, keys), 1)
        product = lax.dot_general(q[...], k[...], (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)
        seen = visible(row_segment[...], key_segment[...], column)
        scores[0:rows, 0:keys] = jnp.where(seen, product, -1e30)
        weights = jnp.exp(scores[0:rows, 0:keys] - jnp.max(scores[0:rows, 0:keys], axis=1, keepdims=True))
        weights = weights / jnp.sum(weights, axis=1, keepdims=True)
        out[...] = jnp.dot(weights, v[...], preferred_element_type=jnp.float32)

    def shape(*sizes: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(sizes, dtype)

    call = pl.pallas_call(
        kernel, out_shape=shape(rows, head_dim), scratch_shapes=[pltpu.VMEM(scores_shape, jnp.float32)]
    )
    segments = (shape(rows, 1, dtype=jnp.int32), shape(1, keys, dtype=jnp.int32))
    return call, (shape(rows, head_dim), shape(keys, head_dim), shape(keys, head_dim), *segments)
