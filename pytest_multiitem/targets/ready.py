"""Readiness: healthy, and one real request answered with scores. ``/health`` alone checks nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pytest_multiitem.results.redaction import without_credentials
from pytest_multiitem.servers.errors import NeverReady
from pytest_multiitem.transport.client import FailureKind, ScoreClient, ScoreFailure

#: Seconds one probe may take: a first request may compile.
_PROBE_TIMEOUT = 120.0
#: Statuses below 500 that a server may answer while it is still starting.
_PASSING = (404, 408, 425, 429)


def scored_request(
    labels: Sequence[int], *, delimiter: int | None = None, timeout: float = _PROBE_TIMEOUT
) -> Callable[[str], None]:
    """A probe for `process.wait_ready`: raises while the server at the given URL is not ready, and NeverReady
    where its answer will not change."""

    def probe(url: str) -> None:
        with ScoreClient(url, timeout=timeout) as client:
            check_ready(client, labels, delimiter=delimiter)

    return probe


def check_ready(client: ScoreClient, labels: Sequence[int], *, delimiter: int | None) -> None:
    """Ask for health and for one score. Raises ScoreFailure where the server is not ready, and NeverReady where
    its answer will not change. ``delimiter``: no part of the content."""
    place = without_credentials(client.url)
    health = client.get("/health")
    if health.status_code != 200:
        raise ScoreFailure(FailureKind.HTTP_ERROR, f"{place}/health answers {health.status_code}")
    ids = [token for token in range(11, 18) if token != delimiter]
    try:
        client.score(ids[:3], [ids[3:4], ids[4:6]], labels)
    except ScoreFailure as failure:
        is_refused = 400 <= (failure.status or 0) < 500 and failure.status not in _PASSING
        if is_refused or failure.kind in (FailureKind.BAD_JSON, FailureKind.BAD_RESPONSE):
            raise NeverReady(f"{place}/v1/score: {failure}") from None
        raise
