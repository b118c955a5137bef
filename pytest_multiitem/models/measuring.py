"""Measuring a model on one backend with one mask, by servers of its own: what a cell of the matrix is."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from pytest_multiitem.adapters.base import Engine, Profile, choose_engine
from pytest_multiitem.bench.statistics import p50
from pytest_multiitem.engine.model_files import resolve_model
from pytest_multiitem.errors import CheckpointError, MultiItemError, UsageError
from pytest_multiitem.execution.cells import Cell, ExecutorClosed, Place
from pytest_multiitem.execution.quiet import alone, busy
from pytest_multiitem.gates.gate import Gate, Measurement
from pytest_multiitem.gates.registry import gates
from pytest_multiitem.gates.run_subject import RunSubject, judged_in
from pytest_multiitem.models.file import ExpectedFailure, Incompatible, Model, Where
from pytest_multiitem.models.records import Expected, ModelCell, Speed
from pytest_multiitem.models.summary import state_of
from pytest_multiitem.results.machine import machine_info
from pytest_multiitem.results.records import GateRecord
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.settings.settings import Settings
from pytest_multiitem.targets.run import Run
from pytest_multiitem.transport.client import prepare

#: Items of the timed request.
_TIMED_ITEMS = 32


@dataclass(frozen=True)
class Combination:
    """What a cell measures. ``settings``: those of the model, of one backend and one mask; ``gates``: by name."""

    model: Model
    settings: Settings
    gates: tuple[str, ...]

    @property
    def backend(self) -> str:
        """The one backend."""
        return self.settings.backend[0]

    @property
    def mask(self) -> str:
        """The one mask."""
        return self.settings.mask_impl[0]

    @property
    def key(self) -> str:
        """Names it among all."""
        return f"{self.model.name} {self.backend} {self.mask}"

    def blank(self, **known: Any) -> ModelCell:
        """A cell of which nothing is measured."""
        return ModelCell(
            model=self.model.name,
            source=self.model.model,
            engine=self.settings.engine,
            backend=self.backend,
            mask=self.mask,
            **known,
        )


@dataclass(frozen=True)
class ModelsWork:
    """`execution.cells.Work` of a matrix of models: a cell's task is a `Combination`."""

    def open(self, place: Place) -> ModelsPlace:
        """Each combination starts its own servers."""
        return ModelsPlace(place)


class ModelsPlace:
    """`execution.cells.Workplace` of a matrix of models: servers live as long as their cell."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._runs: list[Run] | None = []
        self._changing = threading.Lock()

    def measure(self, cell: Cell) -> ModelCell:
        """Measure a combination; what cannot be there is NOT_RUN, with the reason."""
        task: Combination = cell.task
        start = time.perf_counter()
        try:
            made = self._measured(task)
        except _NotHere as reason:
            made = task.blank(state="not_run", reason=str(reason), incompatible=reason.incompatible)
        made.seconds = round(time.perf_counter() - start, 3)
        return made

    def close(self) -> None:
        """Stop the servers of a cell in hand."""
        with self._changing:
            runs, self._runs = self._runs or [], None
        for run in runs:
            run.close()

    def _measured(self, task: Combination) -> ModelCell:
        engine = choose_engine(task.settings.engine)
        version = _version(engine, task.settings)
        _check_known(task, version)
        settings = _fitted(engine, task)
        profile = Profile(
            "multi", task.backend, task.mask, settings.server_chunk_size[0], Semantics(settings.semantics)
        )
        serial = Profile("serial", task.backend)
        for needed in (profile, serial):
            if (reason := engine.unavailable(needed, settings)) is not None:
                raise _NotHere(reason)
        directory = self._place.directory / "models" / re.sub(r"[^A-Za-z0-9.]+", "-", task.key)
        with closing(self._entered(Run(settings, directory, engine=engine, owner=True, process="main"))) as run:
            run.plan([profile, serial])
            subject = RunSubject(run, task.backend, mask=task.mask)
            chosen = [gates()[name] for name in task.gates]
            with busy(self._place.quiet):
                records = {gate.name: _judged(subject, gate) for gate in chosen if not gate.timing}
            with alone(self._place.quiet):
                records |= {gate.name: _judged(subject, gate) for gate in chosen if gate.timing}
                speed = _speed(subject)
        ordered = [records[gate.name] for gate in chosen]
        expected = [
            Expected(gate=each.gate, issue=each.issue, reason=each.reason)
            for each in _about(task, version, task.model.expected_failures)
            if isinstance(each, ExpectedFailure)
        ]
        return task.blank(
            state=state_of(ordered, expected),
            engine_version=version,
            gates=ordered,
            expected=expected,
            speed=speed,
            hardware={**machine_info(), "device": settings.device},
        )

    def _entered(self, run: Run) -> Run:
        with self._changing:
            if self._runs is not None:
                self._runs.append(run)
                return run
        run.close()
        raise ExecutorClosed


class _NotHere(Exception):
    """Why a combination cannot be measured at this place; ``incompatible``: the file says so."""

    def __init__(self, reason: str, *, incompatible: bool = False) -> None:
        super().__init__(reason)
        self.incompatible = incompatible


def _version(engine: Engine, settings: Settings) -> str | None:
    try:
        return engine.version(settings)
    except MultiItemError:
        return None


def _about(task: Combination, version: str | None, known: Sequence[Where]) -> list[Where]:
    """What of all that is known of the model is about this combination."""
    engine = task.settings.engine
    return [each for each in known if each.holds(engine, version, task.backend, task.mask)]


def _check_known(task: Combination, version: str | None) -> None:
    """Raises _NotHere for a combination that the file calls incompatible."""
    for each in _about(task, version, task.model.incompatible):
        assert isinstance(each, Incompatible)  # it is out of that list
        link = "" if each.issue is None else f" ({each.issue})"
        raise _NotHere(f"known incompatibility: {each.reason}{link}", incompatible=True)


def _fitted(engine: Engine, task: Combination) -> Settings:
    """The settings as the engine takes them, with the model's directory. Raises _NotHere where one of both is not."""
    try:
        directory = resolve_model(task.model.model, task.settings.bench_download_dir)
        settings = engine.fit(replace(task.settings, model=str(directory)))
    except (UsageError, CheckpointError) as error:
        raise _NotHere(str(error)) from None
    # `fit` may take others of the engine's own in the place of what it does not have.
    for name, have in (("backend", settings.backend), ("mask_impl", settings.mask_impl)):
        if have != getattr(task.settings, name):
            wanted = getattr(task.settings, name)[0]
            raise _NotHere(f"engine {engine.name} has no {wanted}; it has {', '.join(have) or 'none'}")
    return settings


def _judged(subject: RunSubject, gate: Gate) -> GateRecord:
    def measure(gate: Gate) -> Measurement | GateRecord:
        subject.require(gate)
        assert gate.measure is not None  # the file's gates are looked through for that
        return gate.measure(subject)

    return judged_in(subject.run, gate, measure)


def _speed(subject: RunSubject) -> Speed | None:
    """Throughput of one request to the packed server; None where that does not answer: its gates say why."""
    settings = subject.settings
    try:
        target = subject.server("multi")
        case = subject.timing_case(target, _TIMED_ITEMS)
        request = prepare(case.query, case.items, case.labels)
        for _ in range(settings.bench_warmup_runs):
            target.client.send(request)
        times = []
        for _ in range(settings.bench_timed_runs):
            seconds, answer = target.client.timed_send(request)
            target.client.read(answer, request)
            times.append(seconds)
    except MultiItemError:
        return None
    return Speed(
        items_per_sec=len(case.items) / p50(times),
        num_items=len(case.items),
        query_tokens=len(case.query),
        item_tokens=len(case.items[0]),
        seconds=times,
    )


def difference(one: ModelCell, other: ModelCell) -> str | None:
    """How two measurements of a combination differ in what they say, not in their values or times; None where they do
    not."""
    if not (one.gates and other.gates):
        return None if one.state == other.state else f"{one.state} and {other.state}"
    said = [f"{a.gate} is {a.verdict} and {b.verdict}" for a, b in zip(one.gates, other.gates, strict=True)
            if a.verdict is not b.verdict]  # fmt: skip
    return "; ".join(said) or None
