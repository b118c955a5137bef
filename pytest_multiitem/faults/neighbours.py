"""Faults that another kind of request brings about: one that shares a server, or a batch, with scoring requests."""

from __future__ import annotations

import os
import threading
from typing import Any

from typing_extensions import override

from pytest_multiitem.faults.attention import CausalRestarting
from pytest_multiitem.faults.base import WHOLE, AsgiApp, ScoreRequest, WireFault
from pytest_multiitem.scoring.layout import PackedLayout
from pytest_multiitem.scoring.steps import ScoreResult

#: What engines run in the batches that scoring requests run in.
NEIGHBOURS = frozenset({"/generate", "/v1/completions", "/v1/chat/completions", "/health_generate"})
#: The exit status of a process that the kernel killed for memory, as a shell tells it.
_KILLED = 137


def is_neighbour(scope: Any) -> bool:
    """Whether an ASGI scope is that of a request that generates, or that checks an engine's health by one."""
    return scope["type"] == "http" and scope["path"] in NEIGHBOURS


class _Left:
    """How many scoring requests are still wrong; shared by what sees requests and by what scores."""

    def __init__(self) -> None:
        self._count = 0
        self._changing = threading.Lock()

    def set(self, count: int) -> None:
        with self._changing:
            self._count = count

    def take(self) -> bool:
        """Whether there was one left."""
        with self._changing:
            left = self._count > 0
            self._count -= left
        return left


class NeighbourRequest(
    CausalRestarting,
    name="neighbour_request",
    number=33,
    strengths=(8, 1),
    accepts=WHOLE,
    graded=False,
    thresholds=True,
):
    """A request that generates, or that checks health by generating, switches the mask off: for what is scored while
    it runs, and for some scoring requests after it."""

    seen = "sglang #25414"
    unit = "scoring requests after it"

    def __init__(self, strength: float | None = None) -> None:
        super().__init__(strength)
        self._left = _Left()
        self._off = False

    def watch(self, app: AsgiApp) -> AsgiApp:
        """A request's own scoring, if it has any, is none of those after it."""

        async def watched(scope: Any, receive: Any, send: Any) -> None:
            if not is_neighbour(scope):
                await app(scope, receive, send)
                return
            self._left.set(self.count)
            try:
                await app(scope, receive, send)
            finally:
                self._left.set(self.count)

        return watched

    def concerns(self, layout: PackedLayout, start: int) -> bool:
        """Every sequence of a request that comes too soon."""
        return self._off

    @override
    def respond(self, request: ScoreRequest) -> ScoreResult:
        self._off = self._left.take()
        return self.ask(request)


class NeighbourKills(WireFault, name="neighbour_kills", number=33, seen="sglang #25414", own_process=True):
    """A request that generates, or that checks health by generating, ends the process, as if killed."""

    def wrap(self, app: AsgiApp) -> AsgiApp:
        """No clean-up at the end, as a process that is killed has none."""

        async def middleware(scope: Any, receive: Any, send: Any) -> None:
            if is_neighbour(scope):
                os._exit(_KILLED)
            await app(scope, receive, send)

        return middleware
