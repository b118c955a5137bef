"""Sends a scenario to a server: its base, what comes before, its variant, and what others send beside it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np

from pytest_multiitem.scoring.relations import Rows, Scenario, ScoreBody
from pytest_multiitem.transport.client import ScoreClient, ScoreFailure

#: Requests that one sender beside the variant makes at most.
_BESIDE_AT_MOST = 50
#: What happens at the same time need not happen twice, nor does every connection end at the same replica: so often is
#: a variant played that others are sent beside, or that goes over a fresh connection.
RACE_ATTEMPTS = 20


class NoReference(Exception):
    """The serial server did not answer: nothing can be compared with it."""


class Player(ExitStack):
    """Plays scenarios on one server. Close it: it opens connections for requests that are sent at the same time, and
    fresh ones.

    ``score``: sends one request. ``another``: opens a further connection. ``serial``: sends one to the serial server.
    ``played``: requests sent so far, without those beside. Everything raises what ``score`` raises; NoReference stands
    for a ScoreFailure of ``serial``.
    """

    def __init__(
        self,
        score: Callable[[ScoreBody], Rows],
        another: Callable[[], ScoreClient],
        serial: Callable[[ScoreBody], Rows] | None = None,
    ) -> None:
        super().__init__()
        self.played = 0
        self._score = score
        self._another = another
        self._serial = serial
        self._connections: list[ScoreClient] = []
        self._fresh: ScoreClient | None = None
        self.callback(self._drop)

    def rows(self, request: ScoreBody) -> Rows:
        """The scores [N, K] of one request."""
        self.played += 1
        return self._score(request)

    def variant(self, scenario: Scenario, *, again: bool = False) -> Rows:
        """The scores of the variant, its requests' rows one after the other. ``again``: over the connection that was
        the last fresh one, where the variant wants a fresh one."""
        for request in scenario.before:
            self.rows(request)
        if scenario.serial:
            return np.concatenate([self._reference(request) for request in scenario.variant])
        if scenario.fresh:
            self.played += len(scenario.variant)
            connection = self._reconnected(again)
            return np.concatenate([send(connection, request) for request in scenario.variant])
        with _traffic(scenario.beside, self._connect(len(scenario.beside))):
            return np.concatenate([self.rows(request) for request in scenario.variant])

    def differing(self, scenario: Scenario, base: Rows, limit: float) -> tuple[Rows, int]:
        """The scores of the variant, and how often it was played: `RACE_ATTEMPTS` times at most where others are sent
        beside it, or its connection is fresh, until they differ from the base's by more than ``limit``; once
        otherwise."""
        most, played = (RACE_ATTEMPTS if scenario.beside or scenario.fresh else 1), 1
        variant = self.variant(scenario)
        while played < most and scenario.differences(base, variant).max() <= limit:
            variant, played = self.variant(scenario), played + 1
        return variant, played

    def _reference(self, request: ScoreBody) -> Rows:
        if self._serial is None:
            raise NoReference("there is no serial server")
        self.played += 1
        try:
            return self._serial(request)
        except ScoreFailure as failure:
            raise NoReference(str(failure)) from failure

    def _reconnected(self, again: bool) -> ScoreClient:
        if self._fresh is None or not again:
            self._drop()
            self._fresh = self._another()
        return self._fresh

    def _drop(self) -> None:
        if self._fresh is not None:
            self._fresh.close()
            self._fresh = None

    def _connect(self, count: int) -> list[ScoreClient]:
        while len(self._connections) < count:
            self._connections.append(self._another())
            self.callback(self._connections[-1].close)
        return self._connections[:count]


def send(sender: ScoreClient, request: ScoreBody) -> Rows:
    """One request through a connection."""
    return sender.score(request.query, request.items, request.label_token_ids, apply_softmax=request.apply_softmax)


@contextmanager
def _traffic(requests: Sequence[ScoreBody], connections: Sequence[ScoreClient]) -> Iterator[None]:
    """Other senders, one a request, each sending its own again and again while the block runs.

    The block begins once all of them have begun, and what failed in one is raised at its end.
    """
    begun, over = threading.Barrier(len(requests) + 1), threading.Event()
    failures: list[Exception] = []

    def keep_sending(request: ScoreBody, connection: ScoreClient) -> None:
        begun.wait()
        try:
            for _ in range(_BESIDE_AT_MOST):
                send(connection, request)
                if over.is_set():
                    return
        except Exception as failure:  # noqa: BLE001 - raised again where the block ends
            failures.append(failure)

    threads = [
        threading.Thread(target=keep_sending, args=pair, name="beside", daemon=True)
        for pair in zip(requests, connections, strict=True)
    ]
    for thread in threads:
        thread.start()
    begun.wait()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]
