"""The power of the gates inside a pytest run: one test a healthy build, one test a fault and backend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import pytest

from pytest_multiitem.gates.gate import Gate
from pytest_multiitem.gates.power import FAULT_IS_KILLED, HEALTHY_PASSES
from pytest_multiitem.power.runner import Planned, plan
from pytest_multiitem.results.details import BuildRecord, Power
from pytest_multiitem.results.records import GateRecord, Verdict
from pytest_multiitem.session.current import session_of
from pytest_multiitem.session.gate_item import GateItem, suite
from pytest_multiitem.session.keys import SETTINGS

if TYPE_CHECKING:
    from pytest_multiitem.session.gate_check import GateCheck


def power_items(session: pytest.Session) -> list[GateItem]:
    """A test for every healthy build, and for every fault on every backend; weaker strengths go with their fault."""
    parent = suite(session, "multiitem-power")
    items = []
    for first, *_ in _grouped(plan(session.config.stash[SETTINGS])):
        gate = HEALTHY_PASSES if first.fault is None else FAULT_IS_KILLED
        label = f"{first.backend}-{first.label}".replace(", ", "-").replace(" ", "-")
        items.append(GateItem.make(parent, gate.name, _measure(session.config, gate, first), label=label))
    return items


def _grouped(planned: Sequence[Planned]) -> list[list[Planned]]:
    """Builds of one test: the one that something is expected of, and the weaker ones of the same fault."""
    found: list[list[Planned]] = [[each] for each in planned if each.expects]
    for each in planned:
        if not each.expects:
            next(g for g in found if g[0].backend == each.backend and type(g[0].fault) is type(each.fault)).append(each)
    return found


def _measure(config: pytest.Config, gate: Gate, first: Planned) -> Callable[[GateCheck], object]:
    def conclude(check: GateCheck) -> None:
        run = session_of(config).power_run()
        reason = run.matrix.missing.get(first.backend)
        if reason is not None:
            check.not_run(reason)
        planned = next(g for g in _grouped(run.plan) if (g[0].backend, g[0].label) == (first.backend, first.label))
        builds = [run.result(each) for each in planned]
        check.conclude(_record(gate, builds), evidence=[_line(build) for build in builds])

    return conclude


def _record(gate: Gate, builds: Sequence[BuildRecord]) -> GateRecord:
    first = builds[0]
    if first.fault is not None:
        reason = f"killed by {', '.join(first.killed_by)}" if first.killed_by else "no gate fails on it"
    else:
        wrong = [cell for cell in first.cells if cell.verdict is not Verdict.PASS]
        reason = "; ".join(f"{cell.gate} {cell.verdict.value}: {cell.reason}" for cell in wrong) or "every gate passes"
    return GateRecord(
        gate=gate.name,
        verdict=Verdict.PASS if first.as_expected else Verdict.FAIL,
        reason=f"{first.label} ({first.backend}): {reason}",
        relation=gate.relation,
        samples={"builds": len(builds), "gates": len(first.cells)},
        backend=first.backend,
        seconds=round(sum(build.seconds for build in builds), 3),
        details=Power(builds=list(builds)),
    )


def _line(build: BuildRecord) -> str:
    values = (f"{c.gate} {c.verdict.value}" + ("" if c.value is None else f" {c.value:.3g}") for c in build.cells)
    return f"{build.label}: {', '.join(values)}"
