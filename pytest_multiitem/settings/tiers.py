"""The tiers of the compile gate, and how long one step of a tier may take."""

from __future__ import annotations

from typing import Final, Literal

Tier = Literal["lower", "compile"]
TIERS: Final[tuple[Tier, ...]] = ("lower", "compile")
#: What ``--tpu-tier`` takes: one tier, or all that there are.
TIER_CHOICES: Final = ("auto", *TIERS)
#: Seconds that one kernel may take for one chip in one tier, where nobody says otherwise.
DEFAULT_TIMEOUT: Final = 180.0
