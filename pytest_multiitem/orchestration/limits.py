"""What a run costs, and how long it may take."""

from __future__ import annotations

import time

from pytest_multiitem.orchestration.ledger import now
from pytest_multiitem.orchestration.records import Ledger, MachineRecord


class Limits:
    """From now on: minutes count from here, money from the first machine on."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._begun = time.monotonic()

    def exceeded(self) -> str | None:
        """Which limit of the plan is reached; None where none is."""
        plan = self._ledger.plan
        if plan.max_minutes is not None and (minutes := (time.monotonic() - self._begun) / 60) >= plan.max_minutes:
            return f"--max-minutes {plan.max_minutes:g} is reached ({minutes:.1f} minutes)"
        if plan.max_usd is not None and (cost := self._ledger.cost(now()) or 0.0) >= plan.max_usd:
            return f"--max-usd {plan.max_usd:g} is reached ({cost:.2f} USD so far)"
        return None


def cost_lines(ledger: Ledger) -> list[str]:
    """A line a machine, and the sum."""
    rented = [machine for machine in ledger.machines if machine.rented and machine.state != "never"]
    lines = [_of(machine) for machine in rented]
    total = ledger.cost(now())
    if not rented:
        return ["no machine was rented: 0.00 USD"]
    return [*lines, "cost of the run: " + ("unknown, a machine has no price" if total is None else f"{total:.2f} USD")]


def _of(machine: MachineRecord) -> str:
    hours = machine.hours(now())
    price = "no price given" if machine.usd_per_hour is None else (
        f"{machine.usd_per_hour:g} USD an hour: {hours * machine.usd_per_hour:.2f} USD"
    )  # fmt: skip
    still = " so far" if machine.is_left else ""
    return f"{machine.side}: {machine.name} in {machine.zone or '-'}, {60 * hours:.1f} minutes{still}, {price}"
