"""Machines that are there already: over ssh, or this very one. They are never created and never deleted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pytest_multiitem.errors import UsageError
from pytest_multiitem.machines.commands import Finished
from pytest_multiitem.machines.hosts import Host, remote_error
from pytest_multiitem.machines.problem import MachineError
from pytest_multiitem.machines.provider import Check, Seen, State


@dataclass(frozen=True)
class Existing:
    """A machine that somebody else looks after."""

    label: str
    reached_by: Host

    rents: ClassVar[bool] = False

    def checks(self) -> Sequence[Check]:
        """See `provider.Provider`: that it can be reached."""
        return [Check(f"{self.label}: it answers", tuple(self.describe()), lambda _: None)]

    def create(self, labels: dict[str, str], key: str) -> list[str]:
        """Never: there is nothing to create."""
        raise UsageError(f"{self.label} is not rented, so it is not created")

    def delete(self) -> list[str]:
        """Never."""
        raise UsageError(f"{self.label} is not rented, so it is not deleted")

    def describe(self) -> list[str]:
        """See `provider.Provider`."""
        return self.reached_by.shell("echo '{}'")

    def seen(self, answer: Any) -> Seen:
        """See `provider.Provider`."""
        return Seen(State.READY, "answers")

    def error(self, about: str, finished: Finished) -> MachineError:
        """See `provider.Provider`."""
        return remote_error(self.reached_by, finished)

    def is_absent(self, error: MachineError) -> bool:
        """Never: what does not answer may be there."""
        return False

    def host(self, address: str | None, alias: str) -> Host:
        """See `provider.Provider`."""
        return self.reached_by
