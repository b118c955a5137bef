"""The adapter of classification servers that take texts: an address is all that is known.

vLLM's pooling servers and infinity answer ``/classify``. As with rankings (`adapters.rerank`) nothing is attested,
gates that send token ids are NOT_RUN, and the gate of classes judges the server by its own answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import msgspec
from typing_extensions import override

from pytest_multiitem.adapters.ranking import TextClient
from pytest_multiitem.adapters.rerank import TextEngine
from pytest_multiitem.scoring.modes import ModeName
from pytest_multiitem.scoring.wire.classify import CLASSIFY_PATH, ClassifyRequest, decode_classes
from pytest_multiitem.transport.client import FailureKind, ScoreFailure, Scores

_TEXTS = ("an apple", "a red car")
#: Numbers in the answer to one text, at most: a head may have thousands of classes.
_CLASSES = 100_000


class ClassifyClient(TextClient):
    """A `ScoreClient` of a server that classifies texts."""

    path: ClassVar[str] = CLASSIFY_PATH
    does: ClassVar[str] = "classifies"

    def classes(self, texts: Sequence[str]) -> Scores:
        """The probabilities [N, C] of texts. Raises ScoreFailure for a refusal, and for what is no row of each."""
        request = ClassifyRequest(input=list(texts), model=self.served_model)
        body = self.ask(self.path, msgspec.json.encode(request), numbers=_CLASSES + 8 * len(texts))
        try:
            return decode_classes(body, len(texts))
        except ValueError as error:
            raise ScoreFailure(FailureKind.BAD_RESPONSE, f"{self.path}: {error}", 200) from None

    @override
    def try_out(self, labels: Sequence[int], *, delimiter: int | None) -> None:
        """Two texts."""
        self.classes(_TEXTS)


class ClassifyEngine(TextEngine):
    """`adapters.base.Engine` of a server that is attached, and classifies."""

    name = "classify"
    client = ClassifyClient
    modes = (ModeName.CLASSIFICATION,)
    packs_nothing = "a classification server takes texts: what it packs is not known"

    @override
    def spoken(self, info: Mapping[str, Any]) -> tuple[ModeName, ...]:
        """It was attached as one that classifies, by a request that it answered."""
        return self.modes


ENGINE = ClassifyEngine()
