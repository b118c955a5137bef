"""What holds for all tests of the project."""

import os
import signal
import zlib

import pytest

# Where tests run in the background of a shell, Ctrl-C is ignored, and so it would be in every process they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A worker of pytest-xdist has COLUMNS set, and what a command prints there would be as wide as that terminal.
os.environ.pop("COLUMNS", None)

#: How many parts the slow tests are divided into, and which one is run: "3:0" is the first of three.
PARTS, PART = map(int, os.environ.get("MULTIITEM_TEST_SHARE", "1:0").split(":"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the slow tests of other parts. A test is of the same part in every run."""
    for item in items:
        if item.get_closest_marker("slow") and (part := zlib.crc32(item.nodeid.encode()) % PARTS) != PART:
            item.add_marker(pytest.mark.skip(reason=f"in another part: MULTIITEM_TEST_SHARE={PARTS}:{part}"))
