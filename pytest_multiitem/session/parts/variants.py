"""A profile matrix inside a pytest run: one test a gate of a variant, variant after variant."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import pytest

from pytest_multiitem.results.records import Matrix, Place, ServerRecord, VariantRecord
from pytest_multiitem.session.gate_check import GateCheck
from pytest_multiitem.session.gate_item import GateItem, Suite
from pytest_multiitem.session.part import Part
from pytest_multiitem.session.run_subject import ExplainedSubject
from pytest_multiitem.session.session import session_of
from pytest_multiitem.settings.settings import Settings
from pytest_multiitem.variants.file import read_variants
from pytest_multiitem.variants.measuring import VariantRun, described
from pytest_multiitem.variants.plan import Cell, Planned, cells, check_settings, plan


class VariantsPart(Part):
    """``--profile-matrix``: the servers of one variant are gone before those of the next start."""

    not_parallel = "--profile-matrix starts the servers of one variant after the other; run it without -n"

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        super().__init__(config, settings)
        self._planned: list[Planned] = []
        self._cells: dict[str, list[Cell]] = {}
        self._current: VariantRun | None = None
        self._records: dict[str, VariantRecord] = {}
        self._servers: list[ServerRecord] = []

    def check_settings(self) -> None:
        """Read the file, and refuse what it cannot be measured with."""
        check_settings(self.settings)
        assert self.settings.profile_matrix is not None  # it is what asks for this part
        file = read_variants(self.settings.profile_matrix)
        self._planned = plan(file, self.settings)
        self._cells = {planned.variant.name: cells(planned, file) for planned in self._planned}

    def items(self, session: pytest.Session) -> Iterable[GateItem]:
        """A test for every gate of a variant, on each of its backends, masks and chunk sizes."""
        parent = Suite.from_parent(session, name="multiitem-profile-matrix")
        for planned in self._planned:
            name = planned.variant.name
            for cell in self._cells[name]:
                place = Place(label=cell.label, backend=cell.backend, mask=cell.mask, variant=name)
                measure = partial(self._conclude, planned, cell)
                yield GateItem.from_parent(parent, gate=cell.gate.name, measure=measure, label=cell.label, place=place)

    def close(self) -> None:
        """Stop the servers of the variant in hand."""
        if self._current is not None:
            current, self._current = self._current, None
            self._servers += current.close()

    def enter(self, matrix: Matrix) -> None:
        """The variants, and the servers that they had."""
        matrix.variants = [self._records.get(p.variant.name) or described(p) for p in self._planned]
        matrix.servers += self._servers

    def _conclude(self, planned: Planned, cell: Cell, check: GateCheck) -> None:
        if planned.reason is not None:
            check.not_run(planned.reason)
        current = self._entered(planned)
        subject = ExplainedSubject(current.run, cell.backend, mask=cell.mask, chunk=cell.chunk)
        record = current.judged(cell, subject)
        check.conclude(record, evidence=subject.explanation or None)

    def _entered(self, planned: Planned) -> VariantRun:
        if self._current is None or self._current.planned is not planned:
            session = session_of(self.config)
            session.release_servers()
            self.close()
            name = planned.variant.name
            directory = session.run_dir / "variants" / planned.variant.slug
            self._current = VariantRun(planned, self._cells[name], Path(directory))
            self._records[name] = self._current.record
        return self._current


PART = VariantsPart
