"""The child process as its parent sees it: started in a group of its own, heard with a deadline, ended by its id."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest_multiitem

_TAIL_BYTES = 4000


class NoAnswer(Exception):
    """The child said nothing within the deadline; it has been killed."""


class Child:
    """One child process that does ``job``, see `kernels.child`.

    A context manager: on leaving it no process of the child's group is left; neither is one where this process is
    killed.
    """

    def __init__(self, job: dict[str, Any]) -> None:
        self._job = job
        self._buffer = b""

    def __enter__(self) -> Self:
        self._logs = tempfile.TemporaryDirectory(prefix="multiitem-kernel-")
        self._log = Path(self._logs.name) / "output"
        self._events, theirs = os.pipe()
        # This package last: where the parent has found it by a path of its own, the child must find it too.
        package = str(Path(pytest_multiitem.__file__).parents[1])
        paths = [*filter(None, [os.environ.get("PYTHONPATH")]), package]
        try:
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "pytest_multiitem.kernels.child", str(theirs)],
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    pass_fds=(theirs,),
                )
        except BaseException:
            os.close(self._events)
            self._logs.cleanup()
            raise
        finally:
            os.close(theirs)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._events, selectors.EVENT_READ)
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has died; `event` will tell
            self._process.stdin.write(json.dumps(self._job).encode() + b"\n")
            self._process.stdin.flush()  # and stays open: the child ends when it closes
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._kill()
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._selector.close()
        os.close(self._events)
        self._logs.cleanup()

    def event(self, timeout: float) -> dict[str, Any] | None:
        """The next event; None once the process has ended. Raises NoAnswer after ``timeout`` seconds without one."""
        deadline = time.monotonic() + timeout
        while b"\n" not in self._buffer:
            if not self._selector.select(max(0.0, deadline - time.monotonic())):
                self._kill()
                raise NoAnswer(f"no answer within {timeout:g} s")
            part = os.read(self._events, 1 << 16)
            if not part:
                return None
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        event: dict[str, Any] = json.loads(line)
        return event

    def ended(self) -> int:
        """The return code as `subprocess` has it, once `event` has said None."""
        return self._process.wait()

    def last_words(self) -> str:
        """The last line that the process wrote to standard output or standard error."""
        text = self._log.read_bytes()[-_TAIL_BYTES:].decode("utf-8", errors="replace").strip()
        return (text.splitlines() or ["it wrote nothing"])[-1].strip()[:300]

    def _kill(self) -> None:
        if self._process.returncode is not None:  # collected, and its group with it
            return
        # Its own session, so that its group has its id; what it has started goes with it.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
