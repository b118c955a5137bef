"""What a function of a user's returns to the GPU compile gate: a Triton kernel as it is launched, and its numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """How the kernel's results are checked, interpreted on the CPU.

    ``run``: launches the kernel on torch tensors (on the CPU) and returns a tensor, or several; ``reference`` returns
    the same without it; each is called with what ``inputs`` returns, and may change its own copy of it. ``limit``: how
    far two elements may be apart, in the unit of the results.
    """

    run: Callable[..., Any]
    reference: Callable[..., Any]
    inputs: Callable[[], Sequence[Any]]
    limit: float


@dataclass(frozen=True, kw_only=True)
class TritonCase:
    """One kernel and what its launch is specialised for.

    ``kernel``: a function under ``@triton.jit``. ``arguments``: of every parameter by name: the value of a
    ``tl.constexpr``, and else its type as `triton.tools.compile` writes it: ``*bf16:16`` is a pointer to bfloat16 at an
    address that 16 divides, as torch's tensors are; ``i32`` a number, ``i32:16`` one that 16 divides, for which a
    launch specialises too. ``options``: of the launch, such as num_warps, num_stages and maxnreg; Triton's defaults.
    """

    kernel: Any
    arguments: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    numbers: Numbers | None = None
