"""A matrix of models as a run: its cells are measured wherever an executor has them measured, each on disk at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from pytest_multiitem.adapters.base import Engine, choose_engine
from pytest_multiitem.errors import UsageError
from pytest_multiitem.execution import driver
from pytest_multiitem.execution.cells import Cell
from pytest_multiitem.execution.choice import is_local, open_executor
from pytest_multiitem.gates.registry import check_known_elsewhere
from pytest_multiitem.models.file import Model, ModelsFile, settings_of
from pytest_multiitem.models.measuring import Combination, ModelsWork, difference
from pytest_multiitem.models.records import FILE, ModelCell, ModelMatrix
from pytest_multiitem.models.summary import key_of, summarise
from pytest_multiitem.results import store
from pytest_multiitem.results.machine import machine_info, package_versions
from pytest_multiitem.results.records import SettingRecord
from pytest_multiitem.settings.placement import deadlines_of, needs_of
from pytest_multiitem.settings.settings import Settings
from pytest_multiitem.storage import try_writing, writing


def plan(file: ModelsFile, settings: Settings) -> list[Combination]:
    """Every model on every backend with every mask, in the order of the file.

    ``settings``: the run's; the file's go before their defaults, a model's own before both, and what the user has given
    for this run before all. Raises UsageError for settings that no matrix can have.
    """
    for name in ("model", "models", "multi_url", "serial_url"):
        if getattr(settings, name):
            raise UsageError(f"--{name.replace('_', '-')}: the file names the models, and each starts its own servers")
    return [each for model in file.models for each in _of_model(file, model, settings)]


def _of_model(file: ModelsFile, model: Model, settings: Settings) -> Iterator[Combination]:
    own = settings_of(file, model)
    own |= {"engine": model.engine} if model.engine is not None else {}
    own |= {"engine_python": model.engine_python} if model.engine_python is not None else {}
    own |= {"backend": model.backends} if model.backends else {}
    own |= {"mask_impl": model.masks} if model.masks else {}
    free = {name: value for name, value in own.items() if settings.origins[name] == "default"}
    origins = {**settings.origins, **dict.fromkeys(free, "the file of models")}
    settings = replace(settings, **free, origins=origins)
    settings = _with_own_names(choose_engine(settings.engine), settings)
    for backend in settings.backend:
        for mask in settings.mask_impl:
            yield Combination(model, replace(settings, backend=(backend,), mask_impl=(mask,)), file.gates)


def _with_own_names(engine: Engine, settings: Settings) -> Settings:
    """What the engine has for ``all``, and of a default."""
    settings = engine.with_own_names(settings)
    for name, have in (("backend", engine.backends), ("mask_impl", engine.masks)):
        if settings.origins[name] == "default":
            own: dict[str, Any] = {name: tuple(word for word in getattr(settings, name) if word in have)}
            settings = replace(settings, **own)
    return settings


class ModelsRun:
    """One measurement of a matrix of models in a directory; its cells are on disk as soon as they are measured."""

    def __init__(self, file: ModelsFile, path: Path, settings: Settings, directory: Path, run_id: str) -> None:
        self.plan = plan(file, settings)
        if not is_local(settings.executor):
            check_known_elsewhere(file.gates)
        with writing(directory, advice="choose another place with --results-dir DIR"):
            directory.mkdir(parents=True, exist_ok=True)
            try_writing(directory)
        self._settings, self._directory = settings, directory
        self._executor = open_executor(settings.executor, directory, run_id, {})
        self._order = {each.key: number for number, each in enumerate(self.plan)}
        self.matrix = ModelMatrix(
            run_id=run_id,
            started_at_utc=store.utc_now(),
            executor=settings.executor,
            machine=machine_info(),
            versions=package_versions(),
            settings=msgspec.convert(settings.records(), list[SettingRecord]),
            file=str(path),
            gates=list(file.gates),
            planned=[each.key for each in self.plan],
        )

    @property
    def path(self) -> Path:
        """The file of the matrix."""
        return self._directory / FILE

    def measure(self) -> Iterator[ModelCell]:
        """Every cell as it is measured, or with why it could not be."""
        tasks = {each.key: each for each in self.plan}
        cells = [Cell(key, task, needs_of(task.settings)) for key, task in tasks.items()]
        self._executor.begin(ModelsWork())
        for outcome in driver.measure_all(self._executor, cells, deadlines_of(self._settings), difference):
            if isinstance(outcome, driver.Repeated):
                if outcome.difference is not None:
                    where = " and ".join(outcome.nodes)
                    self.matrix.disagreements.append(f"{outcome.cell.key} on {where}: {outcome.difference}")
                    self._write()
                continue
            if isinstance(outcome, driver.Measured):
                made: ModelCell = outcome.value
                made.node, made.retried = outcome.node, list(outcome.failures)
            else:
                made = tasks[outcome.cell.key].blank(state="error", reason="; then ".join(outcome.reasons))
            self.matrix.cells.append(made)
            self.matrix.cells.sort(key=lambda cell: self._order[key_of(cell)])
            self._write()
            yield made

    def close(self, interrupted_by: str | None) -> None:
        """Stop the servers and write the matrix as it then is. Raises StorageError where it cannot be written."""
        try:
            self._executor.close()
        finally:
            self.matrix.interrupted_by = interrupted_by
            self._write()

    def _write(self) -> None:
        self.matrix.finished_at_utc = store.utc_now()
        summarise(self.matrix)
        store.write_record(self.path, self.matrix)
