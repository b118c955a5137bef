"""Files and directories that the system may not let us make or write: a full disk, a quota, permissions."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pytest_multiitem.errors import StorageError

#: What to do about a file that the system does not let us write, by what it says.
_ADVICE = {
    errno.ENOSPC: "free some space there, or choose another place",
    errno.EDQUOT: "free some of your quota there, or choose another place",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f), or choose another place",
    errno.ENOENT: "its directory is not there; make it, and do not remove it during a run",
    errno.EISDIR: "name a file in it",
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "choose a place that can be written to"),
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG), "choose another place"),
    **dict.fromkeys((errno.EIO, errno.ESTALE), "the storage itself fails; choose another place"),
}
#: Bytes that a probe writes: a file can be made on a disk that is full.
_PROBE_BYTES = 64 * 1024


@contextmanager
def writing(path: Path, *, what: str = "", advice: str | None = None) -> Iterator[None]:
    """What the system says against making or writing ``path``, as a StorageError that names it.

    ``what``: stands before the path. ``advice``: what to do, where the system's words alone do not say it.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _ADVICE:
            raise
        named = str(error.filename or path)  # of a file beside it, the one that was asked for says more
        beside = Path(named).absolute().is_relative_to(path.absolute().parent)
        shown = f"{what}{path}" if beside else named
        raise StorageError(f"cannot write {shown}: {error.strerror}; {advice or _ADVICE[error.errno]}") from None


def storage_problem(error: OSError) -> str | None:
    """What a write failed with, and what to do; None where it is no such failure, or may have been a reader's."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
        return None
    name = f" {error.filename}" if error.filename is not None else ""
    return f"cannot write{name}: {error.strerror}; {_ADVICE[error.errno]}"


def try_writing(directory: Path, size: int = _PROBE_BYTES) -> None:
    """Raises OSError where a file of so many bytes could not be written in a directory."""
    with tempfile.TemporaryFile(dir=directory) as probe:
        probe.write(bytes(size))
