"""Published results that a run's own stand beside (TPU v6e-1, bfloat16, sgl-jax)."""

from __future__ import annotations

from typing import NamedTuple


class Published(NamedTuple):
    """One model's row. Differences are maxima; speed-ups are serial p50 / multi p50."""

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
