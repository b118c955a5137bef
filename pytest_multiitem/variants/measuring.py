"""One variant's servers while its gates are measured, and whether the variant is what they run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from pytest_multiitem.adapters.attestation import not_applied, untold
from pytest_multiitem.adapters.profiles import arguments
from pytest_multiitem.errors import MultiItemError
from pytest_multiitem.gates.gate import Measurement
from pytest_multiitem.gates.record import blank_record
from pytest_multiitem.gates.run_subject import RunSubject, judged_in, server_of
from pytest_multiitem.results import store
from pytest_multiitem.results.records import GateRecord, ServerRecord, VariantRecord, Verdict
from pytest_multiitem.targets.run import Run
from pytest_multiitem.untrusted.secrets import redacted_command
from pytest_multiitem.variants.plan import Cell, Planned, servers_of


class VariantRun:
    """The servers of one variant; they live until it is closed. ``record``: the variant as the results hold it."""

    def __init__(self, planned: Planned, cells: list[Cell], directory: Path) -> None:
        self.planned = planned
        self.record = described(planned)
        self.run = Run(planned.settings, directory, engine=planned.engine, owner=True, process="main")
        self._directory = directory
        self.run.plan(servers_of(planned, cells))

    def judged(self, cell: Cell, subject: RunSubject) -> GateRecord:
        """A gate's verdict, which is no PASS where the packed server does not run the variant."""
        gate = cell.gate

        def measured(_: object) -> Measurement | GateRecord:
            subject.require(gate)
            info = server_of(self.run, cell.packed(self.planned.settings)).info
            wanted = self.planned.wanted
            self._attest(info)
            problems = not_applied(info, wanted)
            if problems:
                return blank_record(gate, Verdict.FAIL, f"the variant was not applied: {'; '.join(problems)}")
            silent = sorted(set(self.planned.variant.expect) & set(untold(info, wanted)))
            if silent:
                said = f"the file expects {', '.join(silent)} of the server, but /get_server_info does not tell"
                return blank_record(gate, Verdict.INCONCLUSIVE, f"{said}: whether the variant runs is not known")
            assert gate.measure is not None  # the file's gates are looked through for that
            return gate.measure(subject)

        return judged_in(self.run, gate, measured)

    def close(self) -> list[ServerRecord]:
        """Stop the servers; what they were, for the results. Raises StorageError where samples cannot be kept."""
        self.run.close()
        lines = {(line["label"], line["url"]): line for line in store.server_samples(self._directory)}
        servers = msgspec.convert([*lines.values()], list[ServerRecord])
        for server in servers:
            server.label = f"{self.planned.variant.name}: {server.label}"
        store.merge_samples(self._directory)
        return servers

    def _attest(self, info: Any) -> None:
        wanted = self.planned.wanted
        silent = untold(info, wanted)
        self.record.untold = silent
        self.record.attested = {name: info[name] for name in wanted if name not in silent}


def described(planned: Planned) -> VariantRecord:
    """A variant before anything is measured of it."""
    variant, settings = planned.variant, planned.settings
    try:
        version = planned.engine.version(settings)
    except MultiItemError:
        version = None
    flags = {name: value for name, value in variant.flags.items() if value is not False}
    without = [f"no --{name}" for name, value in variant.flags.items() if value is False]
    return VariantRecord(
        name=variant.name,
        about=variant.about,
        engine=planned.engine.name,
        engine_version=version,
        flags=[*redacted_command(arguments(flags, {})), *without],
        environment=sorted(variant.env),
        settings={name: settings.shown(name) for name in variant.settings},
        reason=planned.reason,
    )
