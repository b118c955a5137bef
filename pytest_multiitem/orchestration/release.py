"""Giving machines back: what was created is deleted, and seen to be gone; what was lent is left as it was found."""

from __future__ import annotations

import shlex
import time
from datetime import datetime
from typing import Literal

from pytest_multiitem.errors import MultiItemError
from pytest_multiitem.machines.job import Job
from pytest_multiitem.machines.problem import Kind, MachineError
from pytest_multiitem.machines.provider import Provider, Seen, State
from pytest_multiitem.orchestration.ledger import now
from pytest_multiitem.orchestration.providers import host_of
from pytest_multiitem.orchestration.records import MachineRecord, Step
from pytest_multiitem.orchestration.remote import directory_of
from pytest_multiitem.orchestration.work import ANSWER, Work

#: The label that says whose a machine is.
MARK = "multiitem-run"
_FINAL = (Kind.PERMISSION, Kind.LOGIN, Kind.CLIENT)
_END_JOB = 20  # seconds


def tear_down(work: Work, provider: Provider, record: MachineRecord) -> bool:
    """Give one machine back; says whether it is gone. What is against it stands in its record and is said."""
    with work.file.step(Step.TEAR_DOWN, record.side) as step:
        work.begins(Step.TEAR_DOWN, record.side, f"{'deleting' if record.rented else 'leaving'} {record.name}")
        try:
            words = _delete(work, provider, record) if record.rented else _leave(work, provider, record)
        except MultiItemError as error:
            with work.file.changing():
                step.state, step.reason, record.problem = "failed", str(error), str(error)
            by_hand = shlex.join(provider.delete()) if record.rented else ""
            work.say(f"{record.side}: tear down: {error}" + (f"; by hand: {by_hand}" if by_hand else ""))
            return False
        work.say(f"{record.side}: tear down: {words}")
        return True


def _leave(work: Work, provider: Provider, record: MachineRecord) -> str:
    """End our job on a machine that is not ours, and remove our directory once its files are here."""
    ledger = work.file.ledger
    host, directory = host_of(provider, ledger, record), directory_of(ledger)
    if record.attempt:
        job = Job(directory, record.attempt)
        work.on(host, host.shell(job.end(_END_JOB)), timeout=_END_JOB + ANSWER)
    collected = ledger.done(Step.COLLECT, record.side)
    if collected:
        work.on(host, host.shell(f"rm -rf {directory}"), timeout=ANSWER)
    with work.file.changing():
        record.state = "returned"
    return f"{record.name} is as it was" + ("" if collected else f", but for ~/{directory}, with what was measured")


def _delete(work: Work, provider: Provider, record: MachineRecord) -> str:
    """Delete a machine, until the service says that it is not there."""
    plan = work.plan
    end = time.monotonic() + 60 * max(plan.patience_minutes, plan.boot_minutes)
    met = record.state in ("created", "ready")
    while True:
        late, problem = time.monotonic() > end, MachineError(Kind.TIME, record.side, f"{record.name} is still there")
        try:
            seen = look(work, provider)
            if seen.state is not State.ABSENT and seen.labels.get(MARK) != work.file.ledger.mark:
                return _settled(work, record, "never", f"{record.name} is somebody else's, and is left alone")
            if seen.state is State.ABSENT and met:
                return _settled(work, record, "deleted", f"{record.name} is deleted")
            if seen.state is State.ABSENT and _is_settled(record, plan.poll_seconds):
                return _settled(work, record, "never", f"{record.name} was not created")
            if seen.state is not State.ABSENT:
                met = True
                if seen.state is not State.LEAVING and not late:
                    _ask_to_delete(work, provider)
                    continue
        except MachineError as error:
            problem = error
            work.say(f"{record.side}: tear down: {error}")
        if late or problem.kind in _FINAL:  # late: what was asked for last was looked at once more
            raise problem
        work.stop.wait(plan.poll_seconds)


def look(work: Work, provider: Provider) -> Seen:
    """How a machine is; ABSENT where there is none of its name."""
    try:
        return provider.seen(work.ask(provider, provider.label, provider.describe()))
    except MachineError as error:
        if provider.is_absent(error):
            return Seen(State.ABSENT)
        raise


def _ask_to_delete(work: Work, provider: Provider) -> None:
    finished = work.command(provider.delete(), timeout=60 * work.plan.boot_minutes)
    if finished.status and not provider.is_absent(error := provider.error(provider.label, finished)):
        raise error


def _is_settled(record: MachineRecord, poll_seconds: float) -> bool:
    """Whether a request to create the machine, that a killed command may have left behind, would be seen by now."""
    age = now() - datetime.fromisoformat(record.intended_utc)
    return age.total_seconds() > 3 * poll_seconds


def _settled(work: Work, record: MachineRecord, state: Literal["deleted", "never"], words: str) -> str:
    with work.file.changing():
        record.state, record.deleted_utc, record.problem = state, now().isoformat(), None
    return words
