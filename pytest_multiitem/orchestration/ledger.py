"""The ledger on disk: written before anything is created, by one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Self

import psutil

from pytest_multiitem.errors import MultiItemError, StorageError, UsageError
from pytest_multiitem.machines.stop import Stopped
from pytest_multiitem.orchestration.records import (
    SCHEMA,
    Driver,
    Ledger,
    MachineRecord,
    Plan,
    SideName,
    Step,
    StepRecord,
)
from pytest_multiitem.results.store import read_record, write_record
from pytest_multiitem.storage import writing

LEDGER = "ledger.json"
_LOCK = ".lock"
_ADVICE = "name the directory of an orchestration with --artifact-subdir"
_ORPHANS = 10.0  # seconds that commands of a killed run have to end once they are asked to


def now() -> datetime:
    """The time."""
    return datetime.now(UTC)


def new_ledger(plan: Plan) -> Ledger:
    """The ledger of a run that has done nothing yet."""
    return Ledger(mark=secrets.token_hex(8), created_utc=now().isoformat(), plan=plan)


def read_ledger(directory: Path) -> Ledger:
    """A run's ledger. Raises UsageError."""
    return read_record(directory / LEDGER, Ledger, SCHEMA, _ADVICE)[0]


class LedgerFile:
    """A ledger that this process alone may change; every change is on disk before the call returns. Thread-safe.

    ``unwritten``: why a change is not on disk. That keeps nothing from being created but what was not written down
    before, and never keeps anything from being given back."""

    def __init__(self, directory: Path, ledger: Ledger | None = None) -> None:
        """``ledger``: of a new run; else the one that is there. Raises UsageError, also where another process works
        on it, and StorageError."""
        self.directory = directory
        self.unwritten: StorageError | None = None
        self._guard = threading.RLock()
        with writing(directory):
            directory.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._take_over(directory)
            if ledger is not None and (directory / LEDGER).exists():
                raise UsageError(
                    f"{directory} holds an orchestration already; go on with --resume, or choose another "
                    "--artifact-subdir"
                )
            self.ledger = ledger or read_ledger(directory)
            own = psutil.Process()
            self.ledger.driver = Driver(pid=own.pid, start_time=own.create_time())
            self.save()
        except BaseException:
            os.close(self._lock)
            raise

    @property
    def lock(self) -> int:
        """The lock's descriptor, for commands to inherit: whoever holds it works on this run."""
        return self._lock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(MultiItemError):
            self.ledger.driver = None
            self.save()
        os.close(self._lock)

    def save(self) -> None:
        """Write it, and see that it is on the disk. Raises StorageError."""
        with self._guard:
            path = self.directory / LEDGER
            write_record(path, self.ledger)
            for each in (path, self.directory):
                handle = os.open(each, os.O_RDONLY)
                with contextlib.suppress(OSError):  # a file system that cannot
                    os.fsync(handle)
                os.close(handle)

    @contextmanager
    def changing(self) -> Iterator[Ledger]:
        """Change it; it is written at the end, or `unwritten`."""
        with self._guard:
            yield self.ledger
            try:
                self.save()
            except StorageError as error:
                self.unwritten = error

    def intend(self, machine: MachineRecord) -> None:
        """Write down that a machine is about to be asked for. Raises StorageError: it must not be asked for then."""
        with self._guard:
            self.ledger.machines.append(machine)
            try:
                self.save()
            except StorageError:
                self.ledger.machines.remove(machine)
                raise

    @contextmanager
    def step(self, step: Step, side: SideName | None = None) -> Iterator[StepRecord]:
        """A step, with how it ended."""
        record = StepRecord(step=step, side=side, began_utc=now().isoformat())
        with self.changing() as ledger:
            ledger.steps.append(record)
        try:
            yield record
        except BaseException as error:
            self._end(record, "stopped" if isinstance(error, Stopped) else "failed", str(error))
            raise
        self._end(record, "done" if record.state == "begun" else record.state, record.reason)

    def _end(
        self, record: StepRecord, state: Literal["begun", "done", "failed", "stopped", "skipped"], reason: str | None
    ) -> None:
        with self.changing():
            record.state, record.reason, record.ended_utc = state, reason, now().isoformat()

    def _take_over(self, directory: Path) -> None:
        """Get the lock. Commands of a killed run may hold it still: what they were about to do has to be over before
        anybody looks for what they did."""
        if self._locked():
            return
        driver = read_ledger(directory).driver if (directory / LEDGER).exists() else None
        if driver is None or _lives(driver):
            who = f"process {driver.pid}" if driver else "another process"
            raise UsageError(f"{who} is at work on {directory}; end it first, with Ctrl-C where it runs, or a SIGTERM")
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in _holders(directory / _LOCK):
                with contextlib.suppress(psutil.Error):
                    process.send_signal(number)
            end = time.monotonic() + _ORPHANS
            while time.monotonic() < end:
                if self._locked():
                    return
                time.sleep(0.05)
        raise UsageError(f"commands of an earlier run hold {directory / _LOCK} and do not end; end them first")

    def _locked(self) -> bool:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _lives(driver: Driver) -> bool:
    try:
        process = psutil.Process(driver.pid)
        same = abs(process.create_time() - driver.start_time) < 1.0
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _holders(lock: Path) -> list[psutil.Process]:
    """Processes of this user that hold the lock, but this one."""
    target = lock.resolve()
    found = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        with contextlib.suppress(psutil.Error, OSError):
            if any(Path(each.path) == target for each in process.open_files()):
                found.append(process)
    return found
