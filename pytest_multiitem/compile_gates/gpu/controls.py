"""Triton kernels whose result is known; a run in which they behave otherwise tells nothing about any other kernel.

Imported by the processes of `gpu.compiler` only: this needs Triton, and torch where numbers are compared.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from pytest_multiitem.compile_gates.gpu.case import Numbers, TritonCase

_TILE = 64
_POINTER = "*fp32:16"


@triton.jit
def _double(x, out, n, factor: tl.constexpr, tile: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.program_id(0) * tile + tl.arange(0, tile)
    tl.store(out + at, tl.load(x + at, mask=at < n) * factor, mask=at < n)


@triton.jit
def _product_of_vectors(x, out, tile: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.arange(0, tile)
    tl.store(out + at, tl.dot(tl.load(x + at), tl.load(x + at)))


@triton.jit
def _unknown_instruction(x, out, tile: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.arange(0, tile)
    value = tl.inline_asm_elementwise(
        "double.f32 $0, $1;", "=f,f", [tl.load(x + at)], dtype=tl.float32, is_pure=True, pack=1
    )
    tl.store(out + at, value)


@triton.jit
def _product(x, y, out, steps, rows: tl.constexpr, depth: tl.constexpr):  # type: ignore[no-untyped-def]
    row, column = tl.arange(0, rows), tl.arange(0, depth)
    left = x + row[:, None] * depth + column[None, :]
    right = y + column[:, None] * rows + row[None, :]
    total = tl.zeros((rows, rows), tl.float32)
    for _ in range(steps):
        total = tl.dot(tl.load(left), tl.load(right), total)
        left += rows * depth
        right += rows * depth
    tl.store(out + row[:, None] * rows + row[None, :], total)


@triton.jit
def _centred(x, out, tile: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.arange(0, tile)
    value = tl.load(x + at)
    tl.store(out + at, value - tl.sum(value, axis=0))


def good() -> TritonCase:
    """Compiles and fits, and its numbers are right."""
    return _doubling(limit=0.0)


def not_typed() -> TritonCase:
    """Triton refuses it: a matrix product of two vectors."""
    return TritonCase(kernel=_product_of_vectors, arguments={"x": _POINTER, "out": _POINTER, "tile": _TILE})


def not_assembled() -> TritonCase:
    """ptxas refuses it: no architecture has the instruction."""
    return TritonCase(kernel=_unknown_instruction, arguments={"x": _POINTER, "out": _POINTER, "tile": _TILE})


def too_much_shared() -> TritonCase:
    """Compiles, but its pipeline of tiles exceeds the shared memory of any architecture: 320 KiB and more."""
    return TritonCase(
        kernel=_product,
        arguments={"x": "*fp16:16", "y": "*fp16:16", "out": _POINTER, "steps": "i32", "rows": 64, "depth": 128},
        options={"num_stages": 12},
    )


def too_much_tensor() -> TritonCase:
    """Compiles for an architecture with tensor memory, but accumulates 2,048 columns in it: 512 times 512 numbers."""
    return TritonCase(
        kernel=_product,
        arguments={"x": "*fp16:16", "y": "*fp16:16", "out": _POINTER, "steps": "i32", "rows": 512, "depth": 32},
        options={"num_warps": 8, "num_stages": 1},
    )


def spilling() -> TritonCase:
    """Compiles, but a thread has 64 values at once and 24 registers."""
    return TritonCase(
        kernel=_centred,
        arguments={"x": _POINTER, "out": _POINTER, "tile": 2048},
        options={"num_warps": 1, "maxnreg": 24},
    )


def good_bfloat16() -> TritonCase:
    """A matrix product of bfloat16 numbers, all of them small whole ones: exact."""

    def inputs() -> tuple[Any, ...]:
        import torch

        whole = torch.arange(256, dtype=torch.float32).reshape(16, 16) % 7 - 3
        return whole.bfloat16(), whole.T.contiguous().bfloat16()

    def run(x: Any, y: Any) -> Any:
        import torch

        out = torch.empty(16, 16)
        _product[(1,)](x, y, out, 1, rows=16, depth=16)
        return out

    pointers = {"x": "*bf16:16", "y": "*bf16:16", "out": _POINTER}
    return TritonCase(
        kernel=_product,
        arguments={**pointers, "steps": "i32", "rows": 16, "depth": 16},
        numbers=Numbers(run=run, reference=lambda x, y: x.float() @ y.float(), inputs=inputs, limit=0.0),
    )


def wrong_numbers() -> TritonCase:
    """Runs, but one element in its last bit is not that of the reference."""
    return _doubling(limit=0.0, off=2.0**-22)


def nothing_launched() -> TritonCase:
    """Its numbers are right, but no kernel has computed them: the gate must notice."""
    case = _doubling(limit=0.0)
    assert case.numbers is not None
    plain = Numbers(run=case.numbers.reference, reference=case.numbers.reference, inputs=case.numbers.inputs, limit=0.0)
    return TritonCase(kernel=case.kernel, arguments=case.arguments, numbers=plain)


def _doubling(*, limit: float, off: float = 0.0) -> TritonCase:
    def inputs() -> tuple[Any]:
        import torch

        return (torch.linspace(1, 2, 100),)

    def run(x: Any) -> Any:
        import torch

        out = torch.empty_like(x)
        _double[(triton.cdiv(x.numel(), _TILE),)](x, out, x.numel(), factor=2.0, tile=_TILE)
        return out

    def reference(x: Any) -> Any:
        expected = x * 2
        expected[0] += off
        return expected

    return TritonCase(
        kernel=_double,
        arguments={"x": _POINTER, "out": _POINTER, "n": "i32", "factor": 2.0, "tile": _TILE},
        numbers=Numbers(run=run, reference=reference, inputs=inputs, limit=limit),
    )
