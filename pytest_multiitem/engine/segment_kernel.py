"""Segment attention as one TPU kernel: every row against the shared prefix and its own item so far.

The online softmax is FlashAttention's (Dao et al. 2022, arXiv:2205.14135; as in FlashAttention-2,
arXiv:2307.08691, the division by the sum comes once, at the end): key tiles one after the other, with the
running row maximum, row sum and weighted values in float32 scratch memory, so that no score matrix
larger than one tile exists. The grid is (key-value head, query tile, key tile). The key tiles of a query
tile are those of the visible prefix and those that hold its own items; tiles of other items are never in
its sum. Which own tile is the first is read from scalar memory, one number a query tile.

Within a tile a row and a key of different items do meet: their score is replaced by `_HIDDEN`, the weight
is exactly 0, and exact zeros change no bit of the row's sums. As zero times NaN is NaN, an own value that is not
finite is taken as 0 and its key as NaN, so that the rows that see it are NaN and no others; hidden prefix values
are taken as 0. So another item's content changes no bit of a row; `docs/explanation/segment-kernel.md` says what
that was checked with.

R, P, D: rows, prefix tokens, head dimension. Queries are [kv_heads, group, R, D], keys and values
[kv_heads, R, D], the prefix's [kv_heads, P, D], as in `engine.jax_programs`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

#: The score of a hidden key, and the row maximum before any visible key. Both stand for minus infinity
#: but are finite, and apart, so that exp(hidden - maximum) is exactly 0 and never NaN.
_HIDDEN, _NOTHING_SEEN = -1e30, -1e20

#: Columns of a vector register; the last dimension of a block in VMEM occupies multiples of it.
_LANES = 128
#: Rows of a bfloat16 register tile (float32: 8). A query tile has a multiple of it, so that a group's
#: heads fold into the rows of one matrix without moving data.
_SUBLANES = 16
#: Rows of one matrix product (query tile × group) and keys of one prefix tile. One score tile is then
#: 1 MiB in float32; with the few copies that the softmax needs, the whole kernel compiles within 6 MiB.
_PRODUCT_ROWS = 512
_PREFIX_KEYS = 512
#: Up to here rows are padded to a multiple of 128, beyond it of 256: a grid step has a fixed cost, and
#: a wider own tile halves their number.
_FEW_ROWS = 1024

# Older releases of jax have it under the second name.
_CompilerParams = getattr(pltpu, "CompilerParams", None) or pltpu.TPUCompilerParams


class _Tiling(NamedTuple):
    """Tile sizes, in rows or keys; functions of the shapes alone, never of an item's content.

    ``rows``: R in whole query tiles.
    """

    query: int
    own: int
    shared: int
    rows: int


def segment_attention(
    q: Any,
    k: Any,
    v: Any,
    prefix_k: Any,
    prefix_v: Any,
    visible_prefix: Any,
    segment_start: Any,
    *,
    interpret: bool = False,
) -> Any:
    """Attention [kv_heads, group, R, D] of each row over the visible prefix and its own segment so far.

    ``q`` [kv_heads, group, R, D]; ``k``, ``v`` [kv_heads, R, D]; ``prefix_k``, ``prefix_v`` [kv_heads, P, D]; all
    float32 or all bfloat16. ``visible_prefix``: int32 scalar, prefix keys from there on are hidden (0: all of them).
    ``segment_start`` int32 [R]: the first row of the segment that a row belongs to; segments are contiguous. Row r
    attends to the visible prefix and to rows ``segment_start[r]`` … r. Scores are scaled by D^-0.5.

    The result has the type of ``q``, rounded once from float32. Products take their operands as they are and accumulate
    in float32; float32 operands are not rounded. ``interpret``: run on any device, slowly, by Pallas' interpreter.

    Raises ValueError where shapes or types do not fit together.
    """
    _check(q, k, v, prefix_k, prefix_v, segment_start)
    return _attend(q, k, v, prefix_k, prefix_v, visible_prefix, segment_start, interpret=interpret)


def slot_attention(
    q: Any, k: Any, v: Any, prefix_k: Any, prefix_v: Any, visible_prefix: Any, width: int, *, interpret: bool = False
) -> Any:
    """`segment_attention` where the R rows are slots of ``width`` rows each, as in a tile of `engine.plan`."""
    segment_start = jnp.arange(q.shape[2], dtype=jnp.int32) // width * width
    return segment_attention(q, k, v, prefix_k, prefix_v, visible_prefix, segment_start, interpret=interpret)


def tpu_case(
    *,
    rows: int = 12_000,
    prefix: int = 2048,
    heads: int = 16,
    kv_heads: int = 8,
    head_dim: int = 128,
    slot_width: int = 24,
    dtype: str = "bfloat16",
) -> tuple[Callable[..., Any], tuple[jax.ShapeDtypeStruct, ...]]:
    """What a TPU compile gate lowers and compiles: a function and its abstract arguments.

    ``rows``: R tokens in slots of ``slot_width``; ``prefix``: P tokens; ``heads`` query heads on ``kv_heads``
    key-value heads of ``head_dim``. The default is a layer of Qwen3-0.6B at the canonical workload: a
    query of 2,000 tokens in its bucket of 2,048, 500 items of 20 tokens and a delimiter in slots of 24.
    """
    if heads % kv_heads:
        raise ValueError(f"heads ({heads}) must be a multiple of kv_heads ({kv_heads})")

    def case(q: Any, k: Any, v: Any, prefix_k: Any, prefix_v: Any, visible_prefix: Any) -> Any:
        return slot_attention(q, k, v, prefix_k, prefix_v, visible_prefix, slot_width)

    own = jax.ShapeDtypeStruct((kv_heads, rows, head_dim), dtype)
    shared = jax.ShapeDtypeStruct((kv_heads, prefix, head_dim), dtype)
    q = jax.ShapeDtypeStruct((kv_heads, heads // kv_heads, rows, head_dim), dtype)
    return case, (q, own, own, shared, shared, jax.ShapeDtypeStruct((), jnp.int32))


def _check(q: Any, k: Any, v: Any, prefix_k: Any, prefix_v: Any, segment_start: Any) -> None:
    kv_heads, _, rows, dim = q.shape
    if k.shape != (kv_heads, rows, dim) or v.shape != k.shape or segment_start.shape != (rows,):
        raise ValueError(
            f"queries {q.shape} need keys and values ({kv_heads}, {rows}, {dim}) and segment_start ({rows},), "
            f"got {k.shape}, {v.shape} and {segment_start.shape}"
        )
    if prefix_k.shape != (kv_heads, prefix_k.shape[1], dim) or prefix_v.shape != prefix_k.shape:
        raise ValueError(
            f"queries {q.shape} need prefix keys and values ({kv_heads}, P, {dim}), "
            f"got {prefix_k.shape} and {prefix_v.shape}"
        )
    types = {str(each.dtype) for each in (q, k, v, prefix_k, prefix_v)}
    if types not in ({"float32"}, {"bfloat16"}):
        raise ValueError(f"operands must be all float32 or all bfloat16, got {', '.join(sorted(types))}")


def _tiling(group: int, rows: int, prefix: int) -> _Tiling:
    own = _LANES if rows <= _FEW_ROWS else 2 * _LANES
    # A power of two: a row's place in its tile is then a bitwise and. As it divides the rows of whole own tiles, no
    # query tile needs an own tile that begins behind the last key.
    query = _PRODUCT_ROWS
    while query > _SUBLANES and (_round_up(rows, own) % query or query * group > _PRODUCT_ROWS):
        query //= 2
    shared = min(_PREFIX_KEYS, _round_up(max(prefix, 1), _LANES))
    return _Tiling(query, own, shared, _round_up(rows, query))


@partial(jax.jit, static_argnames=("interpret",))
def _attend(
    q: Any, k: Any, v: Any, prefix_k: Any, prefix_v: Any, visible_prefix: Any, segment_start: Any, *, interpret: bool
) -> Any:
    kv_heads, group, rows, dim = q.shape
    tiling = _tiling(group, rows, prefix_k.shape[1])
    query_tiles = tiling.rows // tiling.query
    visible = jnp.clip(jnp.asarray(visible_prefix, jnp.int32), 0, prefix_k.shape[1])
    prefix_tiles = (visible + tiling.shared - 1) // tiling.shared

    # Padding rows form one segment of their own behind all others, so that no row sees nothing.
    start = _pad(segment_start.astype(jnp.int32), 0, tiling.rows, rows)
    first_own = start[:: tiling.query] // tiling.own
    own_tiles = jnp.max(_last_own(jnp.arange(query_tiles, dtype=jnp.int32), tiling) - first_own) + 1
    # Only numbers of tiles are prefetched to scalar memory: 4 bytes a query tile, where one number a row
    # would fill its 1 MiB at 262,144 rows.
    counts = jnp.stack([visible, prefix_tiles, own_tiles])

    # A step that needs no new tile names the previous one again, which is not fetched a second time.
    def shared_block(head: Any, tile: Any, step: Any, counts: Any, first_own: Any) -> tuple[Any, ...]:
        return head, jnp.maximum(jnp.minimum(step, counts[1] - 1), 0), 0

    def own_block(head: Any, tile: Any, step: Any, counts: Any, first_own: Any) -> tuple[Any, ...]:
        number = first_own[tile] + step - counts[1]
        return head, jnp.clip(number, first_own[tile], _last_own(tile, tiling)), 0

    starts = pl.BlockSpec((1, 1, tiling.query), lambda head, tile, *_: (tile, 0, 0))
    queries = pl.BlockSpec((1, group, tiling.query, dim), lambda head, tile, *_: (head, 0, tile, 0))
    own = pl.BlockSpec((1, tiling.own, dim), own_block)
    shared = pl.BlockSpec((1, tiling.shared, dim), shared_block)
    product_rows = group * tiling.query
    attended = pl.pallas_call(
        partial(_kernel, tiling=tiling),
        out_shape=jax.ShapeDtypeStruct((kv_heads, group, max(rows, tiling.query), dim), q.dtype),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            # The number of key tiles is known when the kernel starts, not when it is compiled: at most as many
            # steps as the query tile with most own tiles needs, and none for a hidden prefix tile.
            grid=(kv_heads, query_tiles, prefix_tiles + own_tiles),
            in_specs=[queries, own, own, shared, shared, starts],
            out_specs=queries,
            scratch_shapes=[
                pltpu.VMEM((product_rows, _LANES), jnp.int32),
                pltpu.VMEM((product_rows, _LANES), jnp.float32),
                pltpu.VMEM((product_rows, _LANES), jnp.float32),
                pltpu.VMEM((product_rows, dim), jnp.float32),
            ],
        ),
        # Key tiles of one query tile share the scratch and come in order.
        compiler_params=_CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
        interpret=interpret,
        name="segment_attention",
    )(
        counts,
        first_own,
        # Up to one whole tile and no further: of a last tile that is not whole Pallas leaves the rest undefined, which
        # the kernel hides, where padding would copy the array.
        _pad(q, 2, tiling.query),
        _pad(k, 1, tiling.own),
        _pad(v, 1, tiling.own),
        _pad(prefix_k, 1, tiling.shared),
        _pad(prefix_v, 1, tiling.shared),
        start.reshape(query_tiles, 1, tiling.query),
    )
    return attended[:, :, :rows]


def _kernel(
    counts: Any,
    first_own: Any,
    q: Any,
    k: Any,
    v: Any,
    prefix_k: Any,
    prefix_v: Any,
    segment_start: Any,
    out: Any,
    first_key: Any,
    maximum: Any,
    total: Any,
    values: Any,
    *,
    tiling: _Tiling,
) -> None:
    """One key tile against one query tile of one key-value head.

    ``counts`` [3]: visible prefix keys, prefix tiles, most own tiles; ``first_own`` [query tiles], both in scalar
    memory. ``q``, ``out`` [1, group, query, D]; ``k``, ``v`` [1, own, D]; ``prefix_k``, ``prefix_v`` [1, shared, D];
    ``segment_start`` [1, 1, query]. Scratch: ``first_key``, ``maximum``, ``total`` [group · query, lanes], the same in
    every lane; ``values`` [group · query, D].
    """
    tile, step = pl.program_id(1), pl.program_id(2)
    prefix_tiles, own_tiles = counts[1], counts[2]

    @pl.when(step == 0)
    def _() -> None:
        # From one number a lane to one number a row, as the score tile needs it. Handed over as a column, each
        # number would occupy a register's whole 128 lanes in HBM too.
        column = jnp.broadcast_to(segment_start[0], (_LANES, tiling.query)).T
        first_key[...] = jnp.broadcast_to(column, (q.shape[1], *column.shape)).reshape(first_key.shape)
        maximum[...] = jnp.full_like(maximum, _NOTHING_SEEN)
        total[...] = jnp.zeros_like(total)
        values[...] = jnp.zeros_like(values)

    def add(tile_k: Any, tile_v: Any, seen: Callable[[tuple[int, int]], Any]) -> None:
        rows = q[0].reshape(-1, q.shape[-1])
        scores = _dot(rows, tile_k, ((1,), (1,))) * q.shape[-1] ** -0.5
        scores = jnp.where(seen(scores.shape), scores, _HIDDEN)
        before = maximum[:, :1]
        now = jnp.maximum(before, jnp.max(scores, axis=1, keepdims=True))
        weights = jnp.exp(scores - now)
        rescale = jnp.exp(before - now)
        row_sum = total[:, :1] * rescale + jnp.sum(weights, axis=1, keepdims=True)
        maximum[...] = jnp.broadcast_to(now, maximum.shape)
        total[...] = jnp.broadcast_to(row_sum, total.shape)
        values[...] = values[...] * rescale + _dot(weights.astype(tile_v.dtype), tile_v, ((1,), (0,)))

    @pl.when(step < prefix_tiles)
    def _() -> None:
        def seen(shape: tuple[int, int]) -> Any:
            return step * tiling.shared + lax.broadcasted_iota(jnp.int32, shape, 1) < counts[0]

        key = step * tiling.shared + lax.broadcasted_iota(jnp.int32, prefix_v.shape[1:], 0)
        add(prefix_k[0], jnp.where(key < counts[0], prefix_v[0], 0), seen)

    own = first_own[tile] + step - prefix_tiles

    @pl.when((step >= prefix_tiles) & (own <= _last_own(tile, tiling)))
    def _() -> None:
        def seen(shape: tuple[int, int]) -> Any:
            row = tile * tiling.query + (lax.broadcasted_iota(jnp.int32, shape, 0) & (tiling.query - 1))
            key = own * tiling.own + lax.broadcasted_iota(jnp.int32, shape, 1)
            return (first_key[:, :1] <= key) & (key <= row)

        # A key that is NaN makes its own score NaN and no other, and a hidden score is replaced.
        finite = jnp.where(jnp.abs(v[0].astype(jnp.float32)) < jnp.inf, 1.0, 0.0).min(axis=1, keepdims=True) > 0
        add(jnp.where(finite, k[0], jnp.nan), jnp.where(finite, v[0], 0), seen)

    @pl.when(step == prefix_tiles + own_tiles - 1)
    def _() -> None:
        out[0] = (values[...] / total[:, :1]).reshape(out.shape[1:]).astype(out.dtype)


def _last_own(tile: Any, tiling: _Tiling) -> Any:
    """The number of the own key tile that holds the last row of query tile number ``tile``."""
    return ((tile + 1) * tiling.query - 1) // tiling.own


def _dot(a: Any, b: Any, contract: tuple[tuple[int], tuple[int]]) -> Any:
    """A matrix product accumulated in float32; float32 operands must not be rounded to bfloat16."""
    precision = lax.Precision.HIGHEST if a.dtype == jnp.float32 else lax.Precision.DEFAULT
    return lax.dot_general(a, b, (contract, ((), ())), precision=precision, preferred_element_type=jnp.float32)


def _pad(x: Any, axis: int, size: int, fill: int = 0) -> Any:
    """``x`` followed by ``fill`` up to ``size`` along ``axis``; as it is where it is longer."""
    if x.shape[axis] >= size:
        return x
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, size - x.shape[axis])
    return jnp.pad(x, widths, constant_values=fill)


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
