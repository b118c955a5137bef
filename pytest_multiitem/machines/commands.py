"""Running a client (gcloud, ssh, rsync) as a subprocess that cannot hang, flood, or outlive its starter unseen."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

from pytest_multiitem.errors import MultiItemError
from pytest_multiitem.machines.problem import Kind, MachineError
from pytest_multiitem.machines.stop import Stop

_MOST = 8 * 2**20  # bytes of a command's output
_GRACE = 5.0  # seconds from SIGTERM to SIGKILL
_LOOK = 0.2  # seconds between two looks at whether the run has to end


@dataclass(frozen=True)
class Finished:
    """A command that has ended by itself."""

    argv: tuple[str, ...]
    status: int
    out: str
    err: str

    @property
    def shown(self) -> str:
        """As one would type it."""
        return shlex.join(self.argv)


@dataclass(frozen=True)
class Commands:
    """Starts commands, each in a session of its own: Ctrl-C in the terminal reaches it through ``stop`` alone.

    ``inherited``: file descriptors that every command holds as long as it lives (the lock of the run, so that whoever
    takes over after a kill knows when the last command of the killed run has ended).
    """

    stop: Stop
    inherited: tuple[int, ...] = ()

    def run(self, argv: Sequence[str], *, timeout: float) -> Finished:
        """Run to the end. ``timeout``: seconds. Raises MachineError where it cannot start, does not end in time or
        says too much, and Stopped; it has ended then as well."""
        self.stop.check()
        with _memory("out") as out, _memory("err") as err:
            try:
                process = subprocess.Popen(
                    argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True,
                    pass_fds=self.inherited,
                )  # fmt: skip
            except OSError as error:
                raise MachineError(Kind.CLIENT, argv[0], f"cannot be run: {error.strerror}") from None
            try:
                self._wait(process, (out, err), time.monotonic() + timeout, timeout)
            except (MultiItemError, KeyboardInterrupt):
                _end(process)
                raise
            return Finished(tuple(argv), process.returncode, _text(out), _text(err))

    def _wait(self, process: subprocess.Popen[bytes], files: Sequence[IO[bytes]], end: float, timeout: float) -> None:
        name = str(process.args[0]) if isinstance(process.args, list | tuple) else ""
        while True:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_LOOK)
                return
            self.stop.check()
            if time.monotonic() > end:
                raise MachineError(Kind.TIME, name, f"it did not end within {timeout:g} s")
            if any(os.fstat(file.fileno()).st_size > _MOST for file in files):
                raise MachineError(Kind.OTHER, name, f"it wrote more than {_MOST >> 20} MiB")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a command and whatever it has started in its session."""
    for number, patience in ((signal.SIGTERM, _GRACE), (signal.SIGKILL, None)):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience)
            if number == signal.SIGTERM:
                continue  # what it started may still live
            return


def _memory(name: str) -> IO[bytes]:
    """A file in memory: what is rented has to be given back on a full disk as well."""
    return os.fdopen(os.memfd_create(name), "w+b")


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read(_MOST).decode(errors="surrogateescape")
