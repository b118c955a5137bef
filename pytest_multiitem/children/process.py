"""The child process as its parent sees it: started in a group of its own, heard with a deadline, ended by its id."""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

import pytest_multiitem

_TAIL_BYTES = 4000
_POLL = 0.02  # seconds between two looks at a process that is ending
_PATIENCE = 10.0  # seconds in which a process ends that has closed its events
_LONGEST_WAIT = 1e6  # seconds of one wait; the system takes no number of any size
#: How libtpu logs what it cannot go on after: ``F1124 16:51:37.626544   12956 layout.h:341] Check failed: …``.
_FATAL = re.compile(r"F\d{4} [\d:.]+ +\d+ (.*)")


class NoAnswer(Exception):
    """The child said nothing within the deadline; it has been killed."""


class Child:
    """One child process that does ``job``, see `children.job`.

    ``module``: what it runs. ``environment``: variables beside this process's own; None: unset. ``scratch``: variables
    that name a directory of the process's own, which is gone with it. ``apart``: a directory in which packages are
    installed apart from this environment. A context manager: on leaving it no process of the child's group is left;
    neither is one where this process is killed.
    """

    def __init__(
        self,
        module: str,
        job: dict[str, Any],
        environment: Mapping[str, str | None] = MappingProxyType({}),
        scratch: Sequence[str] = (),
        apart: Path | None = None,
    ) -> None:
        self._module = module
        self._job = job
        self._environment = environment
        self._scratch = scratch
        self._apart = apart
        self._buffer = b""

    def __enter__(self) -> Self:
        self._logs = tempfile.TemporaryDirectory(prefix="multiitem-child-")
        self._log = Path(self._logs.name) / "output"
        self._events, theirs = os.pipe()
        try:
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", self._module, str(theirs)],
                    env=self._variables(),
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
            self._process.stdin.write(json.dumps(self._job, default=list).encode() + b"\n")
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
            if not self._selector.select(min(max(0.0, deadline - time.monotonic()), _LONGEST_WAIT)):
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
        deadline = time.monotonic() + _PATIENCE
        looking = os.WEXITED | os.WNOHANG | os.WNOWAIT  # not collected yet: its id still names its group
        while os.waitid(os.P_PID, self._process.pid, looking) is None and time.monotonic() < deadline:
            time.sleep(_POLL)
        self._kill()
        return self._process.returncode

    def output(self) -> str:
        """The end of what the process wrote to standard output and standard error."""
        return self._log.read_bytes()[-_TAIL_BYTES:].decode("utf-8", errors="replace").strip()

    def _variables(self) -> dict[str, str]:
        scratch = dict.fromkeys(self._scratch, self._logs.name)
        merged: dict[str, str | None] = {**os.environ, **self._environment, **scratch}
        # This package last: where the parent has found it by a path of its own, the child must find it too.
        package = str(Path(pytest_multiitem.__file__).parents[1])
        apart = [] if self._apart is None else [str(self._apart)]
        merged["PYTHONPATH"] = os.pathsep.join([*apart, *filter(None, [os.environ.get("PYTHONPATH")]), package])
        return {name: value for name, value in merged.items() if value is not None}

    def _kill(self) -> None:
        if self._process.returncode is not None:  # collected, and its group with it
            return
        # Its own session, so that its group has its id; what it has started goes with it.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def exit_words(returncode: int) -> str:
    """How a process ended, in words."""
    if returncode >= 0:
        return f"ended with exit status {returncode}"
    try:
        return f"was ended by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"was ended by signal {-returncode}"


def last_words(output: str) -> str:
    """The line of a process's output that says why it ended: of a fatal log line only what it says, else the last."""
    lines = [line for line in output.splitlines() if line.strip()]
    fatal = [match[1] for line in lines if (match := _FATAL.match(line))]
    return [*lines[-1:], *fatal][-1].strip() if lines else "it wrote nothing"
