"""Start the servers that a run will ask for in the background, in the order in which it will ask."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, wait

from pytest_multiitem.servers.pool import ServerPool
from pytest_multiitem.servers.process import LaunchSpec, Ready, RunningServer


class Starter:
    """Starts servers of a pool, ``at_once`` at a time: the first is ready while the last has not begun.

    Its threads never keep the process from ending.
    """

    def __init__(self, pool: ServerPool, ready: Ready, at_once: int) -> None:
        self._pool = pool
        self._ready = ready
        self._at_once = at_once
        self._servers: dict[str, Future[RunningServer]] = {}
        self._queue: deque[LaunchSpec] = deque()

    def begin(self, specs: Iterable[LaunchSpec]) -> None:
        """Start these servers in this order. Called once, before any :meth:`server`."""
        for spec in specs:
            if spec.key not in self._servers:
                self._servers[spec.key] = Future()
                self._queue.append(spec)
        for _ in range(min(self._at_once, len(self._queue))):
            threading.Thread(target=self._work, name="multiitem-starter", daemon=True).start()

    def server(self, spec: LaunchSpec, ready: Ready | None = None) -> RunningServer:
        """The ready server of a spec; one that still stands in the queue, or was never in it, starts now.

        ``ready``: tells when one that was never in the queue is, where it is of another kind than those.

        Raises what `ServerPool.acquire` raises.
        """
        future = self._servers.get(spec.key)
        if future is None or future.cancel():
            return self._pool.acquire(spec, ready or self._ready)
        return future.result()

    def settle(self) -> None:
        """Return when no server is starting any more, whether it got ready or failed."""
        wait(self._servers.values())

    def close(self) -> None:
        """Begin nothing further. Servers that are starting end with their pool."""
        for future in self._servers.values():
            future.cancel()

    def _work(self) -> None:
        while True:
            try:
                spec = self._queue.popleft()
            except IndexError:
                return
            future = self._servers[spec.key]
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(self._pool.acquire(spec, self._ready))
            except BaseException as error:  # noqa: BLE001 - whoever asks for the server gets it
                future.set_exception(error)
