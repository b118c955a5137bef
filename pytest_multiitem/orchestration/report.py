"""``orchestration.md``: what was done on which machine, what it cost, what is missing and why, and what is left."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pytest_multiitem.orchestration.artefacts import kept
from pytest_multiitem.orchestration.records import BACKEND_OF, Ledger
from pytest_multiitem.reports.blocks import bullets, markdown, markdown_table, paragraphs, section, strong
from pytest_multiitem.results.store import write_atomically

REPORT = "orchestration.md"


def write_report(directory: Path, ledger: Ledger, costs: Sequence[str]) -> Path:
    """Write it. Raises StorageError."""
    path = directory / REPORT
    write_atomically(path, f"{report(directory, ledger, costs)}\n".encode())
    return path


def report(directory: Path, ledger: Ledger, costs: Sequence[str]) -> str:
    """The report, from the ledger alone and from what lies beside it."""
    here = [path.name for path in kept(directory, list(BACKEND_OF.values()))]
    failed = [step for step in ledger.steps if step.state in ("failed", "stopped")]
    left = [f"{machine.name} in {machine.zone}: {machine.problem or machine.state}" for machine in ledger.left()]
    return paragraphs(
        markdown("# Comparison on rented machines"),
        strong(ledger.outcome or "not finished"),
        section(
            "Steps",
            markdown_table(
                ["step", "side", "state", "began", "ended", "reason"],
                [
                    [step.step.value, step.side or "all", step.state, step.began_utc, step.ended_utc or "-",
                     step.reason or "-"]
                    for step in ledger.steps
                ],
            ),
        ),
        section(
            "Machines",
            markdown_table(
                ["side", "name", "zone", "rented", "state", "asked for", "deleted"],
                [
                    [m.side, m.name, m.zone or "-", "yes" if m.rented else "no", m.state, m.intended_utc,
                     m.deleted_utc or "-"]
                    for m in ledger.machines
                ],
            ),
        ),
        section("Cost", bullets(costs)),
        section("Missing", bullets(f"{step.side or 'all'}: {step.step.value}: {step.reason}" for step in failed)),
        section("Measured", bullets(here) if here else "Nothing."),
        section("Left", bullets(left) if left else "No machine that was rented is left."),
    )  # fmt: skip
