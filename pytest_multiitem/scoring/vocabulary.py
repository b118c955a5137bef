"""Words that every room uses the same way."""

from __future__ import annotations

from typing import Literal

VIEWS = ("portable", "best_native")
#: What an option that takes a list of names takes for all that there are; of gates: all that a run's options ask for.
ALL = "all"
#: The client chunk sizes of the comparison contract.
CHUNK_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 500)
#: The backend and the mask of a server that someone else started, as test ids show them.
ATTACHED = "attached"
#: The backend of the server that scores with transformers' own model.
REFERENCE = "transformers"
#: The servers that gates measure: the packed one under test, the packed one of the other mask that it is compared with,
#: prefill+extend, and the serial baseline.
Part = Literal["multi", "other_mask", "extend", "serial"]
#: How much is tried: for a first look, in every run, and where time does not matter.
EFFORTS = ("quick", "normal", "full")
