"""Readiness: healthy, and one real request answered with scores. ``/health`` alone checks nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from pytest_multiitem.servers.errors import NeverReady
from pytest_multiitem.targets.target import Target
from pytest_multiitem.transport.client import FailureKind, PreparedRequest, ScoreClient, ScoreFailure, Scores

#: Seconds one probe may take: a first request may compile.
_PROBE_TIMEOUT = 120.0
#: Statuses below 500 that a server may answer while it is still starting.
_PASSING = (404, 408, 425, 429)


class ScoredRequest:
    """A probe for `process.wait_ready`: raises while the server at the given URL is not ready, and NeverReady where its
    answer will not change. The answers are kept until a `Target` is made that judges them with its own.

    ``within``: seconds that the server has to start; no probe takes longer. ``client``: speaks its wire."""

    def __init__(
        self,
        labels: Sequence[int],
        *,
        delimiter: int | None = None,
        within: float = _PROBE_TIMEOUT,
        client: type[ScoreClient] = ScoreClient,
    ) -> None:
        self._labels, self._delimiter, self._timeout = labels, delimiter, min(within, _PROBE_TIMEOUT)
        self._client = client
        self._answers: defaultdict[str, list[tuple[PreparedRequest, Scores]]] = defaultdict(list)

    def __call__(self, url: str) -> None:
        """Ask for health and for one score, from any thread."""
        with self._client(url, timeout=self._timeout) as client:
            client.heard = lambda request, scores: self._answers[url].append((request, scores))
            check_ready(client, self._labels, delimiter=self._delimiter)

    def hand_over(self, target: Target) -> None:
        """Have a server's target judge what was answered before there was one."""
        for request, scores in self._answers.pop(target.url, []):
            target.answers.add(request, scores)


def check_ready(client: ScoreClient, labels: Sequence[int], *, delimiter: int | None) -> None:
    """Ask for health and for one score. Raises ScoreFailure where the server is not ready, and NeverReady where
    its answer will not change. ``delimiter``: no part of the content."""
    place = client.url
    health = client.get("/health")
    if health.status_code != 200:
        message = f"{place}/health answers {health.status_code}"
        raise ScoreFailure(FailureKind.CONNECTION, message, health.status_code)
    try:
        client.try_out(labels, delimiter=delimiter)
    except ScoreFailure as failure:
        is_refused = 400 <= (failure.status or 0) < 500 and failure.status not in _PASSING
        if is_refused or failure.kind in (FailureKind.BAD_JSON, FailureKind.BAD_RESPONSE):
            raise NeverReady(f"{place}{client.path}: {failure}", failure) from None
        raise
