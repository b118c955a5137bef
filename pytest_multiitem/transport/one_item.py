"""The serial side of a server that packs: whatever is asked serially is asked in requests of one item each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np

from pytest_multiitem.errors import EngineUnavailable
from pytest_multiitem.transport.client import PreparedRequest, ScoreClient, Scores, prepare


@dataclass(frozen=True)
class Packing:
    """How the server behind puts a request of one item together: ``query d item``. ``delimiter``: d, which no content
    may hold. ``seen``: whether the item attends to it, and so stands behind ``query d`` by its semantics."""

    delimiter: int
    seen: bool


class NeverScored(EngineUnavailable):
    """A query behind which a packing server never scores."""


class OneItemClient(ScoreClient):
    """A `ScoreClient` that asks a packing server for serial scores.

    A serial query that ends with the delimiter is the one that the server makes itself, and is sent without it.
    Delimiters elsewhere, which no such server takes, are left out: what stands between them is there all the same.
    Raises NeverScored for a query that the server cannot be asked for: one without the delimiter where every item
    sees it, one with it where none does.
    """

    def __init__(
        self,
        url: str,
        *,
        packing: Packing,
        timeout: float = 180.0,
        api_key: str | None = None,
        ca_file: Path | None = None,
    ) -> None:
        super().__init__(url, timeout=timeout, api_key=api_key, ca_file=ca_file)
        self._packing = packing
        self._arguments["packing"] = packing

    def send(self, request: PreparedRequest) -> Scores:
        """The scores [N, K] of N requests of one item each; whoever listens is told of one answer. Raises as
        `ScoreClient.send`."""
        heard, self.heard = self.heard, None
        try:
            rows = [super(OneItemClient, self).send(_of_one(request, request.query, item)) for item in request.items]
        finally:
            self.heard = heard
        scores = np.concatenate(rows)
        if self.heard is not None:
            self.heard(request, scores)
        return scores

    def build(self, request: PreparedRequest) -> httpx.Request:
        """A request of one item, as it is sent. Raises NeverScored for one of more: it would be packed."""
        if request.num_items != 1:
            raise NeverScored(
                f"a request of {request.num_items} items is not serial on the one server of this run; give a serial "
                "server as well: --serial-url"
            )
        return super().build(self._alone(request, request.items[0]))

    def _alone(self, request: PreparedRequest, item: Sequence[int]) -> PreparedRequest:
        delimiter = self._packing.delimiter
        if (delimiter in request.query) is not self._packing.seen:
            what = "without" if self._packing.seen else "with"
            raise NeverScored(
                f"it asks for scores behind a query {what} the delimiter, and the one server of this run never scores "
                "so; give a serial server as well: --serial-url"
            )
        query, content = ([token for token in tokens if token != delimiter] for tokens in (request.query, item))
        return _of_one(request, query, content)


def _of_one(request: PreparedRequest, query: Sequence[int], item: Sequence[int]) -> PreparedRequest:
    """A request of one item, asked as another one is."""
    return prepare(query, [item], request.labels, apply_softmax=request.apply_softmax, item_first=request.item_first)
