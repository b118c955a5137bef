"""How an endpoint is asked in each mode; every request has a deadline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import httpx
import numpy as np

from pytest_multiitem.transport.client import PreparedRequest, ScoreClient, ScoreFailure, Scores, deadline


class WholeRequestClient(ScoreClient):
    """The multi-item side: all items in one request. A server that does not describe itself is asked once only."""

    _silent = False

    def send(self, request: PreparedRequest) -> Scores:
        """As `ScoreClient.send`."""
        with deadline(self._arguments["timeout"], self.url):
            return super().send(request)

    def timed_send(self, request: PreparedRequest) -> tuple[float, httpx.Response]:
        """As `ScoreClient.timed_send`."""
        with deadline(self._arguments["timeout"], self.url):
            return super().timed_send(request)

    def server_info(self) -> dict[str, Any] | None:
        """As `ScoreClient.server_info`; an answer that does not come in time is none."""
        info = None if self._silent else self._in_time(super().server_info)
        self._silent = info is None
        return info

    def model_info(self) -> dict[str, Any] | None:
        """As `ScoreClient.model_info`; an answer that does not come in time is none."""
        return self._in_time(super().model_info)

    def _in_time(self, ask: Callable[[], dict[str, Any] | None]) -> dict[str, Any] | None:
        with suppress(ScoreFailure), deadline(self._arguments["timeout"], self.url):
            return ask()
        return None


class OneItemClient(WholeRequestClient):
    """The serial side: every item in a request of its own, so that nothing can be packed."""

    def score(
        self, query: Sequence[int], items: Sequence[Sequence[int]], labels: Sequence[int], *, apply_softmax: bool = True
    ) -> Scores:
        """The scores [N, K] of N requests. Raises ScoreFailure."""
        rows = [super(OneItemClient, self).score(query, [i], labels, apply_softmax=apply_softmax) for i in items]
        return np.concatenate(rows)
