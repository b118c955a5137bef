"""What all steps of a run share: its ledger, who runs commands, when to stop, and how it is told."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_multiitem.machines.commands import Commands, Finished
from pytest_multiitem.machines.hosts import Host, LocalHost, remote_error
from pytest_multiitem.machines.problem import Kind, MachineError
from pytest_multiitem.machines.provider import Check, Provider
from pytest_multiitem.machines.stop import Stop
from pytest_multiitem.orchestration.ledger import LedgerFile
from pytest_multiitem.orchestration.records import Plan, SideName, Step

#: Seconds that a question to a service may take; the official client takes one or two.
ANSWER = 120.0
_TRIES = 3  # of a question that the service could not be reached for


@dataclass(frozen=True)
class Work:
    """``say``: a line of progress. ``patience``: minutes that a connection may be lost, where it is not the
    plan's."""

    file: LedgerFile
    stop: Stop
    say: Callable[[str], None]
    patience: float | None = None

    @property
    def plan(self) -> Plan:
        """What was asked for."""
        return self.file.ledger.plan

    @property
    def directory(self) -> Path:
        """Of the run, here."""
        return self.file.directory

    def begins(self, step: Step, side: SideName | None, words: str) -> None:
        """Say that a step begins."""
        self.say(f"{side or 'all'}: {step.value}: {words}")

    def command(self, argv: Sequence[str], *, timeout: float, inherit: bool = True) -> Finished:
        """Run a command line. ``inherit``: whether it counts as at work on this run."""
        return Commands(self.stop, (self.file.lock,) if inherit else ()).run(argv, timeout=timeout)

    def ask(self, provider: Provider, about: str, argv: Sequence[str], *, timeout: float = ANSWER) -> Any:
        """A service's decoded answer to a command that only asks; asked again where the service was not reached.
        Raises MachineError in its own words."""
        for tried in range(1, _TRIES + 1):
            finished = self.command(argv, timeout=timeout)
            if finished.status == 0:
                return _decoded(about, finished.out)
            error = provider.error(about, finished)
            if error.kind is not Kind.SERVICE or tried == _TRIES:
                raise error
            self.stop.wait(self.plan.poll_seconds)
        raise AssertionError("unreachable")

    def check(self, provider: Provider, check: Check) -> None:
        """Raises MachineError where the answer to a check is bad."""
        check.judge(self.ask(provider, check.about, check.argv))

    def on(
        self, host: Host, argv: Sequence[str], *, timeout: float, still_there: Callable[[], object] = lambda: None
    ) -> str:
        """What a command on a machine, or a copy, prints. Where the connection is lost it is tried again, as long as
        the plan's patience lasts and ``still_there`` raises nothing. Raises MachineError."""
        end = time.monotonic() + 60 * (self.plan.patience_minutes if self.patience is None else self.patience)
        while True:
            finished = self.command(argv, timeout=timeout, inherit=not isinstance(host, LocalHost))
            if finished.status == 0:
                return finished.out
            error = remote_error(host, finished)
            if error.kind is not Kind.CONNECTION or time.monotonic() > end:
                raise error
            still_there()
            self.stop.wait(min(self.plan.poll_seconds, max(0.0, end - time.monotonic())))


def _decoded(about: str, text: str) -> Any:
    try:
        return json.loads(text or "null")
    except (ValueError, RecursionError):
        raise MachineError(Kind.OTHER, about, f"the answer is no JSON: {text[:200]}") from None
