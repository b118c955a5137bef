"""A time limit on a whole request: a server that sends a byte now and then outlasts every socket timeout."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from pytest_multiitem.transport.client import FailureKind, ScoreFailure


@contextmanager
def deadline(seconds: float, what: str) -> Iterator[None]:
    """Raise ScoreFailure (timeout) inside the block once it has taken ``seconds``.

    By the interval timer, so only in the main thread of a POSIX process; elsewhere the block runs unlimited.
    A timer that runs already goes on afterwards.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def expire(number: int, frame: FrameType | None) -> NoReturn:
        raise ScoreFailure(FailureKind.TIMEOUT, f"{what} gave no whole answer within {seconds:g} s")

    start = time.monotonic()
    handler = signal.signal(signal.SIGALRM, expire)
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - start), 1e-3), interval)
