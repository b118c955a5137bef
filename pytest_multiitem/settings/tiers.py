"""The tiers of the compile gates, and how long one step of a tier may take."""

from __future__ import annotations

from typing import Final, Literal

Tier = Literal["lower", "compile", "interpret"]
#: Of TPU kernels: what JAX does alone, and what libtpu does. Of GPU kernels: what Triton and ptxas do, and numbers.
TPU_TIERS: Final[tuple[Tier, ...]] = ("lower", "compile")
GPU_TIERS: Final[tuple[Tier, ...]] = ("compile", "interpret")
#: One tier, or all that there are: what ``--tpu-tier`` and ``--gpu-tier`` take.
EVERY_TIER: Final = "auto"
#: Seconds that one kernel may take for one chip in one tier, where nobody says otherwise.
DEFAULT_TIMEOUT: Final = 180.0
