"""The embedded engines' attention, as ``multiitem kernel-check`` takes it."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np

from pytest_multiitem.errors import EngineUnavailable
from pytest_multiitem.kernels.abilities import Abilities
from pytest_multiitem.kernels.layout import Layout
from pytest_multiitem.kernels.subject import Attention

Case = tuple[Attention, Abilities]

#: Rows and prefix keys are padded to a multiple of it, as `engine.plan` does: each shape is compiled once.
_BUCKET = 128


def segment_torch() -> Case:
    """The PyTorch engine's segment attention: items in slots behind a prefix that is shared."""
    module = _needed("pytest_multiitem.engine.torch_attention", "torch")
    can = Abilities(
        arrays="torch",
        dtypes=("float32", "bfloat16"),
        head_dims=(64, 16, 128),
        groups=(1, 2, 4),
        max_sequences=None,
    )
    return _slotted(module.segment, module.causal), can


def segment_triton() -> Case:
    """The PyTorch engine's segment attention by its Triton kernel; without a CUDA device in Triton's interpreter."""
    torch = _needed("torch", "torch")
    cuda = torch.cuda.is_available()
    if not cuda:
        os.environ.setdefault("TRITON_INTERPRET", "1")  # it counts when the kernel's module is imported
    kernel = _needed("pytest_multiitem.engine.triton_attention", "triton")
    causal = _needed("pytest_multiitem.engine.torch_attention", "torch").causal
    can = Abilities(
        arrays="torch",
        device="cuda" if cuda else "cpu",
        dtypes=("float32", "bfloat16"),
        groups=(1, 2),
        max_rows=None if cuda else 210,
        max_items=None if cuda else 40,
    )
    return _slotted(kernel.segment if cuda else _prepared_once(kernel.segment), causal), can


def _prepared_once(segment: Callable[..., Any]) -> Callable[..., Any]:
    """A Triton kernel that is interpreted, in half the time.

    Before each call of a function within a kernel the interpreter (3.9.0) looks through all of Triton's language for
    what it must replace. Within a launch the first call of a function has replaced it.
    """
    interpreted = _needed("triton.runtime.interpreter", "triton").InterpretedFunction
    if not isinstance(_needed("triton.language", "triton").sum, interpreted):
        raise EngineUnavailable(
            "there is no CUDA device, and Triton was imported before it was told to interpret: set TRITON_INTERPRET=1"
        )
    prepares = interpreted.__call__

    def attend(*operands: Any) -> Any:
        seen = set()

        def call(function: Any, *arguments: Any, **named: Any) -> Any:
            if function in seen:
                return function.rewrite()(*arguments, **named)
            seen.add(function)
            return prepares(function, *arguments, **named)

        with mock.patch.object(interpreted, "__call__", call):
            return segment(*operands)

    return attend


def segment_pallas() -> Case:
    """The JAX engine's TPU kernel, in Pallas' interpreter."""
    kernel = _needed("pytest_multiitem.engine.segment_kernel", "jax")
    jnp = _needed("jax.numpy", "jax")

    def attention(q: Any, k: Any, v: Any, layout: Layout) -> Any:
        prefix = layout.sequences[0].visible_prefix_length
        kv_heads, dim = k.shape[1:]
        # In NumPy: JAX would compile a slice and a padding for each shape.
        query = np.asarray(q).transpose(1, 0, 2).reshape(kv_heads, -1, layout.rows, dim)
        key, value = (np.asarray(each).transpose(1, 0, 2) for each in (k, v))

        def bucket(x: Any, axis: int) -> Any:
            widths = [(0, 0)] * x.ndim
            widths[axis] = (0, -x.shape[axis] % _BUCKET)
            return jnp.asarray(np.pad(x, widths, constant_values=x.dtype.type(layout.unused)))

        def attend(rows: slice, visible: int, starts: Any) -> Any:
            count = len(starts)
            # Rows of padding are a segment of their own each.
            padded = np.arange(count + -count % _BUCKET)
            padded[:count] = starts
            out = kernel.segment_attention(
                bucket(query[:, :, rows], 2), bucket(key[:, rows], 1), bucket(value[:, rows], 1),
                bucket(key[:, :prefix], 1), bucket(value[:, :prefix], 1), jnp.int32(visible),
                jnp.asarray(padded, jnp.int32), interpret=True,
            )  # fmt: skip
            return np.asarray(out)[:, :, :count]

        first = attend(slice(0, prefix), 0, np.zeros(prefix, dtype=np.int64))
        rest = attend(slice(prefix, layout.rows), prefix, layout.bounds.own_start[prefix:].clip(prefix) - prefix)
        out = np.concatenate([first, rest], axis=2)
        return out.reshape(-1, layout.rows, dim).transpose(1, 0, 2)

    can = Abilities(arrays="jax", dtypes=("float32", "bfloat16"), groups=(1, 2), max_rows=300)
    return attention, can


def _slotted(segment: Callable[..., Any], causal: Callable[..., Any]) -> Attention:
    """A kernel that takes the visible prefix and slots of items, as this package's engines call it.

    Items of one length are slots side by side, as `engine.plan` lays them out. Delimiters that nobody sees have no row.
    """

    def attention(q: Any, k: Any, v: Any, layout: Layout) -> Any:
        out = q.new_zeros(q.shape)
        heads, dim = q.shape[1:]
        query, key, value = (each.transpose(0, 1) for each in (q, k, v))
        for start, each in zip(layout.starts[:-1].tolist(), layout.sequences, strict=True):
            prefix = slice(start, start + each.visible_prefix_length)
            shared = [x[:, prefix].contiguous() for x in (query, key, value)]
            out[prefix] = causal(*shared).reshape(-1, heads, dim)
            by_length: dict[int, list[int]] = {}
            for item in range(each.num_items):
                block = each.block(item)
                if block.stop - 1 > block.start:
                    by_length.setdefault(block.stop - 1 - block.start, []).append(start + block.start)
            if not by_length:
                continue
            rows = [first + at for length, firsts in by_length.items() for first in firsts for at in range(length)]
            tiles = [(len(firsts), length) for length, firsts in by_length.items()]
            own = [x[:, rows].contiguous() for x in (query, key, value)]
            out[rows] = segment(*own, shared[1], shared[2], tiles).reshape(-1, heads, dim)
        return out

    return attention


def _needed(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise EngineUnavailable(f"{module} cannot be imported: {error}; it needs {package}") from None
