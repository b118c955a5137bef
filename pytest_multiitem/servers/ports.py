"""Claim a free TCP port on 127.0.0.1, safely between all processes of this user.

A bind() test alone is a race: two test runs see the same free port and both hand it to an engine that
binds seconds later. So a port is first claimed by an flock on a file of its own. The kernel drops that lock
when the last process that inherited the descriptor is gone, so there are no stale claims after a crash.
The claim files stay: removing a file that another process may just be locking would break the exclusion.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import tempfile
from pathlib import Path
from types import TracebackType

from pytest_multiitem.servers.errors import PortUnavailable, ServerError

HOST = "127.0.0.1"
_TRIES = 500


class PortClaim:
    """One claimed port. The claim lasts until every process that holds ``fileno()`` has closed it."""

    def __init__(self, port: int, fd: int) -> None:
        self.port = port
        self._fd = fd

    def fileno(self) -> int:
        """The locked descriptor, to be handed to a child with ``pass_fds``; -1 once closed here."""
        return self._fd

    def close(self) -> None:
        """Give up this process's share of the claim (no explicit unlock: heirs keep theirs). Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> PortClaim:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def claim_port(preferred: int, strict: bool = False) -> PortClaim:
    """Claim ``preferred``, or with ``strict=False`` the next free port above it.

    Raises :class:`PortUnavailable` when the strict port, or all ports tried, are claimed or in use.
    """
    if not 1 <= preferred <= 65535:
        raise PortUnavailable(f"Expected a port between 1 and 65535, got {preferred}. Choose another port.")
    last = preferred if strict else min(preferred + _TRIES - 1, 65535)
    directory = _claim_directory()
    why = ""
    for port in range(preferred, last + 1):
        fd = os.open(directory / str(port), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _check_bindable(port)
        except OSError as error:
            os.close(fd)
            # EAGAIN: claimed; EADDRINUSE: somebody who does not claim; EACCES: a privileged port.
            if error.errno not in (errno.EAGAIN, errno.EADDRINUSE, errno.EACCES):
                raise
            why = _explain(error)
        except BaseException:
            os.close(fd)
            raise
        else:
            return PortClaim(port, fd)
    if strict:
        raise PortUnavailable(
            f"Expected port {preferred} on {HOST} to be free, but {why}. "
            "Stop that program, choose another port, or allow the next free port (strict port off)."
        )
    raise PortUnavailable(
        f"Expected a free port on {HOST} between {preferred} and {last}, but every one is taken "
        f"({last}: {why}). Choose another preferred port."
    )


def _explain(error: OSError) -> str:
    if error.errno == errno.EAGAIN:
        return "another test run of this user has claimed it"
    if error.errno == errno.EACCES:
        return "this user may not bind it"
    return "another program uses it"


def _check_bindable(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: with SO_REUSEADDR a port in TIME_WAIT counts as free, a listening one as busy.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((HOST, port))


def _claim_directory() -> Path:
    directory = Path(tempfile.gettempdir()) / f"pytest-multiitem-ports-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise ServerError(
            f"Expected {directory} to be a directory of user {os.getuid()}, but user {found.st_uid} owns it. "
            "Remove it, or set TMPDIR to a directory of your own."
        )
    return directory
