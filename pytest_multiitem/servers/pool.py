"""Share servers between all processes of one test run, and leave none behind.

The owner (pytest's controller, or the only process) holds the lease: an exclusive flock on ``run_dir/lease``.
Every guard waits for that lock, so a server lives as long as the owner, not as long as the worker that
started it. Workers find each other's servers in ``run_dir/servers/<key>/<launch number>/`` (see
:mod:`.process`); the logs lie beside, one per spec, and stay.
"""

from __future__ import annotations

import atexit
import fcntl
import io
import os
import re
import time
import weakref
from pathlib import Path
from typing import Any

import filelock

from pytest_multiitem.errors import StorageError
from pytest_multiitem.servers import process
from pytest_multiitem.servers.errors import ServerError, ServerNotReady
from pytest_multiitem.servers.process import LaunchSpec, Ready, RunningServer
from pytest_multiitem.storage import writing
from pytest_multiitem.untrusted.secrets import without_secrets

_LEASE_PATIENCE = 1.0  # seconds; guards of an earlier owner hold a shared lock for an instant
_POLL = 0.02  # seconds
#: Lines of a log that may hold a secret; the others are not looked at closely.
_SUSPECT = re.compile(r"key|token|secret|pass|pwd|credential|authorization|bearer|cookie|://", re.IGNORECASE)
_LOOK = 0.2  # seconds between two looks at a server for which another process waits


class ServerPool:
    """The servers of one run, one per :attr:`LaunchSpec.key`, shared through ``run_dir``.

    ``owner=True`` for exactly one process, first; xdist workers attach with ``owner=False``. All methods may
    be called from any thread of any of these processes.
    """

    def __init__(self, run_dir: Path, owner: bool) -> None:
        self.run_dir = run_dir.absolute()
        self._servers = self.run_dir / "servers"
        self._lease_path = self.run_dir / "lease"
        with writing(self._servers):
            self._servers.mkdir(parents=True, exist_ok=True)
            self._lease = _Lease(self._lease_path) if owner else None
        if owner:
            atexit.register(self.close)

    def acquire(self, spec: LaunchSpec, ready: Ready, *, restart: bool = False) -> RunningServer:
        """A ready server for ``spec``: started by the first caller of all processes, shared by the others.

        One process at a time probes; once ``ready`` has passed for one, the others do not repeat it. Raises
        :class:`ServerDied` if the server has ended for whatever reason, unless ``restart``;
        :class:`ServerNotReady` after ``spec.startup_timeout`` seconds; :class:`PortUnavailable`; StorageError where
        what is written of a server cannot be.
        """
        server = self.start(spec, restart=restart)
        with writing(server.directory):
            return self._ready(server, ready, spec.startup_timeout)

    def _ready(self, server: RunningServer, ready: Ready, timeout: float) -> RunningServer:
        """The server once it is ready, by the probe of this process or of another one."""
        probing = filelock.FileLock(server.directory / "probing.lock")
        deadline = time.monotonic() + timeout
        while not probing.is_locked:
            try:
                probing.acquire(timeout=_LOOK)
            except filelock.Timeout:
                server.check_alive()
                if time.monotonic() > deadline:
                    raise ServerNotReady(server.label, timeout, None, server.log_path, server.log_tail()) from None
        try:
            passed = server.directory / "ready"
            if passed.exists():
                server.check_alive()
            else:
                process.wait_ready(server, ready, timeout)
                passed.touch()
        finally:
            probing.release()
        return server

    def start(self, spec: LaunchSpec, *, restart: bool = False) -> RunningServer:
        """Start ``spec`` without waiting until it is ready; one that runs already is returned.

        Raises like :meth:`acquire` if it was started before and has died, unless ``restart``.
        """
        with writing(self._servers), filelock.FileLock(self._servers / f"{spec.key}.lock"):
            launches = sorted(self._servers.glob(f"{spec.key}/*"), key=lambda path: int(path.name))
            completed = [server for path in launches if (server := process.attach(path)) is not None]
            if completed:
                latest = completed[-1]
                if not restart:
                    latest.check_alive()
                if latest.poll() is None:
                    return latest
            if self._lease is not None and not self._lease_path.exists():
                raise StorageError(f"{self._lease_path} is gone: it was there before; do not remove it during the run")
            if not process.is_locked(self._lease_path):
                raise ServerError(
                    f"Expected an owner to hold {self._lease_path} while {spec.label!r} is started, but "
                    "nobody does: the run has ended, or it never opened a ServerPool(…, owner=True). "
                    "Open one first, and keep it open."
                )
            return process.start(
                spec,
                lease=self._lease_path,
                directory=self._servers / spec.key / str(len(launches)),
                log_path=self._servers / f"{_slug(spec.label)}-{spec.key[:8]}.log",
            )

    def release_all(self, timeout: float = 15.0) -> None:
        """Stop every server of the run, whoever started it, and return when none of their processes is left.

        Raises :class:`ServerError` if some remain ``timeout`` seconds plus the kernel's time after SIGKILL.
        """
        process.stop_all((path.parent for path in self._servers.glob("*/*/alive")), timeout)

    def close(self, timeout: float = 15.0) -> None:
        """The owner's end of the run: free the lease, then :meth:`release_all`. Idempotent.

        Does nothing in a process that is not the owner: its servers belong to the run.
        """
        if self._lease is None or self._lease.closed:
            return
        self._lease.close()
        self.release_all(timeout)
        for log in self._servers.glob("*.log"):
            _without_secrets(log)
        atexit.unregister(self.close)

    def __enter__(self) -> ServerPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Lease(io.FileIO):
    """An exclusive flock on a file, held until it is closed by this process alone: not by children that it forks."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "a")
        deadline = time.monotonic() + _LEASE_PATIENCE
        while True:
            try:
                fcntl.flock(self, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    self.close()
                    raise ServerError(
                        f"Expected {path} to be free, but another process owns the servers of this run. "
                        "Use another run directory, or attach with owner=False."
                    ) from None
            time.sleep(_POLL)
        # A forked child shares the lock; it must not keep the servers alive after its parent. Closing, not unlocking:
        # the parent's lock must stay.
        itself = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: None if (lease := itself()) is None else lease.close())


def _without_secrets(log: Path) -> None:
    """Take out of a log what its lines say to be a secret: engines log the arguments that they were given."""
    clean = log.with_suffix(".clean")
    changed = False
    as_it_is: dict[str, Any] = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
    try:
        with log.open(**as_it_is) as lines, clean.open("w", **as_it_is) as out:
            for line in lines:
                shown = without_secrets(line) if _SUSPECT.search(line) else line
                changed |= shown != line
                out.write(shown)
        if changed:
            clean.replace(log)
    except OSError:  # the disk is full: what was measured goes before
        pass
    finally:
        clean.unlink(missing_ok=True)


def _slug(label: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-") or "server"
