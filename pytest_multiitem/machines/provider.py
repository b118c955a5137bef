"""What every provider of machines offers: checks before anything is paid, command lines, how to read their answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from pytest_multiitem.machines.commands import Finished
from pytest_multiitem.machines.hosts import Host
from pytest_multiitem.machines.problem import MachineError


class State(StrEnum):
    """Where a machine is between not being there and not being there any more."""

    ABSENT = "absent"
    COMING = "coming"
    READY = "ready"
    LEAVING = "leaving"
    GONE = "gone"  # preempted, stopped or broken: it is still there, may still be paid for, and does nothing


@dataclass(frozen=True)
class Seen:
    """A machine as its service describes it. ``words``: the service's own for its state."""

    state: State
    words: str = ""
    address: str | None = None
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """One question before anything is created. ``judge``: of the decoded answer, raises MachineError for a bad one."""

    about: str
    argv: tuple[str, ...]
    judge: Callable[[Any], None]


class Provider(Protocol):
    """One machine of a kind, by its name."""

    @property
    def rents(self) -> bool:
        """Whether it can be created and deleted here."""

    @property
    def label(self) -> str:
        """What it is called in messages."""

    def checks(self) -> Sequence[Check]:
        """Questions to the service, the most decisive first."""

    def create(self, labels: dict[str, str], key: str) -> list[str]:
        """Creates it. ``labels``: who it belongs to. ``key``: a file with the public key that is let in."""

    def describe(self) -> list[str]:
        """Asks how it is."""

    def seen(self, answer: Any) -> Seen:
        """Reads the answer to `describe`."""

    def delete(self) -> list[str]:
        """Removes it."""

    def error(self, about: str, finished: Finished) -> MachineError:
        """What a command of this service failed with."""

    def is_absent(self, error: MachineError) -> bool:
        """Whether an error says that there is no such machine."""

    def host(self, address: str | None, alias: str) -> Host:
        """How it is reached. ``alias``: under which its key is known; an address may be another machine's next time."""
