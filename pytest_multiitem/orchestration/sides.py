"""One side of a run, step by step: from whether its machine can be had to the files that come back from it."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from pytest_multiitem.errors import MultiItemError
from pytest_multiitem.machines.hosts import Host
from pytest_multiitem.machines.job import Job, Look, parse_look
from pytest_multiitem.machines.problem import Kind, MachineError
from pytest_multiitem.machines.provider import Provider, Seen, State
from pytest_multiitem.orchestration import artefacts, release
from pytest_multiitem.orchestration.ledger import now
from pytest_multiitem.orchestration.providers import host_of, provider_of, public_keys
from pytest_multiitem.orchestration.records import BACKEND_OF, MachineRecord, SideName, SidePlan, Step
from pytest_multiitem.orchestration.remote import (
    MEASURED,
    MODEL,
    WORKLOAD,
    copying_is_needed,
    directory_of,
    in_directory,
    measuring_command,
    set_up_commands,
)
from pytest_multiitem.orchestration.work import ANSWER, Work
from pytest_multiitem.storage import writing

_SET_UP = 3600.0  # seconds that one command of the set-up may take, or one copy
_BEGIN = 60.0  # seconds from asking for a job until its pid is known
_END_JOB = 20  # seconds
#: Files are read and judged by numpy, scipy and jsonschema, which are imported there for the first time: in one thread.
_ONE_AT_A_TIME = threading.Lock()


class SideRun:
    """The steps of one side. Each can be called again: what is done already is not done twice.

    ``wheel``: the product's, to be copied. Every step raises MachineError, and Stopped.
    """

    def __init__(self, work: Work, side: SidePlan, wheel: Path | None) -> None:
        self.work, self.plan, self._wheel = work, side, wheel
        self.side: SideName = side.side
        self.provider: Provider = provider_of(work.plan, side, work.directory)
        self._directory = directory_of(work.file.ledger)
        self._copied_model = bool(
            copying_is_needed(side) and work.plan.shape.model and Path(work.plan.shape.model).is_dir()
        )

    @property
    def is_measured(self) -> bool:
        """Whether everything of this side is here already."""
        return self.work.file.ledger.done(Step.COLLECT, self.side)

    @property
    def record(self) -> MachineRecord:
        """The side's machine."""
        machine = self.work.file.ledger.machine(self.side)
        if machine is None:
            raise MachineError(Kind.GONE, self.side, "there is no machine")
        return machine

    def preflight(self) -> None:
        """Whether the machine can be had: before anything is created or paid for."""
        with self.work.file.step(Step.PREFLIGHT, self.side):
            self.work.begins(Step.PREFLIGHT, self.side, f"{self.plan.name} by {self.plan.provider}")
            if self.provider.rents and self.work.plan.create_resources:
                if self.work.file.ledger.machine(self.side) is None:
                    self._check_all()
                    self._check_name()
            elif self.provider.rents:
                self._there()
            else:
                self._check_all()

    def create(self) -> None:
        """Have the machine, and wait until it lets us in."""
        with self.work.file.step(Step.CREATE, self.side):
            rents = self.provider.rents and self.work.plan.create_resources
            self.work.begins(Step.CREATE, self.side, self.plan.name if rents else f"taking {self.plan.name} as it is")
            record = self.work.file.ledger.machine(self.side)
            if record is not None and not self._is_usable(record):
                if not release.tear_down(self.work, self.provider, record):
                    raise MachineError(Kind.GONE, self.side, f"{record.name} is of no use, and cannot be removed")
                record = None
            if record is None:
                record = self._new(rented=rents)
                if rents:
                    self._ask_for(record)
            self._until_ready(record)
            self.work.say(f"{self.side}: create: {record.name} lets us in ({record.address or self.plan.provider})")

    def set_up(self) -> None:
        """Bring product, engine, model and workload onto the machine."""
        with self.work.file.step(Step.SET_UP, self.side):
            record, host = self.record, self._host()
            self.work.begins(Step.SET_UP, self.side, f"{self._directory} on {record.name}")
            if record.set_up:
                return
            self._run(host, f"mkdir -p {self._directory}/{MEASURED}", timeout=ANSWER)
            wheel = ""
            if self._wheel is not None and self.plan.copies_wheel:
                self._copy(host, self._wheel, self._wheel.name)
                wheel = self._wheel.name
            self._copy(host, self.work.directory / WORKLOAD, WORKLOAD)
            if self._copied_model:
                self._run(host, in_directory(self._directory, f"mkdir -p {MODEL}"), timeout=ANSWER)
                self._copy(host, Path(self.work.plan.shape.model or ""), MODEL)
            said = ""
            for command in set_up_commands(self.plan, wheel):
                said = self._run(host, in_directory(self._directory, command), timeout=_SET_UP)
            with self.work.file.changing():
                record.set_up = True
            self.work.say(f"{self.side}: set up: {(said.splitlines() or ['done'])[-1]}")

    def run(self) -> None:
        """Measure on the machine, beside its server; a lost connection does not end it."""
        with self.work.file.step(Step.RUN, self.side):
            record, host = self.record, self._host()
            command = measuring_command(self.work.plan, self.plan, copied_model=self._copied_model)
            self.work.begins(Step.RUN, self.side, f"portable and best_native on {record.name}")
            looked = self._look(host, record, 0) if record.attempt else None
            if looked is not None and looked.state in ("running", "starting"):
                self.work.say(f"{self.side}: run: goes on, as it was found")
            elif looked is None or looked.state != "ended" or looked.status not in (0, 1):
                with self.work.file.changing():
                    record.attempt += 1
                self._run(host, Job(self._directory, record.attempt).start(command), timeout=ANSWER)
            self._follow(host, record)

    def collect(self) -> None:
        """Bring the measured files here, and look through them."""
        with self.work.file.step(Step.COLLECT, self.side):
            self.work.begins(Step.COLLECT, self.side, f"{self._directory}/{MEASURED} of {self.record.name}")
            found = self._fetch()
            if not found.is_whole:
                raise MachineError(Kind.ARTEFACT, self.side, "; ".join(found.problems) or "a matrix is missing")
            self.work.say(f"{self.side}: collect: {', '.join(path.name for path in found.matrices)}")

    def salvage(self, work: Work, error: MultiItemError) -> None:
        """After a failure or a stop: end the job, and keep what it has measured until then. ``work``: one that is not
        stopped, and whose patience is short."""
        record = work.file.ledger.machine(self.side)
        gone = isinstance(error, MachineError) and error.kind is Kind.GONE
        if record is None or not record.attempt or self.is_measured or gone:
            return
        host = host_of(self.provider, work.file.ledger, record)
        try:
            job = Job(self._directory, record.attempt)
            work.on(host, host.shell(job.end(_END_JOB)), timeout=_END_JOB + ANSWER)
            kept = SideRun(work, self.plan, None)._fetch(str(error)).matrices
        except MachineError as lost:
            work.say(f"{self.side}: nothing more could be fetched: {lost}")
            return
        if kept:
            work.say(f"{self.side}: kept what was measured: {', '.join(path.name for path in kept)}")

    def _check_all(self) -> None:
        for check in self.provider.checks():
            self.work.check(self.provider, check)

    def _check_name(self) -> None:
        seen = release.look(self.work, self.provider)
        if seen.state is not State.ABSENT:
            raise MachineError(Kind.EXISTS, self.side, f"there is a {self.plan.name} already ({seen.words})")

    def _there(self) -> Seen:
        seen = release.look(self.work, self.provider)
        if seen.state is not State.READY:
            words = "there is none" if seen.state is State.ABSENT else f"it is {seen.words}"
            raise MachineError(Kind.GONE, self.side, f"{self.plan.name} is not ready: {words}")
        return seen

    def _is_usable(self, record: MachineRecord) -> bool:
        """Whether the machine of an earlier try can be used further."""
        if not record.rented:
            return True
        seen = release.look(self.work, self.provider)
        return seen.state in (State.COMING, State.READY) and seen.labels.get(release.MARK) == self.work.file.ledger.mark

    def _new(self, *, rented: bool) -> MachineRecord:
        record = MachineRecord(
            side=self.side, name=self.plan.name, zone=self.plan.zone, rented=rented, intended_utc=now().isoformat(),
            usd_per_hour=self.plan.usd_per_hour,
        )  # fmt: skip
        self.work.file.intend(record)
        return record

    def _ask_for(self, record: MachineRecord) -> None:
        argv = self.provider.create(
            {release.MARK: self.work.file.ledger.mark}, str(public_keys(self.work.plan, self.work.directory))
        )
        finished = self.work.command(argv, timeout=60 * self.work.plan.boot_minutes)
        if finished.status:
            raise self.provider.error(self.side, finished)
        with self.work.file.changing():
            record.state = "created"

    def _until_ready(self, record: MachineRecord) -> None:
        """Created is not running, and running is not letting anybody in."""
        end = time.monotonic() + 60 * self.work.plan.boot_minutes
        while True:
            seen = self._seen_alive()
            if seen.state is State.READY:
                host = host_of(self.provider, self.work.file.ledger, record, seen.address)
                finished = self.work.command(host.shell("true"), timeout=ANSWER)
                if finished.status == 0:
                    break
            if time.monotonic() > end:
                waited = f"within {self.work.plan.boot_minutes:g} minutes"
                words = f"it is {seen.words} and did not let us in {waited}"
                raise MachineError(Kind.TIME, self.side, f"{record.name}: {words}")
            self.work.stop.wait(self.work.plan.poll_seconds)
        with self.work.file.changing():
            record.state, record.address = "ready", seen.address

    def _seen_alive(self) -> Seen:
        seen = release.look(self.work, self.provider)
        if seen.state not in (State.READY, State.COMING):
            raise MachineError(Kind.GONE, self.side, f"{self.plan.name} is {seen.words or 'not there any more'}")
        return seen

    def _host(self) -> Host:
        return host_of(self.provider, self.work.file.ledger, self.record)

    def _run(self, host: Host, command: str, *, timeout: float) -> str:
        return self.work.on(host, host.shell(command), timeout=timeout, still_there=self._still_there)

    def _copy(self, host: Host, source: Path, name: str) -> None:
        argv = host.push(source, f"{self._directory}/{name}")
        self.work.on(host, argv, timeout=_SET_UP, still_there=self._still_there)

    @property
    def _still_there(self) -> Callable[[], object]:
        """Asked where a connection is lost: a machine that is gone never answers again."""
        return self._seen_alive if self.provider.rents else lambda: None

    def _look(self, host: Host, record: MachineRecord, offset: int) -> Look:
        said = self._run(host, Job(self._directory, record.attempt).look(offset), timeout=ANSWER)
        try:
            return parse_look(said)
        except ValueError as error:
            raise MachineError(Kind.REMOTE, self.side, str(error)) from None

    def _follow(self, host: Host, record: MachineRecord) -> None:
        """Watch the job to its end, and say what it says."""
        offset, rest, last = 0, b"", "it said nothing"
        begun = time.monotonic()
        while True:
            looked = self._look(host, record, offset)
            offset += len(looked.log)
            *lines, rest = (rest + looked.log).split(b"\n")
            for line in filter(None, (line.decode(errors="replace").strip() for line in lines)):
                last = line
                self.work.say(f"{self.side}: {line}")
            if looked.log and looked.state != "running":
                continue  # there may be more
            if looked.state == "ended" and looked.status in (0, 1):
                return
            if looked.state == "ended":
                raise MachineError(Kind.REMOTE, self.side, f"measuring ended with exit status {looked.status}: {last}")
            if looked.state in ("none", "vanished"):
                raise MachineError(Kind.REMOTE, self.side, f"the job has vanished without an exit status: {last}")
            if looked.state == "starting" and time.monotonic() - begun > _BEGIN:
                raise MachineError(Kind.TIME, self.side, f"the job did not begin within {_BEGIN:g} s")
            self.work.stop.wait(self.work.plan.poll_seconds)

    def _fetch(self, unfinished: str | None = None) -> artefacts.Collected:
        """What was measured, as it is on the machine now, and its logs. ``unfinished``: why that is not all."""
        here = self.work.directory / "hosts" / self.side
        with writing(here):
            here.mkdir(parents=True, exist_ok=True)
        host = self._host()
        argv = host.pull(f"{self._directory}/{MEASURED}", here)
        self.work.on(host, argv, timeout=_SET_UP, still_there=self._still_there)
        with _ONE_AT_A_TIME:
            return artefacts.collect(here, BACKEND_OF[self.side], self.work.directory, unfinished)


def needs(name: str) -> None:
    """Raises MachineError where a client that is needed is not on PATH."""
    if shutil.which(name) is None:
        raise MachineError(Kind.CLIENT, name, "it is not on PATH")
