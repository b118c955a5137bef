"""The adapter of `launched_server`: the fake server, started from launch profiles as real engines are."""

from __future__ import annotations

import sys
from pathlib import Path

from pytest_multiitem.adapters.base import Profile
from pytest_multiitem.adapters.launched import LaunchedEngine
from pytest_multiitem.settings.settings import Settings

SERVER = Path(__file__).with_name("launched_server.py")
PROFILES = """
[launched-serial]
engine = "launched"
role = "serial"
port = 21100
[launched-serial.flags]
role = "serial"

[launched-multi]
engine = "launched"
role = "multi"
port = 21200
[launched-multi.flags]
role = "multi"
mask = "{mask_impl}"
chunk = "{chunk_size}"
delimiter = "{delimiter}"
"""


class LaunchedFake(LaunchedEngine):
    """`adapters.base.Engine`."""

    name = "launched"
    package = "pytest_multiitem"
    allows_empty_items = True
    withstands_bad_requests = True

    def program(self, profile: Profile, settings: Settings) -> list[str]:
        return [sys.executable, str(SERVER)]


def pytest_multiitem_engines() -> list[LaunchedFake]:
    return [LaunchedFake()]
