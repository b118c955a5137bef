"""Start one server under a guard, and talk to it from any process.

A running server is a directory; what this module knows about it comes from there, so the process that started
it and one that only attaches use the same :class:`RunningServer`:

- ``alive``: locked as long as a process of the server may exist (the lock is inherited by the guard);
- ``stop``: the FIFO through which any process asks the guard to end the server;
- ``state.json``: the guard's account: pids, exit code, reason;
- ``server.json``: label, port and log, written once the guard runs.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_multiitem.errors import StorageError
from pytest_multiitem.servers import guard
from pytest_multiitem.servers.errors import NeverReady, ServerDied, ServerError, ServerNotReady, describe_exit
from pytest_multiitem.servers.ports import HOST, claim_port
from pytest_multiitem.storage import try_writing, writing
from pytest_multiitem.untrusted.secrets import redacted_command

Ready = Callable[[str], None]
"""Called with a server's URL; raises while the server is not ready. Sets its own timeout per probe."""

_TAIL_LINES = 40
_TAIL_BYTES = 64 * 1024
_PROBE_BYTES = 4096
_POLL = 0.02  # seconds between two looks at a lock
_PROBE_PAUSES = (0.05, 0.5)  # seconds between readiness probes: the first pause and the longest
_KILL_PATIENCE = 5.0  # seconds for the kernel to remove processes after SIGKILL


@dataclass(frozen=True)
class LaunchSpec:
    """How to start a server.

    ``{port}`` in any argument of ``command`` is replaced by the port that was claimed, at or (unless
    ``strict_port``) above ``preferred_port``. ``env`` is added to this process's environment; a value of
    None unsets. Engines run with PYTHONUNBUFFERED=1 unless ``env`` says otherwise, so that a crash's last
    lines reach the log. ``startup_timeout`` and ``stop_grace`` (SIGTERM to SIGKILL) are in seconds.
    """

    label: str
    command: tuple[str, ...] = field(repr=False)
    env: Mapping[str, str | None] = field(default_factory=dict, repr=False)
    preferred_port: int = 30000
    strict_port: bool = False
    startup_timeout: float = 180.0
    stop_grace: float = 5.0

    @property
    def key(self) -> str:
        """What makes two launches the same server: 16 hex digits of label, command and ``env``."""
        identity = json.dumps([self.label, self.command, sorted(self.env.items())])
        return hashlib.sha256(identity.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class RunningServer:
    """A server that was started under a guard, by this process or another one of the same run."""

    label: str
    port: int
    log_path: Path
    directory: Path

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def ended(self) -> tuple[int, str] | None:
        """A :mod:`subprocess`-style return code, and on whose behalf the server ended; None while it runs (or is being
        started)."""
        locked = is_locked(self.directory / "alive")
        # Read AFTER the lock: the guard writes its last state before it lets go of it.
        state = _read_json(self.directory / "state.json")
        if state.get("status") == "exited":
            return int(state["returncode"]), str(state["reason"])
        if locked:
            return None
        return -signal.SIGKILL, "its guard was killed" if state else "its guard failed before the start"

    def _check_storage(self, ended: tuple[int, str]) -> None:
        """Raises StorageError where nothing can be written into the server's directory."""
        returncode, reason = ended
        try:
            with writing(self.directory):
                try_writing(self.directory, _PROBE_BYTES)
        except StorageError as error:
            raise StorageError(f"{self.label} {describe_exit(returncode)} ({reason}): {error}") from None

    def poll(self) -> int | None:
        """The exit code as :mod:`subprocess` has it, or None while the server runs."""
        ended = self.ended()
        return None if ended is None else ended[0]

    def check_alive(self, patience: float = 0.0) -> None:
        """Raise :class:`ServerDied`, with the end of the log, unless the server runs.

        StorageError where nothing can be written beside its log: then that is why it ended, or why nobody knows.
        ``patience``: seconds in which it may turn out to have ended; a connection breaks before its guard knows.
        """
        deadline = time.monotonic() + patience
        while (ended := self.ended()) is None and time.monotonic() < deadline:
            time.sleep(_POLL)
        if ended is None:
            return
        self._check_storage(ended)
        raise ServerDied(self.label, *ended, self.log_path, self.log_tail())

    def log_tail(self, lines: int = _TAIL_LINES) -> str:
        """The last ``lines`` lines of the log."""
        try:
            with self.log_path.open("rb") as log:
                log.seek(max(0, self.log_path.stat().st_size - _TAIL_BYTES))
                text = log.read().decode("utf-8", errors="replace")
        except FileNotFoundError:  # somebody has removed the results while they were made
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def stop(self, timeout: float = 10.0) -> None:
        """End the server and return when none of its processes is left. Idempotent; works from any process.

        SIGTERM now, SIGKILL after the spec's grace or ``timeout`` seconds, whichever is shorter. Raises
        :class:`ServerError` when processes remain even so.
        """
        stop_all([self.directory], timeout)


def start(spec: LaunchSpec, *, lease: Path, directory: Path, log_path: Path) -> RunningServer:
    """Start ``spec`` under a guard and return at once; ``wait_ready`` waits.

    ``lease`` is the file whose lock the owner holds: when it frees it, or dies, the server ends.
    ``directory`` must not exist yet. Raises :class:`PortUnavailable`.
    """
    with claim_port(spec.preferred_port, spec.strict_port) as claim:
        directory.mkdir(parents=True)
        os.mkfifo(directory / "stop", 0o600)
        command = [argument.replace("{port}", str(claim.port)) for argument in spec.command]
        alive = os.open(directory / "alive", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(alive, fcntl.LOCK_EX)  # before the guard exists, and inherited by it: no gap
            with log_path.open("ab", buffering=0) as log:
                moment = time.strftime("%Y-%m-%d %H:%M:%S")
                log.write(f"[multiitem] {moment} {spec.label}: {shlex.join(redacted_command(command))}\n".encode())
                # -I -S: start fast, and deaf to PYTHON* variables, which are meant for the engine.
                arguments = ["-I", "-S", guard.__file__, str(lease), str(directory), str(spec.stop_grace), *command]
                process = subprocess.Popen(
                    [sys.executable, *arguments],
                    env=environment(spec.env),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    pass_fds=(claim.fileno(), alive),
                )
        finally:
            os.close(alive)
    # Collect the guard as soon as it ends, whoever stopped it: no zombie, and nothing to do at exit.
    threading.Thread(target=process.wait, name=f"reap guard of {spec.label}", daemon=True).start()
    server = RunningServer(spec.label, claim.port, log_path, directory)
    # Last: readers take a directory without this file for a launch that was interrupted.
    try:
        guard.write_json(directory / "server.json", {"label": spec.label, "port": claim.port, "log": str(log_path)})
    except OSError:
        server.stop()
        raise
    return server


def attach(directory: Path) -> RunningServer | None:
    """The server that ``start`` has put into ``directory``; None if that start did not complete."""
    about = _read_json(directory / "server.json")
    if not about:
        return None
    return RunningServer(about["label"], about["port"], Path(about["log"]), directory)


def wait_ready(server: RunningServer, ready: Ready, timeout: float) -> None:
    """Call ``ready(server.url)`` until it does not raise.

    Raises :class:`ServerDied` as soon as the process has ended; after ``timeout`` seconds (at least one
    probe), or when the probe says :class:`NeverReady`, stops the server and raises :class:`ServerNotReady`.
    """
    deadline = time.monotonic() + timeout
    pause, longest = _PROBE_PAUSES
    while True:
        server.check_alive()
        try:
            ready(server.url)
        except Exception as error:  # noqa: BLE001 - any failure of the caller's probe but NeverReady means "not yet"
            last_error = error
        else:
            server.check_alive()  # else the answer came from somebody else on this port
            return
        is_final = isinstance(last_error, NeverReady)
        if not is_final:
            server.check_alive()
        if is_final or time.monotonic() + pause > deadline:
            tail = server.log_tail()
            server.stop()
            raise ServerNotReady(server.label, timeout, last_error, server.log_path, tail) from last_error
        time.sleep(pause)
        pause = min(pause * 1.5, longest)


def stop_all(directories: Iterable[Path], timeout: float) -> None:
    """Stop the servers in ``directories`` at the same time; see :meth:`RunningServer.stop`."""
    left = _request_until_gone(list(directories), b"T", timeout)
    left = _request_until_gone(left, b"K", _KILL_PATIENCE)
    if left:
        guards = ", ".join(f"{path} (guard {_read_json(path / 'state.json').get('guard_pid')})" for path in left)
        raise ServerError(
            f"Expected no server process after SIGKILL, but {len(left)} remain: {guards}. "
            "Look at the guard's process group; it may be stopped or stuck in the kernel."
        )


def is_locked(path: Path) -> bool:
    """Whether some process holds an exclusive flock on ``path``; a missing file is not locked."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two lookers do not see each other
    except (FileNotFoundError, BlockingIOError) as error:
        return isinstance(error, BlockingIOError)
    return False


def _request_until_gone(directories: list[Path], request: bytes, timeout: float) -> list[Path]:
    """Send ``request`` once to each guard; return those still alive after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    left = [path for path in directories if is_locked(path / "alive")]
    waiting = left
    while left:
        waiting = [path for path in waiting if path in left and not _request(path / "stop", request)]
        left = [path for path in left if is_locked(path / "alive")]
        if not left or time.monotonic() >= deadline:
            break
        time.sleep(_POLL)
    return left


def _request(fifo: Path, request: bytes) -> bool:
    """Write to the guard's FIFO; False while nobody reads it (the guard is just starting, or has ended)."""
    try:
        with os.fdopen(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC), "wb", buffering=0) as file:
            file.write(request)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENOENT, errno.EPIPE):
            return False
        raise
    return True


def environment(changes: Mapping[str, str | None]) -> dict[str, str]:
    merged = {**os.environ, "PYTHONUNBUFFERED": "1", **changes}
    return {name: value for name, value in merged.items() if value is not None}


def _read_json(path: Path) -> dict[str, Any]:
    """The object in ``path``; empty while the file does not exist."""
    with contextlib.suppress(FileNotFoundError):
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return content
    return {}
