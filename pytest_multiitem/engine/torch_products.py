"""What multiplies rows with weights in the PyTorch engine: PyTorch's own product, or oneDNN's where MKL is slow.

PyTorch's wheels multiply float32 matrices on a CPU by MKL, which uses AVX-512 on Intel's processors alone: on an EPYC
with AVX-512 it reached 44 % of oneDNN's rate, which the same wheels bring (`benchmarks/matrix_rate.py --product
onednn`). The choice follows from the machine and not from a measurement, so that every start computes the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from pytest_multiitem.results.machine import cpuinfo_field

#: ``product(rows [R, in], weight [out, in])`` gives [R, out].
Product = Callable[[Tensor, Tensor], Tensor]

_INTEL: Final = "GenuineIntel"


def choose(device: str, dtype: torch.dtype, cpuinfo: str | None = None) -> Product:
    """The product for weights of this type on this device.

    ``cpuinfo``: the text of Linux' /proc/cpuinfo, by default this machine's; where there is none, PyTorch's own.
    """
    if torch.device(device).type == "cpu" and dtype == torch.float32 and _mkl_is_slow(cpuinfo):
        return onednn() or functional.linear
    return functional.linear


def onednn() -> Product | None:
    """OneDNN's product of float32 on a CPU; None where PyTorch was built without it."""
    if not torch.backends.mkldnn.is_available():
        return None
    try:
        linear = torch.ops.mkldnn._linear_pointwise
    except AttributeError:
        return None
    return lambda rows, weight: linear(rows, weight, None, "none", [], "")


def _mkl_is_slow(cpuinfo: str | None) -> bool:
    """Whether MKL multiplies by narrower vectors than this processor has."""
    has_wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    vendor = cpuinfo_field("vendor_id", cpuinfo)
    return has_wide and vendor not in (None, _INTEL) and torch.backends.mkl.is_available()
