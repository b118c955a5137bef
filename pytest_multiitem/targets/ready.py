"""Readiness: healthy, and one real request answered with scores. ``/health`` alone checks nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from pytest_multiitem.servers.errors import NeverReady
from pytest_multiitem.transport.client import FailureKind, ScoreClient, ScoreFailure

#: Seconds one probe may take: a first request may compile.
_PROBE_TIMEOUT = 120.0
#: Statuses below 500 that a server may answer while it is still starting.
_PASSING = (404, 408, 425, 429)


def scored_request(
    labels: Sequence[int], *, api_key: str | None = None, ca_file: Path | None = None, timeout: float = _PROBE_TIMEOUT
) -> Callable[[str], None]:
    """A probe for `process.wait_ready`: raises while the server at the given URL is not ready, and NeverReady
    where its answer will not change."""

    def probe(url: str) -> None:
        with ScoreClient(url, timeout=timeout, api_key=api_key, ca_file=ca_file) as client:
            health = client.get("/health")
            if health.status_code != 200:
                raise ScoreFailure(FailureKind.HTTP_ERROR, f"{url}/health answers {health.status_code}")
            try:
                client.score([11, 12, 13], [[14], [15, 16]], labels)
            except ScoreFailure as failure:
                if _is_final(failure):
                    raise NeverReady(f"{url}/v1/score: {failure}") from None
                raise

    return probe


def _is_final(failure: ScoreFailure) -> bool:
    """Whether waiting changes nothing: the request was understood and refused, or answered with no scores."""
    if failure.kind in (FailureKind.BAD_JSON, FailureKind.BAD_RESPONSE):
        return True
    return failure.status is not None and 400 <= failure.status < 500 and failure.status not in _PASSING
