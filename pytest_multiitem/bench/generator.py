"""Sends requests that overlap, in a closed or in an open loop, and keeps when each was due, sent and answered."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import httpx
import numpy as np
from numpy.typing import NDArray

from pytest_multiitem.transport.client import FailureKind, PreparedRequest, ScoreFailure, build, failure_of

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0  # seconds before a sender tries again after its connection failed
_DEAD_AFTER: Final = 1.0  # seconds in which every connection failed and no answer was awaited: the server is gone


def poisson_schedule(rate: float, duration: float, seed: int) -> NDArray[np.float64]:
    """Seconds from the start at which requests are due, all before ``duration``: the first at once, the others at
    exponential gaps of mean 1/``rate``."""
    rng = np.random.default_rng(seed)
    moments = np.zeros(1)
    while moments[-1] < duration:
        gaps = rng.exponential(1 / rate, size=max(16, round(rate * duration)))
        moments = np.concatenate([moments, moments[-1] + np.cumsum(gaps)])
    return moments[moments < duration]


@dataclass
class Sent:
    """A request and what came of it; times in seconds from the start.

    ``due``: when it was to be sent. ``started``: when it was. ``refused``: it was not, for too many had no answer yet.
    ``finished``: its last byte or its failure; None where it was not waited for. ``response`` is unread.
    """

    request: PreparedRequest
    due: float
    started: float | None = None
    refused: bool = False
    finished: float | None = None
    response: httpx.Response | None = None
    failure: ScoreFailure | None = None


class Generator:
    """One level's requests, taken from ``requests`` in turn, and their fates in ``sent``.

    ``ended_early``: why fewer requests were issued than planned.
    """

    def __init__(self, http: httpx.AsyncClient, requests: Sequence[PreparedRequest]) -> None:
        self.sent: list[Sent] = []
        self.ended_early: str | None = None
        self._http = http
        self._requests = requests
        self._clock = asyncio.get_running_loop()
        self._start = self._clock.time()
        self._computed = time.thread_time()
        self._outstanding = 0
        self._failing_since: float | None = None
        self._dead = asyncio.Event()

    def now(self) -> float:
        """Seconds since the start."""
        return self._clock.time() - self._start

    def busy(self) -> float:
        """The share of the time since the start that the generator's thread itself has computed."""
        return (time.thread_time() - self._computed) / self.now()

    async def closed(self, concurrency: int, duration: float, drain: float) -> None:
        """Keep ``concurrency`` requests under way for ``duration`` seconds, then wait ``drain`` seconds at most."""
        senders = [asyncio.create_task(self._send_again_and_again(duration)) for _ in range(concurrency)]
        await self._finish(senders, duration + drain)

    async def open(self, moments: NDArray[np.float64], duration: float, drain: float, max_outstanding: int) -> None:
        """Send a request at each of the moments, whatever has become of the others; after ``duration`` seconds, wait
        ``drain`` seconds at most. One that would be more than ``max_outstanding`` without an answer is not sent."""
        under_way = []
        for moment in moments:
            if await self._gone_before(moment):
                break
            sent = self._next(due=moment)
            sent.refused = self._outstanding >= max_outstanding
            if not sent.refused:
                self._outstanding += 1
                under_way.append(asyncio.create_task(self._send(sent)))
        await self._gone_before(duration)
        await self._finish(under_way, duration + drain)

    async def _send_again_and_again(self, end: float) -> None:
        pause = _FIRST_PAUSE
        while self.now() < end and not self._dead.is_set():
            sent = self._next(due=self.now())
            self._outstanding += 1
            await self._send(sent)
            if sent.failure is not None and sent.failure.kind is FailureKind.CONNECTION:
                await self._gone_before(min(self.now() + pause, end))
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                pause = _FIRST_PAUSE

    def _next(self, due: float) -> Sent:
        sent = Sent(self._requests[len(self.sent) % len(self._requests)], float(due))
        self.sent.append(sent)
        return sent

    async def _send(self, sent: Sent) -> None:
        request = build(self._http, sent.request)
        sent.started = self.now()
        try:
            sent.response = await self._http.send(request)
        except httpx.HTTPError as error:
            sent.failure = failure_of(error, request)
        finally:
            self._outstanding -= 1
        sent.finished = self.now()
        # Notice that the server is gone: to go on would only count refused connections.
        if sent.failure is None or sent.failure.kind is not FailureKind.CONNECTION:
            self._failing_since = None
            return
        if self._failing_since is None:
            self._failing_since = sent.started
        if self._outstanding == 0 and self.now() - (self._failing_since or 0.0) >= _DEAD_AFTER:
            self.ended_early = f"after {self.now():.1f} s, because the server is gone: {sent.failure}"
            self._dead.set()

    async def _gone_before(self, moment: float) -> bool:
        """Wait for the moment; whether the server was found to be gone."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._start + moment):
                await self._dead.wait()
        return self._dead.is_set()

    async def _finish(self, tasks: Sequence[asyncio.Task[None]], end: float) -> None:
        """Wait for the tasks until ``end``, and cancel those that are left."""
        if not tasks:
            return
        # None waits for ever, but each request has its timeout.
        done, left = await asyncio.wait(tasks, timeout=None if end == math.inf else max(0.0, end - self.now()))
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        for task in done:
            task.result()  # a mistake of ours is no failure of the server
