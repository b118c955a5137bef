"""Signals that end a run: the first interrupts it; what then stops servers and writes results is not interrupted."""

from __future__ import annotations

import atexit
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
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


def status_of(name: str) -> int:
    """The same by the name under which a run notes what has ended it: "SIGTERM", and for SIGINT "Ctrl-C"."""
    return exit_status(signal.Signals.__members__.get(name, signal.SIGINT))


#: Sent to the main thread alone, to end a wait there; it means nothing else.
_WAKING = signal.SIGURG
_WAKE_AGAIN = (0.0, 0.05, 0.2, 0.5)  # seconds between calls: one may come just before the wait begins


class Interruptions:
    """Handles the signals that end this process, from now until `restore`.

    ``end``: called with the first one, in the main thread; it raises what ends the run. ``handled``: which signals.
    ``caught``: the first one, or None; ``noted``: the first one since `hold`. A signal that is ignored (as under
    nohup), or that somebody else handles, stays as it is; and so do all where this is not the main thread.
    """

    def __init__(self, end: Callable[[signal.Signals], object], handled: Sequence[signal.Signals] = ENDING) -> None:
        self.caught: signal.Signals | None = None
        self.noted: signal.Signals | None = None
        self._end = end
        self._held = False
        self._quiet_until = 0.0
        self._previous: dict[signal.Signals, Any] = {}
        if threading.current_thread() is threading.main_thread():
            usual = [number for number in handled if signal.getsignal(number) in _USUAL]
            self._previous = {number: signal.signal(number, self._on_signal) for number in usual}
        self._waker = _Waker() if self._previous else None

    def hold(self) -> None:
        """Interrupt nothing any more: signals are only noted."""
        self._held = True

    def restore(self) -> None:
        """Give the signals back. Once one has ended the run, further ones do not disturb the end of the process."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._waker is not None:
            self._waker.close()
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


class _Waker:
    """Ends a wait of the main thread when a signal has come.

    Python's handlers run in the main thread, but the kernel may give a signal to any other one (it does where the main
    thread has one pending already, as when a child process ends just then), and then the main thread goes on waiting
    for a lock, for as long as that takes. Does nothing where another library is woken by signals already.
    """

    def __init__(self) -> None:
        self._heard, self._told = os.pipe()
        os.set_blocking(self._told, False)
        before = signal.set_wakeup_fd(self._told, warn_on_full_buffer=False)
        self._is_on = before == -1
        if self._is_on:
            self._previous = signal.signal(_WAKING, lambda *_: None)
            main = threading.get_ident()
            threading.Thread(target=self._listen, args=(main,), name="waker of the main thread", daemon=True).start()
        else:
            signal.set_wakeup_fd(before)
            os.close(self._heard)
            os.close(self._told)

    def close(self) -> None:
        """Give back what was taken, in the main thread. Idempotent."""
        if not self._is_on:
            return
        self._is_on = False
        theirs = signal.set_wakeup_fd(-1)
        if theirs not in (-1, self._told):
            signal.set_wakeup_fd(theirs)
        signal.signal(_WAKING, self._previous)
        os.close(self._told)

    def _listen(self, main: int) -> None:
        while heard := os.read(self._heard, 1):
            for pause in _WAKE_AGAIN if heard[0] in ENDING else ():
                time.sleep(pause)
                if self._is_on:
                    signal.pthread_kill(main, _WAKING)
        os.close(self._heard)
