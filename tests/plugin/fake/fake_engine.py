"""The adapter of `fake_server`: what a project's conftest gives the plugin to add an engine of its own.

``FAKE_FAULTS``: ``ROLE:FAULT[=VALUE]`` separated by spaces; the servers of that role have that fault.
``FAKE_MISSING``: a backend that cannot run here. A model whose name holds "known" is a known incompatibility of
this engine; one whose name holds "broken" ends its servers.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pytest_multiitem.adapters.base import Engine, Profile
from pytest_multiitem.servers.process import LaunchSpec
from pytest_multiitem.settings.settings import Settings

SERVER = Path(__file__).with_name("fake_server.py")
_FIRST_PORT = 21_000  # below the range that the kernel gives to outgoing connections, which would take it


class FakeEngine(Engine):
    """`adapters.base.Engine`."""

    name = "fake"
    allows_empty_items = True
    withstands_bad_requests = True

    def unavailable(self, profile: Profile, settings: Settings) -> str | None:
        return "its library is not installed" if os.environ.get("FAKE_MISSING") == profile.backend else None

    def launch(self, profile: Profile, settings: Settings) -> LaunchSpec:
        command = [sys.executable, str(SERVER), "{port}", profile.role]
        if profile.role == "multi":
            command += ["--mask", str(profile.mask_impl), "--chunk", str(profile.chunk_size or 0)]
            command += ["--delimiter", str(settings.delimiter)]
        if profile.model is not None:
            command += ["--model", profile.model]
        for fault in os.environ.get("FAKE_FAULTS", "").split():
            role, _, name = fault.partition(":")
            if role == profile.role:
                command += ["--fault", name]
        return LaunchSpec(
            label=profile.label,
            command=tuple(command),
            preferred_port=_FIRST_PORT,
            startup_timeout=settings.startup_timeout,
            stop_grace=1.0,
        )

    def known_issue(self, model: str) -> str | None:
        return "its heads do not fit" if "known" in model else None

    def refusal(self, log: str) -> str | None:
        return log.partition("refused: ")[2] or None


def pytest_multiitem_engines() -> list[FakeEngine]:
    return [FakeEngine()]
