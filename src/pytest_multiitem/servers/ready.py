"""Readiness: healthy, and one real request answered with scores. ``/health`` alone checks nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pytest_multiitem.client import FailureKind, ScoreClient, ScoreFailure

#: Seconds one probe may take: a first request may compile.
_PROBE_TIMEOUT = 120.0


def scored_request(labels: Sequence[int]) -> Callable[[str], None]:
    """A probe for `process.wait_ready`: raises while the server at the given URL is not ready."""

    def probe(url: str) -> None:
        with ScoreClient(url, timeout=_PROBE_TIMEOUT) as client:
            health = client.get("/health")
            if health.status_code != 200:
                raise ScoreFailure(FailureKind.HTTP_ERROR, f"{url}/health answers {health.status_code}")
            client.score([11, 12, 13], [[14], [15, 16]], labels)

    return probe
