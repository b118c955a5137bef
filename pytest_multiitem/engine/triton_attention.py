"""Segment attention as one Triton kernel: every row against the shared prefix, and causally against its own item.

The online softmax is FlashAttention-2's (Dao 2023, arXiv:2307.08691): key tiles one after the other, with each row's
running maximum, sum and weighted values in registers, which combines the prefix and the own item by their log-sum-exp
without either's result being stored. The grid is (query tile, key-value head); the query heads of a key head are more
rows of the same tile, so that a prefix tile is read once for all of them.

Own keys come item by item, in tiles that start where the item starts: which keys a row meets together depends on its
own item alone, and neither on where the item stands nor on what stands beside it. Rows of other items in the query tile
meet them too, with weights that are exactly 0, and exact zeros change no bit of a sum. As zero times NaN is NaN, an own
value that is not finite is taken as 0 and its key as NaN, so that the rows that see it are NaN and no others.

R, P, D: rows, prefix tokens, head dimension. It runs on CUDA devices; where ``TRITON_INTERPRET=1`` is set before this
module is imported, by Triton's interpreter on the CPU, slowly.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Final, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from pytest_multiitem.compile_gates.gpu.case import Numbers, TritonCase
from pytest_multiitem.engine import torch_attention
from pytest_multiitem.engine.slot_bounds import NO_KEY, by_bounds

_NO_KEY: Final = tl.constexpr(NO_KEY)
#: The row maximum before any visible key. It stands for minus infinity but is finite, so that exp2(hidden - maximum) is
#: exactly 0 and never NaN.
_NOTHING_SEEN: Final = tl.constexpr(-1e20)
_LOG2_E: Final = 1.4426950408889634
#: Triton's interpreter (3.9.0) takes the bits of bfloat16 operands of a product for whole numbers, and cuts off what it
#: should round to bfloat16.
_INTERPRETED: Final = tl.constexpr(bool(triton.knobs.runtime.interpret))
#: Types of operands as `compile_gates.gpu.case.TritonCase` writes them, of torch's tensors.
_ELEMENTS: Final = {"float32": "*fp32:16", "bfloat16": "*bf16:16"}
#: The items of the case's numbers as slots (G, W): within a tile of keys, of one more than a tile, of one token.
CASE_TILES: Final = ((2, 5), (1, 33), (3, 1))


class _Tiling(NamedTuple):
    """Tile sizes, functions of the element type, the head dimension and the GPU; a launch's warps and pipeline stages.

    ``rows``: rows of a query tile times heads of a group. ``shared``, ``own``: keys of a tile of the prefix and of an
    item. ``dim``: the head dimension, padded to a power of two. ``parts``: in how many of these a score is summed, so
    that a thread holds a part of its operands at a time.
    """

    rows: int
    shared: int
    own: int
    dim: int
    parts: int
    warps: int
    stages: int


def segment_attention(
    q: Tensor, k: Tensor, v: Tensor, prefix_k: Tensor, prefix_v: Tensor, first: Tensor, last: Tensor
) -> Tensor:
    """Attention [R, heads · D] of each row over the whole prefix and over the keys ``first`` to ``last`` of its own.

    ``q`` [heads, R, D]; ``k``, ``v`` [kv_heads, C, D]; ``prefix_k``, ``prefix_v`` [kv_heads, P, D], P from 0; all
    float32 or all bfloat16, numbers of one head vector side by side. ``first``, ``last`` int32 [R]: the row's first and
    last key of C, both included; none where ``last`` is smaller. A row that sees no key at all is 0.

    Scores are scaled by D^-0.5. Products take their operands as they are and accumulate in float32; float32 operands
    are not rounded. The result has the type of ``q``, rounded once. A row that sees an own value that is not finite
    is NaN.

    Raises ValueError where shapes, types or devices do not fit.
    """
    _check(q, k, v, prefix_k, prefix_v, first, last)
    heads, rows, dim = q.shape
    kv_heads = k.shape[0]
    out = torch.empty((rows, heads, dim), dtype=q.dtype, device=q.device)
    if not rows:
        return out.reshape(0, heads * dim)
    tiling, group = _tiling(q.dtype, dim, _capability(q.device)), heads // kv_heads
    strides = [stride for each in (q, k, v, prefix_k, prefix_v) for stride in each.stride()[:2]]
    _kernel[(triton.cdiv(rows * group, tiling.rows), kv_heads)](
        *(q, k, v, prefix_k, prefix_v, first, last, out),
        *(rows, prefix_k.shape[1], _LOG2_E * dim**-0.5),
        *strides,
        **_constants(tiling, group, dim),
        num_warps=tiling.warps,
        num_stages=tiling.stages,
    )
    return out.reshape(rows, heads * dim)


#: `engine.torch_attention.segment` and ``segment_last`` by the kernel.
segment, segment_last = by_bounds(segment_attention)


def gpu_case(
    *, heads: int = 16, kv_heads: int = 8, head_dim: int = 128, dtype: str = "bfloat16", capability: int | None = None
) -> TritonCase:
    """The kernel as the GPU compile gate takes it. The default is a layer of Qwen3-0.6B: numbers of rows, of prefix
    tokens and of items are arguments of a launch, so that one kernel serves them all.

    ``dtype``: float32 or bfloat16. ``capability``: of the GPU that it is compiled for; None: interpreted. Raises
    ValueError for another type, and where ``kv_heads`` does not divide ``heads``.
    """
    if heads % kv_heads:
        raise ValueError(f"heads ({heads}) must be a multiple of kv_heads ({kv_heads})")
    if dtype not in _ELEMENTS:
        raise ValueError(f"dtype is {dtype!r}; expected one of {', '.join(_ELEMENTS)}")
    kind = getattr(torch, dtype)
    tiling = _tiling(kind, head_dim, capability)
    constants = _constants(tiling, heads // kv_heads, head_dim)
    # A stride is a number of whole head vectors; a launch specialises for those that 16 divides.
    stride = "i32:16" if head_dim % 16 == 0 else "i32"
    element, bound = _ELEMENTS[dtype], "*i32:16"
    types = [*[element] * 5, bound, bound, element, "i32", "i32", "fp32", *[stride] * 10]
    names = [name for name in _kernel.arg_names if name not in constants]
    return TritonCase(
        kernel=_kernel,
        arguments=dict(zip(names, types, strict=True)) | constants,
        options={"num_warps": tiling.warps, "num_stages": tiling.stages},
        numbers=_numbers(heads, kv_heads, head_dim, kind),
    )


def _numbers(heads: int, kv_heads: int, dim: int, kind: torch.dtype) -> Numbers:
    """The kernel against `torch_attention.segment` in float32, behind a prefix that is no whole number of tiles. Values
    are within -1 and 1, and so are results."""
    rows, prefix = sum(slots * width for slots, width in CASE_TILES), 70

    def inputs() -> Sequence[Tensor]:
        draw = torch.Generator().manual_seed(0)
        shapes = [(heads, rows), (kv_heads, rows), (kv_heads, rows), (kv_heads, prefix), (kv_heads, prefix)]
        q, k, v, prefix_k, prefix_v = (torch.randn(*shape, dim, generator=draw).to(kind) for shape in shapes)
        return q, k, v.clamp(-1, 1), prefix_k, prefix_v.clamp(-1, 1)

    def run(q: Tensor, k: Tensor, v: Tensor, prefix_k: Tensor, prefix_v: Tensor) -> Tensor:
        return segment(q, k, v, prefix_k, prefix_v, CASE_TILES)

    def reference(*operands: Tensor) -> Tensor:
        q, k, v, prefix_k, prefix_v = (each.float() for each in operands)
        return torch_attention.segment(q, k, v, prefix_k, prefix_v, CASE_TILES)

    # Weights and results are rounded to bfloat16: 2^-9 of themselves each.
    return Numbers(run=run, reference=reference, inputs=inputs, limit=2.0**-8 if kind == torch.bfloat16 else 2.0**-17)


def _check(q: Tensor, k: Tensor, v: Tensor, prefix_k: Tensor, prefix_v: Tensor, first: Tensor, last: Tensor) -> None:
    heads, rows, dim = q.shape
    kv_heads, keys, _ = k.shape
    if k.shape != (kv_heads, keys, dim) or v.shape != k.shape or heads % kv_heads:
        raise ValueError(
            f"queries {tuple(q.shape)} need keys and values (kv_heads, C, {dim}), kv_heads a divisor of {heads}, "
            f"got {tuple(k.shape)} and {tuple(v.shape)}"
        )
    if prefix_k.shape != (kv_heads, prefix_k.shape[1], dim) or prefix_v.shape != prefix_k.shape:
        raise ValueError(
            f"queries {tuple(q.shape)} need prefix keys and values ({kv_heads}, P, {dim}), "
            f"got {tuple(prefix_k.shape)} and {tuple(prefix_v.shape)}"
        )
    types = {str(each.dtype).removeprefix("torch.") for each in (q, k, v, prefix_k, prefix_v)}
    if types not in ({"float32"}, {"bfloat16"}):
        raise ValueError(f"operands must be all float32 or all bfloat16, got {', '.join(sorted(types))}")
    if any(each.shape != (rows,) or each.dtype != torch.int32 for each in (first, last)):
        got = " and ".join(f"{each.dtype} {tuple(each.shape)}" for each in (first, last))
        raise ValueError(f"queries {tuple(q.shape)} need first and last as int32 ({rows},), got {got}")
    operands = (q, k, v, prefix_k, prefix_v, first, last)
    if any(each.numel() and each.stride(-1) != 1 for each in operands):
        raise ValueError("the numbers of a head vector, and first and last, must be side by side; call contiguous()")
    if not _INTERPRETED.value and any(not each.is_cuda for each in operands):
        raise ValueError(
            f"operands are on {', '.join(sorted({str(each.device) for each in operands}))}; expected a CUDA device, or "
            "TRITON_INTERPRET=1 set before this module is imported"
        )


@cache
def _capability(device: torch.device) -> int | None:
    """The compute capability of a CUDA device, ten times; None of any other."""
    if device.type != "cuda":
        return None
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def _tiling(dtype: torch.dtype, dim: int, capability: int | None) -> _Tiling:
    """The largest tiles found with which no thread spills, as Triton 3.9.0 compiles them: `tests/gpu` holds them to it.

    ``capability``: None where the kernel is interpreted, whose cost is the number of tiles.
    """
    padded = max(16, triton.next_power_of_2(dim))
    if dtype == torch.float32:
        # No matrix unit multiplies float32 without rounding it, and a thread holds whole rows and columns of a product.
        parts = padded // 16
        if capability is None:
            return _Tiling(128, 64, 32, padded, parts, 8, 2)
        return _Tiling(16, 32 if padded <= 128 else 16, 16, padded, parts, 8, 1)
    if padded <= 64 or capability is None:
        return _Tiling(128, 64, 32, padded, 1, 8, 2)
    if 90 <= capability < 120:
        return _Tiling(128, 64, 32, padded, 1, 8, 2) if padded == 128 else _Tiling(64, 32, 16, padded, 1, 8, 2)
    # Their matrix units take operands from registers, not from shared memory.
    if padded == 128:
        return _Tiling(128, 32 if dim == padded else 16, 16, padded, 1, 8, 2)
    return _Tiling(64, 32, 16, padded, padded // 64, 8, 2)


def _constants(tiling: _Tiling, group: int, dim: int) -> dict[str, int]:
    return {
        "GROUP": group,
        "DIM": dim,
        "TILE_DIM": tiling.dim,
        "TILE_ROWS": tiling.rows,
        "SHARED_KEYS": tiling.shared,
        "OWN_KEYS": tiling.own,
        "PARTS": tiling.parts,
    }


@triton.jit
def _kernel(
    q: tl.tensor,
    k: tl.tensor,
    v: tl.tensor,
    prefix_k: tl.tensor,
    prefix_v: tl.tensor,
    first: tl.tensor,
    last: tl.tensor,
    out: tl.tensor,
    rows: tl.tensor,
    prefix: tl.tensor,
    scale: tl.tensor,
    q_head: tl.tensor,
    q_row: tl.tensor,
    k_head: tl.tensor,
    k_row: tl.tensor,
    v_head: tl.tensor,
    v_row: tl.tensor,
    prefix_k_head: tl.tensor,
    prefix_k_row: tl.tensor,
    prefix_v_head: tl.tensor,
    prefix_v_row: tl.tensor,
    GROUP: tl.constexpr,
    DIM: tl.constexpr,
    TILE_DIM: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    SHARED_KEYS: tl.constexpr,
    OWN_KEYS: tl.constexpr,
    PARTS: tl.constexpr,
) -> None:
    """One query tile of one key-value head. ``scale``: of scores, with the logarithm of 2 in it, for exp2; ``…_head``,
    ``…_row``: strides in numbers. ``out`` is [R, heads, D], one row after another."""
    kv_head = tl.program_id(1)
    flat = tl.program_id(0) * TILE_ROWS + tl.arange(0, TILE_ROWS)
    row, head = flat // GROUP, kv_head * GROUP + flat % GROUP
    inside = row < rows
    column = tl.arange(0, TILE_DIM)
    wide = column < DIM
    at = head.to(tl.int64) * q_head + row.to(tl.int64) * q_row
    queries = tl.load(q + at[:, None] + column[None, :], mask=inside[:, None] & wide[None, :], other=0.0)
    maximum = tl.full([TILE_ROWS], _NOTHING_SEEN, tl.float32)
    total = tl.zeros([TILE_ROWS], tl.float32)
    values = tl.zeros([TILE_ROWS, TILE_DIM], tl.float32)

    key = tl.arange(0, SHARED_KEYS)
    keys_at = prefix_k + kv_head.to(tl.int64) * prefix_k_head + column[None, :]
    values_at = prefix_v + kv_head.to(tl.int64) * prefix_v_head + column[None, :]
    whole = prefix // SHARED_KEYS * SHARED_KEYS
    for start in range(0, whole, SHARED_KEYS):
        number = (start + key).to(tl.int64)[:, None]
        tile_k = tl.load(keys_at + number * prefix_k_row, mask=wide[None, :], other=0.0)
        tile_v = tl.load(values_at + number * prefix_v_row, mask=wide[None, :], other=0.0)
        scores = _scores(queries, tile_k, PARTS) * scale
        maximum, total, values = _add(scores, tile_v, maximum, total, values)
    if whole < prefix:
        there = whole + key < prefix
        number = (whole + key).to(tl.int64)[:, None]
        tile_k = tl.load(keys_at + number * prefix_k_row, mask=there[:, None] & wide[None, :], other=0.0)
        tile_v = tl.load(values_at + number * prefix_v_row, mask=there[:, None] & wide[None, :], other=0.0)
        scores = _scores(queries, tile_k, PARTS) * scale
        scores = tl.where(there[None, :], scores, -float("inf"))
        maximum, total, values = _add(scores, tile_v, maximum, total, values)

    own_first = tl.load(first + row, mask=inside, other=_NO_KEY)
    own_last = tl.load(last + row, mask=inside, other=-1)
    own_first = tl.where(own_first <= own_last, own_first, _NO_KEY)
    own = tl.arange(0, OWN_KEYS)
    keys_at = k + kv_head.to(tl.int64) * k_head + column[None, :]
    values_at = v + kv_head.to(tl.int64) * v_head + column[None, :]
    item = tl.min(own_first, 0)
    while item < _NO_KEY:
        of_item = own_first == item
        end = tl.max(tl.where(of_item, own_last, -1), 0)
        for start in range(item, end + 1, OWN_KEYS):
            number = start + own
            there = number <= end
            far = number.to(tl.int64)[:, None]
            tile_k = tl.load(keys_at + far * k_row, mask=there[:, None] & wide[None, :], other=0.0)
            tile_v = tl.load(values_at + far * v_row, mask=there[:, None] & wide[None, :], other=0.0)
            # A number that is not finite is not less than infinity. A key that is NaN makes its own score NaN and no
            # other, and a hidden score is replaced.
            fine = tl.min((tl.abs(tile_v.to(tl.float32)) < float("inf")).to(tl.int32), 1)[:, None] == 1
            tile_k = tl.where(fine, tile_k, float("nan"))
            tile_v = tl.where(fine, tile_v, 0.0)
            seen = of_item[:, None] & (number[None, :] <= own_last[:, None])
            scores = _scores(queries, tile_k, PARTS) * scale
            scores = tl.where(seen, scores, -float("inf"))
            maximum, total, values = _add(scores, tile_v, maximum, total, values)
        item = tl.min(tl.where(own_first > item, own_first, _NO_KEY), 0)

    attended = values / tl.where(total == 0.0, 1.0, total)[:, None]
    at = (row.to(tl.int64) * (tl.num_programs(1) * GROUP) + head) * DIM
    tl.store(
        out + at[:, None] + column[None, :],
        _rounded(attended, out.dtype.element_ty),
        mask=inside[:, None] & wide[None, :],
    )


@triton.jit
def _scores(queries: tl.tensor, keys: tl.tensor, PARTS: tl.constexpr) -> tl.tensor:
    """Products [rows, keys] of queries [rows, D] and keys [keys, D], summed in ``PARTS`` parts of D."""
    if PARTS == 1:
        return _dot(queries, tl.trans(keys), None)
    width: tl.constexpr = queries.shape[1] // PARTS
    parts_q = tl.permute(tl.reshape(queries, [queries.shape[0], PARTS, width]), [1, 0, 2])
    parts_k = tl.permute(tl.reshape(keys, [keys.shape[0], PARTS, width]), [1, 2, 0])
    return tl.sum(_dot(parts_q, parts_k, None), 0)


@triton.jit
def _add(scores: tl.tensor, tile_v: tl.tensor, maximum: tl.tensor, total: tl.tensor, values: tl.tensor) -> tl.tensor:
    """The running softmax of rows after one more tile of keys with these ``scores`` and values."""
    now = tl.maximum(maximum, tl.max(scores, 1))
    weights = tl.exp2(scores - now[:, None])
    rescale = tl.exp2(maximum - now)
    total = total * rescale + tl.sum(weights, 1)
    values = _dot(_rounded(weights, tile_v.dtype), tile_v, values * rescale[:, None])
    return now, total, values


@triton.jit
def _dot(a: tl.tensor, b: tl.tensor, added: tl.tensor) -> tl.tensor:
    """A matrix product accumulated in float32, and ``added`` to it where that is not None."""
    if _INTERPRETED and a.dtype == tl.bfloat16:
        a = (a.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
        b = (b.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    return tl.dot(a, b, added, input_precision="ieee")


@triton.jit
def _rounded(x: tl.tensor, TYPE: tl.constexpr) -> tl.tensor:
    """``x`` in float32 as ``TYPE``, rounded to the nearest and halves to even."""
    if _INTERPRETED and tl.bfloat16 == TYPE:
        bits = x.to(tl.uint32, bitcast=True).to(tl.uint64)  # whose sums the interpreter does not check for overflow
        bits = tl.where(x == x, bits + 0x7FFF + ((bits >> 16) & 1), 0x7FC00000)
        return (bits >> 16).to(tl.uint16).to(TYPE, bitcast=True)
    return x.to(TYPE)
