"""Words that every room uses the same way."""

from __future__ import annotations

BACKENDS = ("pytorch", "jax")


MASKS = ("dense", "segment", "auto", "flashinfer")


#: What an option that takes a list of names takes for all that there are.
ALL = "all"
#: What --require takes for all gates that a run's options ask for.
EVERY_GATE = ALL


VIEWS = ("portable", "best_native")


#: The client chunk sizes of the comparison contract.
CHUNK_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 500)


#: The backend and the mask of a server that someone else started, as test ids show them.
ATTACHED = "attached"


#: The backend of the server that scores with transformers' own model.
REFERENCE = "transformers"
