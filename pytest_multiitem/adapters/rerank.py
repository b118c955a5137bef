"""The adapter of rerank servers of whatever make: someone else started them, and an address is all that is known.

TEI, Cohere, Jina, infinity and others answer ``/rerank`` for texts. What such a server runs is its own affair: nothing
is attested, and gates that send token ids are NOT_RUN.
"""

from __future__ import annotations

from pytest_multiitem.adapters.base import Engine
from pytest_multiitem.adapters.ranking import RerankClient
from pytest_multiitem.scoring.modes import ModeName


class RerankEngine(Engine):
    """`adapters.base.Engine` of a server that is attached, and ranks."""

    name = "rerank"
    client = RerankClient
    modes = (ModeName.RERANK,)
    packs_nothing = "a rerank server takes texts: what it packs is not known"


ENGINE = RerankEngine()
