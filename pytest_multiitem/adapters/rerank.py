"""The adapter of rerank servers of whatever make: someone else started them, and an address is all that is known.

TEI, Cohere, Jina, infinity and others answer ``/rerank`` for texts. What such a server runs is its own affair: nothing
is attested, and gates that send token ids are NOT_RUN. The gate of rankings judges it by its own answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from typing_extensions import override

from pytest_multiitem.adapters.base import Engine
from pytest_multiitem.adapters.ranking import RerankClient
from pytest_multiitem.scoring.modes import ModeName

#: How documents of a request run: nobody says.
UNKNOWN = "unattested"


class TextEngine(Engine):
    """`adapters.base.Engine` of a server that is attached, takes texts alone, and does not say what it is."""

    masks = (UNKNOWN,)


class RerankEngine(TextEngine):
    """`adapters.base.Engine` of a server that is attached, and ranks."""

    name = "rerank"
    client = RerankClient
    modes = (ModeName.RERANK,)
    packs_nothing = "a rerank server takes texts: what it packs is not known"

    @override
    def spoken(self, info: Mapping[str, Any]) -> tuple[ModeName, ...]:
        """It was attached as one that ranks, by a request that it answered."""
        return self.modes


ENGINE = RerankEngine()
