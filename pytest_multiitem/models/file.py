"""The file of models that a user writes, in TOML or JSON."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from pytest_multiitem.adapters.base import ENGINES, known_backends
from pytest_multiitem.errors import UsageError, did_you_mean
from pytest_multiitem.gates.registry import gates
from pytest_multiitem.inputs import read_typed
from pytest_multiitem.settings.given import GivenValue, check_given, parsed

#: The gates of a quick contract, where the file names none.
QUICK = (
    "same_length_isolation_zero", "changed_length_isolation_zero", "delimiter_aligned_equiv_le_0p02",
    "semantics_as_declared", "request_contract_holds", "negative_control_fails",
)  # fmt: skip
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


class Where(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where something is known of a model: everywhere, but for what is named. ``version``: of the engine, such as
    ``>=0.5,<0.6``; where an engine does not tell its version, nothing is known of it."""

    engine: str | None = None
    version: str | None = None
    backend: str | None = None
    mask: str | None = None

    def holds(self, engine: str, version: str | None, backend: str, mask: str) -> bool:
        """Whether it is about this combination."""
        given = ((self.engine, engine), (self.backend, backend), (self.mask, mask))
        if any(wanted is not None and wanted != have for wanted, have in given):
            return False
        if self.version is None:
            return True
        try:
            return version is not None and SpecifierSet(self.version, prereleases=True).contains(Version(version))
        except InvalidVersion:
            return False


class Incompatible(Where, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The model cannot run there: nothing is started. ``reason``: why; ``issue``: where that is discussed."""

    reason: str
    issue: str | None = None


class ExpectedFailure(Where, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A gate fails there, and that is known. ``gate``: its name; ``issue``: where it is discussed."""

    gate: str
    issue: str
    reason: str = ""


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A model. ``model``: its directory, as seen from the file, or a hub id. ``engine`` and what follows: as the
    options of a run, for this model alone; ``settings``: further ones, by their names."""

    name: str
    model: str
    engine: str | None = None
    engine_python: str | None = None
    backends: tuple[str, ...] = ()
    masks: tuple[str, ...] = ()
    settings: dict[str, GivenValue] = {}
    incompatible: tuple[Incompatible, ...] = ()
    expected_failures: tuple[ExpectedFailure, ...] = ()


class ModelsFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole file. ``gates``: of the contract; ``settings``: of every model, by their names."""

    models: tuple[Model, ...]
    gates: tuple[str, ...] = QUICK
    settings: dict[str, GivenValue] = {}


def read_models(path: Path) -> ModelsFile:
    """A file of models, in JSON where its name ends so, else in TOML; paths in it are made absolute.

    Raises UsageError, which says where in the file what was expected.
    """
    file = read_typed(path, "models file", ModelsFile)
    try:
        _check(file)
        models = tuple(_with_path(model, at, path.parent) for at, model in enumerate(file.models))
    except ValueError as error:
        raise UsageError(f"models file {path}: {error}") from None
    return msgspec.structs.replace(file, models=models)


def _check(file: ModelsFile) -> None:
    """Raises ValueError for what is no name, no version and no setting."""
    if not file.models:
        raise ValueError("models is empty; expected at least one [[models]]")
    _known("gates", file.gates, [name for name, gate in gates().items() if gate.measure is not None])
    check_given("settings", file.settings)
    names: set[str] = set()
    for at, model in enumerate(file.models):
        here = f"models[{at}]"
        if model.name in names:
            raise ValueError(f"{here}.name: {model.name!r} stands there twice; a name is one model's")
        names.add(model.name)
        if model.engine is not None:
            _known(f"{here}.engine", [model.engine], ENGINES.all())
        _known(f"{here}.backends", model.backends, known_backends())
        check_given(f"{here}.settings", model.settings)
        for kind in ("incompatible", "expected_failures"):
            for number, known in enumerate(getattr(model, kind)):
                _check_where(f"{here}.{kind}[{number}]", known)
        for number, expected in enumerate(model.expected_failures):
            _known(f"{here}.expected_failures[{number}].gate", [expected.gate], file.gates)


def _check_where(at: str, where: Where) -> None:
    if where.engine is not None:
        _known(f"{at}.engine", [where.engine], ENGINES.all())
    if where.backend is not None:
        _known(f"{at}.backend", [where.backend], known_backends())
    if where.mask is not None:
        masks = {mask for engine in ENGINES.all().values() for mask in engine.masks}
        _known(f"{at}.mask", [where.mask], sorted(masks))
    try:
        SpecifierSet(where.version or "")
    except InvalidSpecifier:
        raise ValueError(f"{at}.version: {where.version!r} is no range of versions, such as '>=0.5,<0.6'") from None
    issue: str | None = getattr(where, "issue", None)
    if issue is not None and not re.match(r"https?://\S+$", issue):
        raise ValueError(f"{at}.issue: {issue!r} is no link; expected https://…")


def _known(at: str, given: Iterable[str], known: Iterable[str]) -> None:
    valid = list(known)
    for word in given:
        if word not in valid:
            raise ValueError(f"{at}: {word!r} is not known; expected {', '.join(valid)}{did_you_mean(word, valid)}")


def _with_path(model: Model, at: int, base: Path) -> Model:
    directory = base / Path(model.model).expanduser()
    if directory.is_dir():
        return msgspec.structs.replace(model, model=str(directory.resolve()))
    if not _HUB_ID.fullmatch(model.model):
        raise ValueError(
            f"models[{at}].model: {model.model!r} is no directory beside the file, and no hub id (OWNER/NAME)"
        )
    return model


def settings_of(file: ModelsFile, model: Model) -> dict[str, Any]:
    """The values of the settings that the file gives for a model."""
    return parsed({**file.settings, **model.settings})
