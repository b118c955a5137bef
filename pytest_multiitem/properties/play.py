"""Sends a scenario to a server: its base, what comes before, its variant, and what others send beside it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np

from pytest_multiitem.scoring.relations import Rows, Scenario, ScoreBody

#: Requests that one sender beside the variant makes at most.
_BESIDE_AT_MOST = 50
#: What happens at the same time need not happen twice: so often is a variant played that others are sent beside.
RACE_ATTEMPTS = 20


class Sender(Protocol):
    """A connection to a scoring server, such as `transport.client.ScoreClient`."""

    def score(
        self, query: Sequence[int], items: Sequence[Sequence[int]], labels: Sequence[int], *, apply_softmax: bool = True
    ) -> Rows: ...


class Player:
    """Plays scenarios on one server. Close it: it opens connections for requests that are sent at the same time.

    ``score``: sends one request. ``another``: opens a further connection. ``played``: requests sent so far, without
    those beside. Everything raises what ``score`` raises.
    """

    def __init__(self, score: Callable[[ScoreBody], Rows], another: Callable[[], Any]) -> None:
        self.played = 0
        self._score = score
        self._another = another
        self._connections: list[Any] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for connection in self._connections:
            connection.close()
        self._connections.clear()

    def rows(self, request: ScoreBody) -> Rows:
        """The scores [N, K] of one request."""
        self.played += 1
        return self._score(request)

    def variant(self, scenario: Scenario) -> Rows:
        """The scores of the variant, its requests' rows one after the other."""
        for request in scenario.before:
            self.rows(request)
        with _Traffic(scenario.beside, self._connect(len(scenario.beside))):
            return np.concatenate([self.rows(request) for request in scenario.variant])

    def differing(self, scenario: Scenario, base: Rows, limit: float) -> tuple[Rows, int]:
        """The scores of the variant, and how often it was played: `RACE_ATTEMPTS` times at most where others are sent
        beside it, until they differ from the base's by more than ``limit``; once otherwise."""
        most, played = (RACE_ATTEMPTS if scenario.beside else 1), 1
        variant = self.variant(scenario)
        while played < most and scenario.differences(base, variant).max() <= limit:
            variant, played = self.variant(scenario), played + 1
        return variant, played

    def _connect(self, count: int) -> list[Any]:
        while len(self._connections) < count:
            self._connections.append(self._another())
        return self._connections[:count]


def send(sender: Sender, request: ScoreBody) -> Rows:
    """One request through a connection."""
    return sender.score(request.query, request.items, request.label_token_ids, apply_softmax=request.apply_softmax)


class _Traffic:
    """Other senders, one a request, each sending its own again and again while the block runs.

    The block begins once all of them have begun, and what failed in one is raised at its end.
    """

    def __init__(self, requests: Sequence[ScoreBody], connections: Sequence[Any]) -> None:
        self._begun = threading.Barrier(len(requests) + 1)
        self._over = threading.Event()
        self._failures: list[Exception] = []
        self._threads = [
            threading.Thread(target=self._send, args=pair, name="beside", daemon=True)
            for pair in zip(requests, connections, strict=True)
        ]

    def _send(self, request: ScoreBody, connection: Any) -> None:
        self._begun.wait()
        try:
            for _ in range(_BESIDE_AT_MOST):
                send(connection, request)
                if self._over.is_set():
                    return
        except Exception as failure:  # noqa: BLE001 - raised again where the block ends
            self._failures.append(failure)

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()
        self._begun.wait()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        if error is None and self._failures:
            raise self._failures[0]
