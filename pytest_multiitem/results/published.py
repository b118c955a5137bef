"""Published results that a run's own stand beside: the contract's (TPU v6e-1, bfloat16, sgl-jax), and throughput."""

from __future__ import annotations

from typing import NamedTuple


class Published(NamedTuple):
    """One model's row of the contract. Differences are maxima; speed-ups are serial p50 / multi p50."""

    model: str
    same_length: float
    changed_length: float
    aligned_equivalence: float
    jax_vs_torch_serial: float
    jax_multi_vs_torch_multi: float
    speedup_8: float
    speedup_32: float
    speedup_128: float


HARDWARE = "TPU v6e-1, bfloat16"
PUBLISHED = (
    Published("Qwen3-0.6B", 0, 0, 0.0148, 0.0041, 0.0115, 3.45, 4.69, 5.30),
    Published("Qwen3-1.7B", 0, 0, 0.0150, 0.0118, 0.0050, 3.22, 4.27, 5.22),
    Published("Qwen3-4B", 0, 0, 0.0119, 0.0052, 0.0041, 3.07, 3.85, 4.29),
)


class PublishedThroughput(NamedTuple):
    """Items per second of one way to score; ``highest`` where a range was published."""

    engine: str
    hardware: str
    how: str
    items_per_sec: float
    highest: float | None = None


THROUGHPUT_SHAPE = "Qwen3-0.6B, bfloat16, 2000 query tokens, 500 items of 20 tokens"
PUBLISHED_THROUGHPUT = (
    PublishedThroughput("sglang", "L4", "multi-item", 112.32),
    PublishedThroughput("sglang", "RTX PRO 6000", "multi-item", 400.10),
    PublishedThroughput("sgl-jax", "TPU v6e-1", "serial", 4.8),
    PublishedThroughput("sgl-jax", "TPU v6e-1", "packed, dense mask", 52.35),
    PublishedThroughput("sgl-jax", "TPU v6e-1", "packed, segment mask", 105.06),
    PublishedThroughput("sgl-jax", "TPU v6e-1", "prefill+extend", 508.30, 518.36),
)
