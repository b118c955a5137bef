"""A whole run: both sides at once, their machines given back however it ends, then one comparison and one report."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from pytest_multiitem.comparison import files, workload
from pytest_multiitem.comparison.own_requests import canonical_of
from pytest_multiitem.comparison.records import Comparison
from pytest_multiitem.errors import MultiItemError, StorageError
from pytest_multiitem.inputs import read_bytes
from pytest_multiitem.machines.problem import Kind, MachineError
from pytest_multiitem.machines.stop import Stop, Stopped
from pytest_multiitem.orchestration import decide, release
from pytest_multiitem.orchestration.ledger import LedgerFile
from pytest_multiitem.orchestration.limits import Limits, cost_lines
from pytest_multiitem.orchestration.providers import (
    key_of,
    provider_of,
    public_keys,
    remove_keys,
    ssh_config,
    ssh_config_text,
)
from pytest_multiitem.orchestration.records import SideName, Step
from pytest_multiitem.orchestration.remote import WORKLOAD
from pytest_multiitem.orchestration.report import write_report
from pytest_multiitem.orchestration.sides import SideRun, needs
from pytest_multiitem.orchestration.wheel import write_wheel
from pytest_multiitem.orchestration.work import Work
from pytest_multiitem.results.store import write_atomically
from pytest_multiitem.settings.settings import Settings
from pytest_multiitem.storage import writing
from pytest_multiitem.traffic.lines import read_traffic

_IMPATIENT = 0.1  # minutes: connections that are lost, while what was measured is fetched after a failure


@dataclass
class Result:
    """What came of a run. ``blockers``: why sides are missing, by side. ``failure``: what ended the run before its end,
    or went wrong in comparing. ``left``: names of machines that may still be there, and should not."""

    comparison: Comparison | None = None
    blockers: dict[SideName, str] = field(default_factory=dict)
    failure: str | None = None
    left: list[str] = field(default_factory=list)


class Orchestration:
    """``say``: a line of progress."""

    def __init__(self, file: LedgerFile, say: Callable[[str], None]) -> None:
        self._file = file
        self._limits = Limits(file.ledger)
        self.stop = Stop(self._limits.exceeded)
        self._work = Work(file, self.stop, say)
        #: Of what has to be done however the run ends: nothing stops it.
        self._last = Work(file, Stop(), say)
        self._result = Result()
        self._guard = threading.Lock()

    def run(self) -> Result:
        """All steps. Failures are in the result."""
        sides: list[SideRun] = []
        try:
            self._prepare()
            wheel = self._wheel()
            sides = [SideRun(self._work, side, wheel) for side in self._work.plan.sides]
            self._measure(sides)
        except MultiItemError as error:
            self._fails(str(error))
        finally:
            self._give_back()
        self._compare()
        return self._end()

    def tear_down(self) -> Result:
        """Give back what an earlier run has left; where it was killed, compare what it had brought here until then."""
        self._give_back()
        if self._file.ledger.outcome is not None:
            self._report()
            return self._result
        self._fails("the run was killed")
        self._compare()
        return self._end()

    def _prepare(self) -> None:
        plan, directory = self._work.plan, self._work.directory
        providers = {side.provider for side in plan.sides}
        for client in (
            "rsync",
            *(["gcloud"] if "gcloud" in providers else []),
            *(["ssh"] if providers != {"local"} else []),
        ):
            needs(client)
        if not (directory / WORKLOAD).exists():
            _write_workload(self._work)
        if "gcloud" in providers:
            _make_key(self._work)

    def _wheel(self) -> Path | None:
        plan = self._work.plan
        if not any(side.copies_wheel for side in plan.sides):
            return None
        return Path(plan.wheel) if plan.wheel else write_wheel(self._work.directory)

    def _measure(self, sides: list[SideRun]) -> None:
        left = [side for side in sides if not side.is_measured]
        left = self._each(left, SideRun.preflight)
        left = self._each(left, SideRun.create)
        self._each(left, self._from_set_up_to_give_back)
        self.stop.check()

    def _from_set_up_to_give_back(self, side: SideRun) -> None:
        try:
            side.set_up()
            side.run()
            side.collect()
        except MultiItemError as error:
            if not self._keeps_machines():
                side.salvage(Work(self._file, Stop(), self._work.say, patience=_IMPATIENT), error)
            raise
        # What waits costs money: a machine goes as soon as its files are here, whatever the other side does.
        self._give_back(side.side)

    def _each(self, sides: list[SideRun], steps: Callable[[SideRun], None]) -> list[SideRun]:
        """Take all sides through some steps at the same time; gives those that came through. Where one fails, the
        others are stopped, unless a partial result is allowed."""
        self.stop.check()
        with ThreadPoolExecutor(max_workers=max(1, len(sides))) as pool:
            passed = list(pool.map(lambda side: self._passes(side, steps), sides))
        self.stop.check()
        return [side for side, ok in zip(sides, passed, strict=True) if ok]

    def _passes(self, side: SideRun, steps: Callable[[SideRun], None]) -> bool:
        try:
            steps(side)
        except Stopped as error:
            with self._guard:
                self._result.blockers.setdefault(side.side, f"stopped: {error}")
        except MultiItemError as error:
            self._work.say(f"{side.side}: {error}")
            with self._guard:
                self._result.blockers[side.side] = str(error)
            if not self._work.plan.allow_partial:
                self.stop.ask(str(error))
        except BaseException as error:
            self.stop.ask(f"an error of the program: {error!r}")
            raise
        else:
            return True
        return False

    def _fails(self, reason: str) -> None:
        """The run ends before its end; where all is here already, nothing is missing for that."""
        missing = [s.side for s in self._work.plan.sides if not self._file.ledger.done(Step.COLLECT, s.side)]
        with self._guard:
            if missing:
                self._result.failure = self._result.failure or reason
            for side in missing:
                self._result.blockers.setdefault(side, reason)

    def _keeps_machines(self) -> bool:
        return not self._work.plan.teardown_at_end

    def _give_back(self, only: SideName | None = None) -> None:
        """Every machine that may still be there, unless they are to be kept."""
        for record in list(self._file.ledger.machines):
            if not record.is_left or (only is not None and record.side != only):
                continue
            if self._keeps_machines():
                continue
            side = next(each for each in self._work.plan.sides if each.side == record.side)
            release.tear_down(self._last, provider_of(self._work.plan, side, self._work.directory), record)

    def _compare(self) -> None:
        try:
            with self._file.step(Step.COMPARE) as step:
                self._last.begins(Step.COMPARE, None, "what was measured")
                notes = cost_lines(self._file.ledger)
                self._result.comparison = decide.compare_kept(self._work.directory, self._result.blockers, notes)
                if self._result.comparison is None:
                    step.state, step.reason = "skipped", "nothing was measured"
        except MultiItemError as error:
            self._result.failure = self._result.failure or str(error)

    def _end(self) -> Result:
        result = self._result
        with self._file.changing() as ledger:
            ledger.outcome = decide.in_short(result.comparison, result.blockers, result.failure)
        if self._file.unwritten is not None:
            result.failure = result.failure or str(self._file.unwritten)
        self._report()
        return result

    def _report(self) -> None:
        ledger = self._file.ledger
        self._result.left = [] if self._keeps_machines() else [record.name for record in ledger.left()]
        if not ledger.left():
            remove_keys(self._work.directory)
        try:
            write_report(self._work.directory, ledger, cost_lines(ledger))
        except StorageError as error:
            self._result.failure = self._result.failure or str(error)


def _write_workload(work: Work) -> None:
    """The user's own workload, a canonical one byte by byte, or the canonical one of the plan's shape."""
    shape, path = work.plan.shape, work.directory / WORKLOAD
    settings = Settings(
        model=shape.model,
        bench_query_tokens=shape.query_tokens,
        bench_items=shape.num_items,
        item_tokens=shape.item_tokens,
        labels=tuple(int(label) for label in shape.labels.split(",")),
        delimiter=shape.delimiter,
    )
    if shape.workload is None:
        files.write(path, workload.of_run(settings))
        return
    traffic = read_traffic(Path(shape.workload))
    if traffic.is_canonical and shape.workload_sample is None:
        workload.read(Path(shape.workload))
        write_atomically(path, read_bytes(Path(shape.workload)))
        return
    own = canonical_of(
        replace(
            settings,
            workload=Path(shape.workload),
            workload_sample=shape.workload_sample,
            tokenizer=shape.tokenizer,
            origins={"labels": "--labels" if shape.labels_given else "default"},
        )
    )
    assert own is not None  # there is a workload
    files.write(path, own)


def _make_key(work: Work) -> None:
    """A key pair of this run alone, unless the user names one."""
    key, keys = key_of(work.plan, work.directory), public_keys(work.plan, work.directory)
    with writing(keys):
        keys.parent.mkdir(mode=0o700, exist_ok=True)
    if not key.exists():
        needs("ssh-keygen")
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "multiitem", "-f", str(key)]
        made = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if made.returncode:
            raise MachineError(Kind.OTHER, "ssh-keygen", made.stderr or made.stdout)
    public = key.with_name(f"{key.name}.pub")
    write_atomically(ssh_config(work.directory), ssh_config_text(work.plan, work.directory).encode())
    write_atomically(keys, f"{work.plan.user}:{public.read_text(encoding='utf-8').strip()}\n".encode())
