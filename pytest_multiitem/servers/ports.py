"""Claim a free TCP port on 127.0.0.1, safely between all processes of this user.

A bind() test alone is a race: two test runs see the same free port and both hand it to an engine that
binds seconds later. So a port is first claimed by an flock on a file of its own. The kernel drops that lock
when the last process that inherited the descriptor is gone, so there are no stale claims after a crash.
The claim files stay: removing a file that another process may just be locking would break the exclusion.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import socket
import stat
import tempfile
from pathlib import Path

from pytest_multiitem.servers.errors import PortUnavailable, ServerError

HOST = "127.0.0.1"
_TRIES = 500
_TAKEN = {
    errno.EAGAIN: "another test run of this user has claimed it",
    errno.EADDRINUSE: "another program uses it",
    errno.EACCES: "this user may not bind it",
}


class PortClaim(io.FileIO):
    """The locked file of one claimed port. The claim lasts until every process that holds ``fileno()``, which a child
    gets with ``pass_fds``, has closed it (no explicit unlock: heirs keep their share)."""

    def __init__(self, directory: Path, port: int) -> None:
        super().__init__(directory / str(port), "a")
        self.port = port


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
        claim = PortClaim(directory, port)
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # As servers do, with SO_REUSEADDR: a port in TIME_WAIT counts as free, a listening one as busy.
            socket.create_server((HOST, port)).close()
            return claim
        except OSError as error:
            claim.close()
            if error.errno not in _TAKEN:
                raise
            why = _TAKEN[error.errno]
    if strict:
        raise PortUnavailable(
            f"Expected port {preferred} on {HOST} to be free, but {why}. "
            "Stop that program, choose another port, or allow the next free port (strict port off)."
        )
    raise PortUnavailable(
        f"Expected a free port on {HOST} between {preferred} and {last}, but every one is taken "
        f"({last}: {why}). Choose another preferred port."
    )


def _claim_directory() -> Path:
    directory = Path(tempfile.gettempdir()) / f"pytest-multiitem-ports-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise ServerError(
            f"Expected {directory} to be a directory of user {os.getuid()}, but user {status.st_uid} owns it. "
            "Remove it, or set TMPDIR to a directory of your own."
        )
    return directory
