"""What computes segment attention in the PyTorch engine: on a CPU its own products, on CUDA the fastest kernel."""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

from pytest_multiitem.engine import torch_attention

log = logging.getLogger(__name__)

#: The modules that may compute it on a CUDA device, by the names they go by.
_ON_CUDA: Final = {
    "triton": "pytest_multiitem.engine.triton_attention",
    "flex_attention": "pytest_multiitem.engine.flex_attention",
}
#: What kernels are timed at: a block of items of 20 tokens behind a query of 2,000, the usual workload.
_PREFIX, _SLOTS, _WIDTH = 2000, 400, 20
_RUNS = 5


class SegmentKernel(NamedTuple):
    """An implementation of `engine.torch_attention.segment` and ``segment_last``."""

    name: str
    segment: Callable[..., Tensor]
    segment_last: Callable[..., Tensor]


class Choice(NamedTuple):
    """The chosen kernel. ``others``: what became of each that was not, for `/get_server_info`."""

    kernel: SegmentKernel
    others: Mapping[str, str]


class Heads(NamedTuple):
    """The shape of a model's attention."""

    query: int
    key: int
    dim: int


PRODUCTS: Final = SegmentKernel("products", torch_attention.segment, torch_attention.segment_last)


def choose(device: str, dtype: torch.dtype, heads: Heads) -> Choice:
    """PyTorch's own products on a CPU; elsewhere the fastest of the kernels that run there, told why another does not.

    Where none runs, PyTorch's products.
    """
    if torch.device(device).type != "cuda":
        return Choice(PRODUCTS, {})
    found, missing = [], {}
    for name, path in _ON_CUDA.items():
        try:
            module = importlib.import_module(path)
        except ImportError as error:
            missing[name] = f"not installed: {error}"
            continue
        found.append(SegmentKernel(name, module.segment, module.segment_last))
    chosen = fastest(found, lambda kernel: seconds(kernel, device, dtype, heads))
    return Choice(chosen.kernel, {**missing, **chosen.others})


def fastest(kernels: Sequence[SegmentKernel], timed: Callable[[SegmentKernel], float]) -> Choice:
    """The kernel with the shortest time; `PRODUCTS` where none of them runs, which the log and ``others`` tell."""
    times, others = {}, {}
    for kernel in kernels:
        try:
            times[kernel.name] = timed(kernel)
        except Exception as error:  # noqa: BLE001 - a compiler's errors have no common type
            others[kernel.name] = f"failed: {type(error).__name__}: {_first_line(error)}"
            log.warning("segment attention by %s does not run here: %s", kernel.name, error)
    best = min(times, key=lambda name: times[name], default=None)
    others |= {name: f"{1e3 * value:.2f} ms a layer" for name, value in times.items() if name != best}
    return Choice(next((kernel for kernel in kernels if kernel.name == best), PRODUCTS), others)


def seconds(kernel: SegmentKernel, device: str, dtype: torch.dtype, heads: Heads) -> float:
    """The shortest of a few times of one layer's attention on a CUDA device, compiled before."""
    rows = _SLOTS * _WIDTH

    def drawn(count: int, length: int) -> Tensor:
        return torch.randn(count, length, heads.dim, dtype=dtype, device=device)

    query, key, value = drawn(heads.query, rows), drawn(heads.key, rows), drawn(heads.key, rows)
    operands = (query, key, value, drawn(heads.key, _PREFIX), drawn(heads.key, _PREFIX), [(_SLOTS, _WIDTH)])
    last = torch.full((_SLOTS,), _WIDTH - 1, device=device)
    kernel.segment_last(query[:, :_SLOTS], *operands[1:], last)
    kernel.segment(*operands)
    times = []
    for _ in range(_RUNS):
        torch.cuda.synchronize(device)
        begin = time.perf_counter()
        kernel.segment(*operands)
        torch.cuda.synchronize(device)
        times.append(time.perf_counter() - begin)
    return min(times)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0]
