"""A real engine in an environment of its own, or nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pytest_multiitem.adapters.base import Profile, Role, choose_engine
from pytest_multiitem.servers.pool import ServerPool
from pytest_multiitem.servers.process import LaunchSpec, RunningServer
from pytest_multiitem.settings.settings import Settings
from pytest_multiitem.targets.ready import ScoredRequest

#: Seconds until a server on two busy cores has scored its first request.
STARTUP = 400
LABELS = (9454, 2753)


@dataclass
class RealEngine:
    """The engine's interpreter, a checkpoint it serves, and a way to start it."""

    python: str
    model: Path
    settings: Settings
    pool: ServerPool

    def launch(self, role: Role) -> LaunchSpec:
        return choose_engine("sglang").launch(Profile(role, "pytorch"), self.settings)

    def serial(self, *, restart: bool = False) -> RunningServer:
        return self.pool.acquire(self.launch("serial"), ScoredRequest(LABELS), restart=restart)
