"""A small segment-attention kernel in Triton, and the same broken in ways that only a GPU's compiler sees.

Each is a function that returns a case, as ``multiitem gpu-check`` takes it. This module is imported where Triton is.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from pytest_multiitem.compile_gates.gpu.case import Numbers, TritonCase


@triton.jit
def _attention(
    q, k, v, segment, out, rows, prefix, scale,
    dim: tl.constexpr, tile: tl.constexpr, keys: tl.constexpr, fault: tl.constexpr,
):  # type: ignore[no-untyped-def]  # fmt: skip
    row = tl.program_id(0) * tile + tl.arange(0, tile)
    column = tl.arange(0, dim)
    queries = tl.load(q + row[:, None] * dim + column[None, :], mask=row[:, None] < rows, other=0.0)
    mine = tl.load(segment + row, mask=row < rows, other=-1)
    largest = tl.full((tile,), -1e20, tl.float32)
    total = tl.zeros((tile,), tl.float32)
    values = tl.zeros((tile, dim), tl.float32)
    for first in range(0, rows, keys):
        key = first + tl.arange(0, keys)
        tile_k = tl.load(k + key[None, :] * dim + column[:, None], mask=key[None, :] < rows, other=0.0)
        tile_v = tl.load(v + key[:, None] * dim + column[None, :], mask=key[:, None] < rows, other=0.0)
        theirs = tl.load(segment + key, mask=key < rows, other=-2)
        own = mine[:, None] == theirs[None, :]
        seen = ((key[None, :] < prefix) | own) & (key[None, :] <= row[:, None])
        if fault == "drops the mask":
            seen = key[None, :] <= row[:, None]
        if fault == "adds a vector to a matrix of another size":
            seen = seen & (tl.arange(0, 2 * keys)[None, :] < rows)
        scores = tl.where(seen, tl.dot(queries, tile_k) * scale, -1e30)
        if fault == "unknown instruction":
            scores = tl.inline_asm_elementwise(
                "exp2.approx.f32 $0, $1;", "=f,f", [scores], dtype=tl.float32, is_pure=True, pack=1
            )
        now = tl.maximum(largest, tl.max(scores, axis=1))
        weights = tl.exp(scores - now[:, None])
        rescale = tl.exp(largest - now)
        total = total * rescale + tl.sum(weights, axis=1)
        values = values * rescale[:, None] + tl.dot(weights.to(tile_v.dtype), tile_v)
        largest = now
    tl.store(out + row[:, None] * dim + column[None, :], values / total[:, None], mask=row[:, None] < rows)


def working(*, rows: int = 80, dim: int = 64, tile: int = 32, keys: int = 32, dtype: str = "bf16") -> TritonCase:
    """Rows see the prefix, and the keys of their own segment so far."""
    return _case(rows, dim, tile, keys, dtype)


def without_numbers() -> TritonCase:
    """The same, compiled only."""
    case = _case(80, 64, 32, 32, "bf16")
    return TritonCase(kernel=case.kernel, arguments=case.arguments, options=case.options)


def too_much_shared(*, keys: int = 128, stages: int = 6) -> TritonCase:
    """A pipeline of six stages of large tiles: more shared memory than any architecture has."""
    return _case(80, 128, 64, keys, "bf16", stages=stages)


def type_error() -> TritonCase:
    """Two masks of different widths."""
    return _case(80, 64, 32, 32, "bf16", fault="adds a vector to a matrix of another size")


def unsupported_instruction() -> TritonCase:
    """An instruction that no architecture has: PTX calls it ex2.approx.f32."""
    return _case(80, 64, 32, 32, "bf16", fault="unknown instruction")


def mask_dropped() -> TritonCase:
    """Compiles everywhere, but rows see the items before their own."""
    return _case(80, 64, 32, 32, "bf16", fault="drops the mask")


def of_another_triton() -> TritonCase:
    """Uses what this Triton does not have."""
    return TritonCase(kernel=_of_another, arguments={"out": "*fp32:16"})


def asks_for_a_gpu() -> TritonCase:
    """Asks which GPU there is while the case is made."""
    triton.runtime.driver.active.get_current_target()
    return working()


def not_a_case() -> Any:
    """Returns the kernel alone."""
    return _attention


def forgets_an_argument() -> TritonCase:
    """Says nothing of a parameter."""
    case = working()
    return TritonCase(kernel=case.kernel, arguments={"q": "*bf16:16"})


@triton.jit
def _of_another(out):  # type: ignore[no-untyped-def]
    tl.store(out, tl.no_such_function(1.0))


def _case(rows: int, dim: int, tile: int, keys: int, dtype: str, *, fault: str = "none", stages: int = 2) -> TritonCase:
    pointer = f"*{dtype}:16"
    constants = {"dim": dim, "tile": tile, "keys": keys, "fault": fault}
    prefix = 16

    def inputs() -> tuple[Any, ...]:
        import torch

        draw = torch.Generator().manual_seed(0)
        kind = {"bf16": torch.bfloat16, "fp32": torch.float32}[dtype]
        q, k, v = (torch.randn(rows, dim, generator=draw).to(kind) for _ in range(3))
        items = torch.arange(rows, dtype=torch.int32)
        return q, k, v, torch.where(items < prefix, -1, (items - prefix) // 20).to(torch.int32)

    def run(q: Any, k: Any, v: Any, segment: Any) -> Any:
        import torch

        out = torch.empty(rows, dim)
        grid = (triton.cdiv(rows, tile),)
        _attention[grid](q, k, v, segment, out, rows, prefix, dim**-0.5, **constants)
        return out

    def reference(q: Any, k: Any, v: Any, segment: Any) -> Any:
        import torch

        q, k, v = q.double(), k.double(), v.double()
        at = torch.arange(rows)
        seen = (at[None, :] < prefix) | (segment[:, None] == segment[None, :])
        seen &= at[None, :] <= at[:, None]
        scores = (q @ k.T * dim**-0.5).masked_fill(~seen, -torch.inf)
        return torch.softmax(scores, dim=1) @ v

    return TritonCase(
        kernel=_attention,
        arguments={"q": pointer, "k": pointer, "v": pointer, "segment": "*i32:16", "out": "*fp32:16",
                   "rows": "i32", "prefix": "i32", "scale": "fp32", **constants},
        options={"num_warps": 4, "num_stages": stages},
        # Weights are rounded to bfloat16 before the second product, by 2^-9 of themselves, and values are below 4.
        numbers=Numbers(run=run, reference=reference, inputs=inputs, limit=2.0**-7),
    )  # fmt: skip


@triton.jit
def _adding(x, out, tile: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.arange(0, tile)
    tl.store(out + at, tl.load(x + at) + tl.load(x + at))


def adds_bfloat16() -> TritonCase:
    """Adds in bfloat16, as a GPU can and the interpreter cannot."""

    def inputs() -> tuple[Any]:
        import torch

        return (torch.ones(16, dtype=torch.bfloat16),)

    def run(x: Any) -> Any:
        out = x.clone()
        _adding[(1,)](x, out, tile=16)
        return out

    numbers = Numbers(run=run, reference=lambda x: x + x, inputs=inputs, limit=0.0)
    pointers = {"x": "*bf16:16", "out": "*bf16:16"}
    return TritonCase(kernel=_adding, arguments={**pointers, "tile": 16}, numbers=numbers)


@triton.jit
def _centred(x, out, tile: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.arange(0, tile)
    value = tl.load(x + at)
    tl.store(out + at, value - tl.sum(value, axis=0))


def spills() -> TritonCase:
    """A thread has 64 values at once, and 32 registers."""
    arguments = {"x": "*fp32:16", "out": "*fp32:16", "tile": 2048}
    return TritonCase(kernel=_centred, arguments=arguments, options={"num_warps": 1, "maxnreg": 32})


def knows_an_argument_more() -> TritonCase:
    """Names a parameter that the kernel has not."""
    case = working()
    return TritonCase(kernel=case.kernel, arguments={**case.arguments, "queries": "*bf16"})


def no_type() -> TritonCase:
    """Launches specialise for divisibility by 16, not by 8."""
    case = working()
    return TritonCase(kernel=case.kernel, arguments={**case.arguments, "rows": "i32:8"})


def another_type() -> TritonCase:
    """As NumPy and torch call it."""
    case = working()
    return TritonCase(kernel=case.kernel, arguments={**case.arguments, "rows": "int32"})


def misspelt_option() -> TritonCase:
    """Triton itself compiles it, with the number of warps that it has by default."""
    case = working()
    return TritonCase(kernel=case.kernel, arguments=case.arguments, options={"num_warp": 8})


def autotuned() -> TritonCase:
    """Which of its configurations is meant?"""
    tuned = triton.autotune(configs=[triton.Config({"tile": 16})], key=[])(_adding)
    return TritonCase(kernel=tuned, arguments={"x": "*bf16:16", "out": "*bf16:16", "tile": 16})
