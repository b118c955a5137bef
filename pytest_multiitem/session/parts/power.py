"""The power of the gates inside a pytest run: one test a healthy build, one test a fault and backend."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import pytest

from pytest_multiitem.gates.gate import Gate
from pytest_multiitem.gates.power import FAULT_IS_KILLED, HEALTHY_PASSES
from pytest_multiitem.power.plan import Planned, check_settings, plan
from pytest_multiitem.power.runner import PowerRun
from pytest_multiitem.reports.power import power_lines
from pytest_multiitem.results.details import BuildRecord, Power
from pytest_multiitem.results.records import GateRecord, Verdict
from pytest_multiitem.session.gate_check import GateCheck
from pytest_multiitem.session.gate_item import GateItem, Suite
from pytest_multiitem.session.part import Line, Part
from pytest_multiitem.session.session import session_of, shown_path
from pytest_multiitem.settings.settings import Settings


class PowerPart(Part):
    """``--power``: every build is measured in the background from the first test on, by servers of its own."""

    not_parallel = "--power measures time, and pytest-xdist runs other tests beside it; run without -n"

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        super().__init__(config, settings)
        self._run: PowerRun | None = None

    def check_settings(self) -> None:
        """Faults can be planted in the embedded engine alone."""
        check_settings(self.settings)

    def items(self, session: pytest.Session) -> Iterable[GateItem]:
        """A test for every healthy build, and for every fault on every backend, with the fault's weaker strengths."""
        parent = Suite.from_parent(session, name="multiitem-power")
        for first, *_ in _grouped(plan(self.settings)):
            gate = HEALTHY_PASSES if first.healthy else FAULT_IS_KILLED
            label = f"{first.backend}-{first.label}".replace(", ", "-").replace(" ", "-")
            measure = partial(self._conclude, gate, first)
            yield GateItem.from_parent(parent, gate=gate.name, measure=measure, label=label)

    def close(self) -> None:
        """Stop the servers, and write the kill matrix as it then is."""
        if self._run is not None:
            self._run.close(session_of(self.config).ledger.interrupted_by)

    def artefacts(self) -> Iterable[Path]:
        """The kill matrix, whose builds stand in the run's own records too."""
        return () if self._run is None else [self._run.path]

    def lines(self) -> Iterable[Line]:
        """What the kill matrix comes to, and where it is."""
        if self._run is not None:
            for text in ("", *power_lines(self._run.matrix)):
                yield text, {}
            yield f"kill matrix: {shown_path(self._run.path, self.config)}", {}

    def _conclude(self, gate: Gate, first: Planned, check: GateCheck) -> None:
        run = self._begun()
        reason = run.matrix.missing.get(first.backend)
        if reason is not None:
            check.not_run(reason)
        planned = next(g for g in _grouped(run.plan) if (g[0].backend, g[0].label) == (first.backend, first.label))
        builds = [run.result(each) for each in planned]
        check.conclude(_record(gate, builds), evidence=[_line(build) for build in builds])

    def _begun(self) -> PowerRun:
        if self._run is None:
            session = session_of(self.config)
            session.release_servers()
            self._run = PowerRun(self.settings, session.run_dir / "power", session.run_dir.name)
            self._run.begin()
        return self._run


PART = PowerPart


def _grouped(planned: Sequence[Planned]) -> list[list[Planned]]:
    """Builds of one test: the one that something is expected of, and the weaker ones of the same fault."""
    groups: list[list[Planned]] = [[each] for each in planned if each.expects]
    for each in planned:
        if not each.expects:
            key = (each.backend, type(each.fault))
            next(group for group in groups if (group[0].backend, type(group[0].fault)) == key).append(each)
    return groups


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
