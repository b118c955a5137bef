"""One layer's attention of a packed request on a CUDA device, by every kernel that is there, beside its roofline.

Ours (`engine.torch_kernels`) compute the items' rows against a prefix that is there already, as the engine does.
FlashInfer's two wrappers in multi-item mode compute the whole packed sequence, the query's own rows included, because
that is what an engine calls them with; so each has a count of operations of its own. A kernel that is not installed,
does not run, or is wrong has no time, and its record says why.
"""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.engine_speed.shapes import Shape
from pytest_multiitem.bench.statistics import p50
from pytest_multiitem.engine.checkpoint import CheckpointSpec
from pytest_multiitem.errors import EngineUnavailable

#: Dense rate of products in bfloat16, FLOP/s, as NVIDIA's data sheets give it, by the beginning of a device's name.
PEAK_RATES: Final = {
    "NVIDIA H200": 989e12,
    "NVIDIA H100": 989e12,
    "NVIDIA A100": 312e12,
}
#: Largest difference from float64 of a right kernel in bfloat16, whose values are of the order of 1.
_RIGHT: Final = {"bfloat16": 0.02, "float32": 1e-4}
_PAGE: Final = 16
_WARM: Final = 3


def peak_rate(device_name: str) -> float | None:
    """The rate that a device's data sheet gives; None for a device that is not in the list."""
    return next((rate for name, rate in PEAK_RATES.items() if device_name.startswith(name)), None)


@dataclass(frozen=True, eq=False)
class _Kernel:
    """``attend`` gives the rows [R, heads · D] of all items; ``pairs``: keys that its rows see altogether."""

    attend: Callable[[], Any]
    pairs: int


def measure(spec: CheckpointSpec, shape: Shape, *, device: str, dtype: str, runs: int) -> list[dict[str, Any]]:
    """A record a kernel: ``kernel``, and ``seconds``, ``flops``, ``max_abs_diff``, or ``failure``.

    Raises EngineUnavailable where PyTorch or the device is missing.
    """
    try:
        import torch
    except ImportError as error:
        raise EngineUnavailable(f"attention kernels: {error}") from error
    if device == "cuda" and not torch.cuda.is_available():
        raise EngineUnavailable("attention kernels: this PyTorch sees no CUDA device")
    operands = _Operands(spec, shape, device, dtype)
    want = operands.reference()
    found = []
    for name, make in _makers(operands).items():
        record: dict[str, Any] = {"kernel": name}
        found.append(record)
        try:
            kernel = make()
            difference = float((kernel.attend().double()[: len(want)] - want).abs().max())
            record |= {"max_abs_diff": difference, "flops": 4 * kernel.pairs * spec.head_dim * spec.num_attention_heads}
            if not difference <= _RIGHT[dtype]:
                record["failure"] = f"wrong by {difference:.3g}; at most {_RIGHT[dtype]:g} is its rounding"
                continue
            record["seconds"] = _seconds(kernel.attend, device, runs)
        except Exception as error:  # noqa: BLE001 - compilers and extension modules have no common type of error
            record["failure"] = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
    return found


def table(records: list[dict[str, Any]], rate: float) -> tuple[list[str], list[list[str]]]:
    """One row a kernel; ``rate``: FLOP/s that a share is of."""
    header = ["attention of a layer", "ms", "share of the rate", "difference from float64"]
    rows = []
    for one in records:
        if "failure" in one:
            rows.append([one["kernel"], f"NOT_RUN: {one['failure']}", "-", "-"])
            continue
        seconds = p50(one["seconds"])
        share = one["flops"] / seconds / rate
        rows.append([one["kernel"], f"{1000 * seconds:,.3f}", f"{share:.1%}", f"{one['max_abs_diff']:.2g}"])
    return header, rows


def _seconds(attend: Callable[[], Any], device: str, runs: int) -> list[float]:
    import torch

    times = []
    for run in range(_WARM + runs):
        if device == "cuda":
            torch.cuda.synchronize()
        begin = time.perf_counter()
        attend()
        if device == "cuda":
            torch.cuda.synchronize()
        if run >= _WARM:
            times.append(time.perf_counter() - begin)
    return times


class _Operands:
    """Random queries, keys and values of one packed sequence; the first P tokens are the prefix, whose last one is the
    first delimiter."""

    def __init__(self, spec: CheckpointSpec, shape: Shape, device: str, dtype: str) -> None:
        import torch

        generator = torch.Generator().manual_seed(0)
        self.shape, self.spec, self.device = shape, spec, device
        self.prefix, self.rows = shape.query_tokens + 1, shape.items * shape.item_tokens
        self.tiles = [(shape.items, shape.item_tokens)]

        def drawn(heads: int, rows: int) -> Any:
            made = torch.randn(heads, rows, spec.head_dim, generator=generator)
            return made.to(device, getattr(torch, dtype))

        kv_heads = spec.num_key_value_heads
        self.query = drawn(spec.num_attention_heads, self.rows)
        self.key, self.value = drawn(kv_heads, self.rows), drawn(kv_heads, self.rows)
        self.prefix_key, self.prefix_value = drawn(kv_heads, self.prefix), drawn(kv_heads, self.prefix)

    @property
    def pairs(self) -> int:
        """Keys that the items' rows see: the prefix, and of their own item as many as they have got to."""
        length = self.shape.item_tokens
        return self.rows * self.prefix + self.shape.items * length * (length + 1) // 2

    def reference(self) -> Any:
        """The rows [n, heads · D] of the first few items in float64."""
        import torch

        length = self.shape.item_tokens
        few = min(8, self.shape.items)
        group = self.spec.num_attention_heads // self.spec.num_key_value_heads
        found = []
        for item in range(few):
            rows = slice(item * length, (item + 1) * length)
            keys, values = (
                torch.cat([shared, own[:, rows]], 1).double().repeat_interleave(group, 0)
                for shared, own in ((self.prefix_key, self.key), (self.prefix_value, self.value))
            )
            seen = torch.ones(length, self.prefix + length, dtype=torch.bool, device=self.device).tril(self.prefix)
            logits = self.query[:, rows].double() @ keys.transpose(-1, -2) * self.spec.head_dim**-0.5
            weights = torch.softmax(logits.masked_fill(~seen, -torch.inf), -1)
            found.append((weights @ values).transpose(0, 1).flatten(1))
        return torch.cat(found)


def _makers(operands: _Operands) -> dict[str, Callable[[], _Kernel]]:
    def ours(module: str) -> Callable[[], _Kernel]:
        def make() -> _Kernel:
            segment = importlib.import_module(f"pytest_multiitem.engine.{module}").segment
            o = operands
            given = (o.query, o.key, o.value, o.prefix_key, o.prefix_value, o.tiles)
            return _Kernel(lambda: segment(*given), o.pairs)

        return make

    return {
        "triton": ours("triton_attention"),
        "flex_attention": ours("flex_attention"),
        "products": ours("torch_attention"),
        "flashinfer, paged": lambda: _flashinfer(operands, paged=True),
        "flashinfer, ragged": lambda: _flashinfer(operands, paged=False),
    }


def _flashinfer(operands: _Operands, *, paged: bool) -> _Kernel:
    """FlashInfer's prefill in multi-item mode over `prefix, item, delimiter, item, …, delimiter`, a page after another.

    Its delimiters are rows as well; what they see is computed and not compared.
    """
    import torch

    if importlib.util.find_spec("flashinfer") is None:
        raise EngineUnavailable("flashinfer-python is not installed")
    flashinfer: Any = importlib.import_module("flashinfer")
    o, length = operands, operands.shape.item_tokens
    spec, device = o.spec, o.device

    def laid_out(prefix: Any, own: Any) -> Any:
        """[S, heads, D]; an item sees the delimiter before it, so that all are the one that ends the prefix."""
        items = own.unflatten(1, (o.shape.items, length))
        delimiters = prefix[:, None, -1:].expand(-1, o.shape.items, -1, -1)
        closed = torch.cat([items, delimiters], 2).flatten(1, 2)
        return torch.cat([prefix, closed], 1).transpose(0, 1).contiguous()

    query = laid_out(o.query.new_zeros(o.query.shape[0], o.prefix, spec.head_dim), o.query)
    key, value = laid_out(o.prefix_key, o.key), laid_out(o.prefix_value, o.value)
    total = len(query)
    pages = -(-total // _PAGE)
    whole = torch.tensor([0, total], dtype=torch.int32, device=device)
    positions = torch.tensor([0, *[*range(1, length + 1), 0] * o.shape.items], dtype=torch.int32)
    masked = {
        "prefix_len_ptr": torch.tensor([o.prefix - 1], dtype=torch.int32).to(torch.uint32).to(device),
        "token_pos_in_items_ptr": positions.to(torch.uint16).to(device),
        "token_pos_in_items_len": len(positions),
        "max_item_len_ptr": torch.tensor([length], dtype=torch.int32).to(torch.uint16).to(device),
    }
    heads = (spec.num_attention_heads, spec.num_key_value_heads, spec.head_dim)
    about = {"causal": True, "q_data_type": query.dtype, "kv_data_type": key.dtype, **masked}
    workspace = torch.empty(512 << 20, dtype=torch.uint8, device=device)
    if paged:
        wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(workspace, "NHD")
        counts = torch.tensor([0, pages], dtype=torch.int32, device=device)
        last = torch.tensor([total - (pages - 1) * _PAGE], dtype=torch.int32, device=device)
        numbers = torch.arange(pages, dtype=torch.int32, device=device)
        wrapper.plan(whole, counts, numbers, last, *heads, _PAGE, **about)
        room = pages * _PAGE - total

        def in_pages(x: Any) -> Any:
            return torch.cat([x, x.new_zeros(room, *x.shape[1:])]).unflatten(0, (pages, _PAGE))

        cache = torch.stack([in_pages(key), in_pages(value)], 1)
        given: tuple[Any, ...] = (query, cache)
    else:
        wrapper = flashinfer.BatchPrefillWithRaggedKVCacheWrapper(workspace, "NHD")
        wrapper.plan(whole, whole, *heads, **about)
        given = (query, key, value)

    def attend() -> Any:
        items = wrapper.run(*given)[o.prefix :].unflatten(0, (o.shape.items, length + 1))
        return items[:, :length].flatten(0, 1).flatten(1)

    return _Kernel(attend, o.pairs + o.prefix * (o.prefix + 1) // 2)
