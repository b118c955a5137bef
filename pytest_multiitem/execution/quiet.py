"""One machine's time: many measure scores at once, and whoever measures time has the machine to himself.

Two locked files in one directory: ``machine``, shared by those who keep it busy, and ``turn``, which everybody takes
before it, so that nobody goes past one who waits to be alone. The kernel frees them, however their holder ends.
"""

from __future__ import annotations

import fcntl
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def busy(directory: Path) -> Iterator[None]:
    """Keep the machine busy, beside others who do, as long as nobody waits to have it `alone`."""
    with _locked(directory / "turn", fcntl.LOCK_EX):
        machine = _locked(directory / "machine", fcntl.LOCK_SH)
    with machine:
        yield


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Have the machine to oneself, among all who use the same directory, once those who are busy have ended."""
    with _locked(directory / "turn", fcntl.LOCK_EX), _locked(directory / "machine", fcntl.LOCK_EX):
        yield


def _locked(path: Path, how: int) -> io.FileIO:
    """The file, locked until it is closed."""
    file = io.FileIO(path, "a")
    fcntl.flock(file, how)
    return file
