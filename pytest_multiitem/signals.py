"""Signals that end a run: the first interrupts it; what then stops servers and writes results is not interrupted."""

from __future__ import annotations

import atexit
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

#: Ctrl-C, a cancelled job, a closed terminal.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_BURST = 1.0  # seconds; one Ctrl-C may arrive as several signals: from the terminal, and from `timeout`
_USUAL = (signal.SIG_DFL, signal.default_int_handler)


#: What a shell adds to a signal's number for the exit status of a process that it has ended.
SIGNALLED = 128


def exit_status(number: signal.Signals) -> int:
    """What a shell says of a process that a signal has ended."""
    return SIGNALLED + number


class Interruptions:
    """Handles the signals that end this process, from now until `restore`.

    ``end``: called with the first one, in the main thread; it raises what ends the run. ``caught``: the first one, or
    None; ``noted``: the first one since `hold`. A signal that is ignored (as under nohup), or that somebody else
    handles, stays as it is; and so do all where this is not the main thread.
    """

    def __init__(self, end: Callable[[signal.Signals], object]) -> None:
        self.caught: signal.Signals | None = None
        self.noted: signal.Signals | None = None
        self._end = end
        self._held = False
        self._quiet_until = 0.0
        self._previous: dict[signal.Signals, Any] = {}
        if threading.current_thread() is threading.main_thread():
            usual = [number for number in ENDING if signal.getsignal(number) in _USUAL]
            self._previous = {number: signal.signal(number, self._on_signal) for number in usual}

    def hold(self) -> None:
        """Interrupt nothing any more: signals are only noted."""
        self._held = True

    def restore(self) -> None:
        """Give the signals back. Once one has ended the run, further ones do not disturb the end of the process."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self.caught is not None:
            atexit.register(self.end)

    def end(self) -> None:
        """The process ends: ignore the signals, since Python gives up its own handlers before it does."""
        for number in self._previous:
            signal.signal(number, signal.SIG_IGN)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.caught is None:
            self.caught = signal.Signals(number)
        if self._held:
            self.noted = self.noted or signal.Signals(number)
            return
        now = time.monotonic()
        if now < self._quiet_until:
            return
        self._quiet_until = now + _BURST
        self._end(signal.Signals(number))
