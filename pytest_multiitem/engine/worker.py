"""The one thread that calls the engine, and the queue before it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.requests import Request

from pytest_multiitem.engine import interruption
from pytest_multiitem.engine.interruption import Interrupted, Interruption
from pytest_multiitem.scoring.wire.errors import WireError, busy
from pytest_multiitem.transport.listening import while_connected

_T = TypeVar("_T")

#: Calls that wait for the engine, at most. Far above what this package itself has in flight: 64 requests of a gate.
MOST_QUEUED = 512


@dataclass(eq=False)
class _Call:
    """A call that a client waits for. ``answer``: what it gets; the engine may still compute when it is there."""

    answer: asyncio.Future[Any]
    interruption: Interruption = field(default_factory=Interruption)
    started: bool = False


class Worker:
    """The one thread that calls the engine; calls queue up in order of arrival, ``most_queued`` of them at most."""

    def __init__(self, most_queued: int = MOST_QUEUED) -> None:
        self.most_queued = most_queued
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._running = threading.Lock()
        self._calls: list[_Call] = []
        self._stopping = False

    @property
    def waiting(self) -> int:
        """Calls that clients wait for, the one that runs included."""
        return len(self._calls)

    async def run(self, request: Request, call: Callable[[], _T]) -> _T:
        """Run ``call`` in the worker.

        Raises ClientDisconnect as soon as the client goes away, and WireError where the queue is full or the server
        stops. Then a call that is still queued never starts, and one that runs ends at its next step.
        """
        if self._stopping:
            raise shutting_down()
        if len(self._calls) > self.most_queued:
            message = f"{len(self._calls)} requests are under way; this server takes at most {self.most_queued} beside "
            raise busy(
                "queue_full", f"{message}the one that it computes: ask again later, or raise --max-queued-requests"
            )
        loop = asyncio.get_running_loop()
        mine = _Call(loop.create_future())

        def exclusively() -> _T:
            with self._running, interruption.by(mine.interruption):
                mine.interruption.check()
                mine.started = True
                return call()

        job = loop.run_in_executor(self._pool, exclusively)
        job.add_done_callback(lambda done: _hand_over(done, mine.answer))
        self._calls.append(mine)
        try:
            result: _T = await while_connected(mine.answer, request.receive)
            return result
        finally:
            self._calls.remove(mine)
            mine.interruption.tell()
            job.cancel()

    def refuse_queued(self) -> None:
        """Refuse what is queued, and whatever comes from now on. To be called in the thread of the event loop."""
        self._stopping = True
        self._refuse([call for call in self._calls if not call.started])

    def refuse_running(self) -> None:
        """Refuse the running call as well; the engine stops at its next step."""
        self._refuse(self._calls)

    def close(self, timeout: float) -> bool:
        """Drop what is queued and wait ``timeout`` seconds for the running call; whether it ended."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        ended = self._running.acquire(timeout=timeout)
        if ended:
            self._running.release()
        return ended

    def _refuse(self, calls: list[_Call]) -> None:
        for call in calls:
            call.interruption.tell()
            if not call.answer.done():
                call.answer.set_exception(shutting_down())


def shutting_down() -> WireError:
    """The server ends: whoever asks again asks another one, or this one after its next start."""
    return busy("shutting_down", "the server is shutting down and does not compute this request; ask again later")


def _hand_over(done: asyncio.Future[Any], answer: asyncio.Future[Any]) -> None:
    """Give the engine's result to the client that waits, if one does."""
    if done.cancelled():
        answer.cancel()
        return
    failure = done.exception()  # asked for also where nobody waits: asyncio would warn of it
    if answer.done():
        return
    if failure is None:
        answer.set_result(done.result())
    else:
        answer.set_exception(shutting_down() if isinstance(failure, Interrupted) else failure)
