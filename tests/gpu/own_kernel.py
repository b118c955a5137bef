"""Our own attention kernel as `gpu-check` takes it, with one fault each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pytest_multiitem.compile_gates.gpu.case import TritonCase
from pytest_multiitem.engine import triton_attention
from pytest_multiitem.engine.slot_bounds import bounds


def one_key_more() -> TritonCase:
    """One row of the first item sees the key after itself: compiling cannot tell, and no other row changes."""
    case = triton_attention.gpu_case()
    assert case.numbers is not None

    def run(q: Any, *operands: Any) -> Any:
        first, last = (each.clone() for each in bounds(triton_attention.CASE_TILES, q.shape[1], q.device))
        last[1] += 1
        return triton_attention.segment_attention(q, *operands, first, last)

    return replace(case, numbers=replace(case.numbers, run=run))


def pipelined(*, stages: int) -> TritonCase:
    """With another number of tiles on their way at once."""
    case = triton_attention.gpu_case()
    return replace(case, options={**case.options, "num_stages": stages})
