"""The guard: a tiny supervisor process, one per server. Run by path; uses nothing but the standard library.

``python -I -S guard.py LEASE DIRECTORY GRACE COMMAND…``

It starts COMMAND (the engine) in a process group of its own and ends it, with everything it left behind, when

- the owner of the file LEASE is gone: the owner holds an exclusive flock on it, a thread here waits
  for a shared one (so that all guards wake at once). The kernel frees the lock however the owner ends;
- somebody writes ``T`` (SIGTERM, then SIGKILL after GRACE seconds) or ``K`` (SIGKILL now) into the FIFO DIRECTORY/stop:
  that needs no pid, works from any process, and opening it fails with ENXIO once no guard reads it;
- the guard itself, or a watch over it (below), gets SIGTERM, SIGINT or SIGHUP;
- the engine exits by itself (then only its leftovers are ended);
- the guard or a watch is killed with SIGKILL: any two of them, and of them and the anchor, at the same moment.

Descriptors that it inherits (the port's claim and the lock on the ``alive`` file) it only keeps open, and
the engine does not get them: so the kernel tells everybody, without a gap, whether this server may still
have a process.

The anchor is a fork of the guard that leads the engine's process group and does nothing but wait for the
guard's end. As the guard reaps it last, the group's id cannot be reused while the guard may signal it. On
Linux the guard is also a child subreaper: even daemonised descendants end up as its own, un-reaped children.

A *watch* (Linux) does nothing but wait for its one child: the first watch's is the second watch, whose child is the
guard. Watches are subreapers too: where the guard is killed, everything that the engine has started, in whatever
session and with whatever signals ignored, becomes the nearest watch's child, which kills it. Where a watch is killed,
the kernel sends SIGTERM to its child. Each has a process group of its own: one group that is killed is one process.

Exit codes: 0 after the engine has ended, 127 if it could not be started; DIRECTORY/state.json holds pids, exit code
and reason, as far as the disk takes it. Its own messages, and the engine's output, go to the standard output and error
it was started with.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_REAP_PAUSE = 0.01  # seconds between two looks at processes that were sent SIGKILL
_GROUP_PATIENCE = 2.0  # seconds to wait for an emptied process group to vanish
_WATCHES = 2  # with the guard itself, one is left where any two are killed
_TERMINATE, _KILL = b"T", b"K"
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Guard:
    """One engine's life: start, wait for a reason to end it, end all of it."""

    def __init__(self, lease: Path, directory: Path, grace: float) -> None:
        self._lease_path = lease
        self._stop_path = directory / "stop"
        self._state_path = directory / "state.json"
        self._grace = grace
        self._anchor = 0
        self._engine = 0
        self._reaped = False
        self._reason = "by itself"
        self._kill_at: float | None = None  # monotonic seconds; set once the engine was asked to end
        self._notice: str | None = None  # set by the signal handler and the lease's thread

    def run(self, command: list[str]) -> int:
        # First, so that the anchor has neither the lease nor the FIFO open.
        self._anchor = _fork_anchor()
        stop = os.open(self._stop_path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        # A writer of our own: without one, every requester that closes would leave us a spinning end-of-file.
        keep_open = os.open(self._stop_path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_read, False)
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        for number in _ENDING:
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # only to wake select()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
        lease = os.open(self._lease_path, os.O_RDWR | os.O_CLOEXEC)
        try:
            if not self._start(command, lease):
                return 127
            threading.Thread(target=self._await_lease, args=(lease, wake_write), daemon=True).start()
            self._supervise(stop, wake_read)
        finally:
            self._clear()
            os.close(keep_open)
        return 0

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._notice = f"its guard got {signal.Signals(number).name}"

    def _start(self, command: list[str], lease: int) -> bool:
        """Start the engine, from the main thread and before there is another one.

        Forking beside a thread is undefined ground, and PR_SET_PDEATHSIG fires when the forking THREAD ends.
        """
        if _has_no_owner(lease):
            self._write_state("exited", returncode=127, reason="its owner ended before it was started")
            return False
        prepare = _linux_child_setup()
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, process_group=self._anchor, preexec_fn=prepare
            )
        except (OSError, subprocess.SubprocessError) as error:
            with contextlib.suppress(OSError):  # the log is on a full disk
                sys.stderr.write(f"[multiitem guard] cannot start {command[0]!r}: {error}\n")
            self._write_state("exited", returncode=127, reason=f"it could not be started: {error}")
            return False
        self._engine = process.pid
        process.returncode = 0  # reaped by _reap() alone; keeps Popen from polling a pid that is not its own
        self._write_state("running")
        return True

    def _await_lease(self, lease: int, wake: int) -> None:
        fcntl.flock(lease, fcntl.LOCK_SH)  # blocks as long as the owner lives
        fcntl.flock(lease, fcntl.LOCK_UN)
        self._notice = "its owner ended"
        os.write(wake, b"\0")

    def _supervise(self, stop: int, wake: int) -> None:
        """Return when the engine has ended or must be killed without further ado."""
        while not self._reap():
            if self._kill_at is not None and time.monotonic() >= self._kill_at:
                return
            timeout = None if self._kill_at is None else max(0.0, self._kill_at - time.monotonic())
            readable, _, _ = select.select([stop, wake], [], [], timeout)
            if wake in readable:
                os.read(wake, 4096)
            requests = os.read(stop, 4096) if stop in readable else b""
            if _KILL in requests:
                self._ask("stopped on request", grace=0.0)
            elif _TERMINATE in requests:
                self._ask("stopped on request")
            if self._notice is not None:
                self._ask(self._notice)

    def _ask(self, reason: str, grace: float | None = None) -> None:
        """SIGTERM to the engine's group, once; later calls can only shorten the grace."""
        kill_at = time.monotonic() + (self._grace if grace is None else grace)
        if self._kill_at is not None:
            self._kill_at = min(self._kill_at, kill_at)
            return
        self._kill_at = kill_at
        self._reason = reason
        os.killpg(self._anchor, signal.SIGTERM)
        if os.getpgid(self._engine) != self._anchor:
            os.kill(self._engine, signal.SIGTERM)  # it has made itself a group of its own

    def _reap(self) -> bool:
        """Collect ended children except the anchor; True once the engine is among them."""
        for pid in self._children():
            reaped, status = os.waitpid(pid, os.WNOHANG)
            if reaped and reaped == self._engine:
                self._reaped = True
                self._write_state("exited", returncode=os.waitstatus_to_exitcode(status), reason=self._reason)
        return self._reaped

    def _children(self) -> set[int]:
        """Own children, running or not yet reaped, except the anchor: the engine and its orphans (Linux)."""
        children = set() if self._reaped or not self._engine else {self._engine}
        return (children | _listed_children()) - {self._anchor}

    def _clear(self) -> None:
        """SIGKILL whatever is left and return when nothing is. Un-reaped children's ids cannot be reused."""
        while True:
            with contextlib.suppress(PermissionError):  # macOS, when only zombies are left
                os.killpg(self._anchor, signal.SIGKILL)
            for pid in self._children():
                os.kill(pid, signal.SIGKILL)
            self._reap()
            if not self._children():
                break
            time.sleep(_REAP_PAUSE)
        os.waitpid(self._anchor, 0)
        # Without a subreaper, others' children in the group are reaped elsewhere. Signal 0 harms nobody.
        patience = time.monotonic() + _GROUP_PATIENCE
        while time.monotonic() < patience:
            try:
                os.killpg(self._anchor, 0)
            except (ProcessLookupError, PermissionError):
                return
            time.sleep(_REAP_PAUSE)

    def _write_state(self, status: str, *, returncode: int | None = None, reason: str | None = None) -> None:
        state = {
            "status": status,
            "guard_pid": os.getpid(),
            "engine_pid": self._engine or None,
            "returncode": returncode,
            "reason": reason,
        }
        with contextlib.suppress(OSError):  # a full disk, a removed directory: the engine is guarded all the same
            write_json(self._state_path, state)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a file that nobody sees half written. Raises OSError, and leaves nothing of it then."""
    draft = path.with_suffix(".draft")
    try:
        draft.write_text(json.dumps(content), encoding="utf-8")
        draft.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def under_watch(run: Callable[[], int], watches: int = _WATCHES) -> int:
    """Run in a child of ``watches`` processes, each the child of the one before; gives the exit code in all of them.

    The signals in ``_ENDING`` are blocked where ``run`` begins.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    if not watches or sys.platform != "linux":
        return run()
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    parent = os.getpid()
    child = os.fork()
    if not child:
        os.setpgid(0, 0)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it died between fork and prctl
            os.kill(os.getpid(), signal.SIGTERM)
        return under_watch(run, watches - 1)
    for number in _ENDING:
        signal.signal(number, lambda number, _frame: os.kill(child, number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)  # not reaped: a signal that is passed on reaches nobody else
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)
    _, status = os.waitpid(child, 0)
    _end_children()
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _end_children() -> None:
    """SIGKILL every child, and those that become children when their parents end, until there is none."""
    while True:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        for pid in _listed_children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_REAP_PAUSE)


def _listed_children() -> set[int]:
    """This process's children as the kernel lists them (Linux), running or not yet reaped."""
    children: set[int] = set()
    for listing in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):  # that thread has just ended
            children.update(int(pid) for pid in listing.read_text().split())
    return children


def _fork_anchor() -> int:
    """Fork the leader of the engine's group: it kills that group, itself included, when the guard is gone.

    The signals in ``_ENDING`` are blocked on return (the caller unblocks them) and stay blocked in the
    anchor: those sent to its group are meant for the engine.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    read, write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(read)  # `write` stays open, and only here, until this process ends
        os.setpgid(pid, pid)  # in both processes: whoever comes first
        return pid
    try:
        os.setpgid(0, 0)
        os.close(write)
        os.read(read, 1)
        os.killpg(os.getpid(), signal.SIGKILL)
    finally:
        os._exit(1)


def _has_no_owner(lease: int) -> bool:
    try:
        fcntl.flock(lease, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(lease, fcntl.LOCK_UN)
    return True


def _linux_child_setup() -> Callable[[], None] | None:
    """Make this process a subreaper; return what the engine does before exec, to die with its guard."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    guard = os.getpid()

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != guard:  # the guard died between fork and prctl: its death signal never comes
            os._exit(127)

    return prepare


if __name__ == "__main__":
    if os.getsid(0) != os.getpid():
        os.setsid()  # away from the terminal: Ctrl-C reaches the engine through its owner only
    guard = Guard(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
    sys.exit(under_watch(lambda: guard.run(sys.argv[4:])))
