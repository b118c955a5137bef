"""Settings of a run that ask for another measurement than an acceptance."""

from __future__ import annotations

from typing import Final

OTHER_RUNS: Final = (
    "models", "bench", "compare", "power", "profile_matrix", "baseline", "save_baseline", "compare_urls",
)  # fmt: skip
