"""The file of launch variants that a user writes, in TOML or JSON."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TypeAlias

import msgspec

from pytest_multiitem.adapters.base import ENGINES
from pytest_multiitem.adapters.profiles import FlagValue, is_filled_in
from pytest_multiitem.errors import UsageError, did_you_mean
from pytest_multiitem.gates.registry import gates
from pytest_multiitem.inputs import read_typed
from pytest_multiitem.settings.given import GivenValue, check_given
from pytest_multiitem.settings.settings import OPTION_OF

Told: TypeAlias = bool | int | float | str

#: Settings that are of the whole run, or of servers that someone else starts.
_TOPICS = (
    "verdicts and results", "comparison", "power of the gates", "more than one machine", "compiling for TPUs",
    "compiling for GPUs",
)  # fmt: skip
_NOT_VARIED = frozenset(name for name, option in OPTION_OF.items() if option.topic in _TOPICS) | {
    "engine", "engine_python", "multi_profile", "serial_profile", "extend_profile", "profile_matrix", "models", "bench",
    "multi_url", "serial_url", "one_server", "api_key_env", "ca_file",
}  # fmt: skip
#: Those of them that a variant has as a key of its own.
_OF_A_VARIANT = frozenset({"engine", "engine_python", "serial_profile", "extend_profile"})
#: Flags that the run gives its servers by itself.
_OF_THE_RUN = ("host", "port", "model", "model-path")


class Launch(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is laid over the launch profile of one server. ``flags``: without leading dashes; true: a bare flag, false:
    left out, a list: several values. ``env``: environment variables."""

    flags: dict[str, FlagValue] = {}
    env: dict[str, str] = {}


class Variant(Launch, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A launch variant. Its own ``flags`` and ``env`` are of the packed server.

    ``engine``, ``engine_python``: as the options of a run. ``profile``, ``serial_profile``, ``extend_profile``: launch
    profiles; the engine's own where none is named. ``serial``, ``extend``: what is laid over those of the baseline and
    of prefill+extend. ``settings``: of a run, by their names. ``expect``: what the packed server must say of itself in
    ``/get_server_info``, or no gate passes.
    """

    name: str
    about: str = ""
    engine: str | None = None
    engine_python: str | None = None
    profile: str | None = None
    serial_profile: str | None = None
    extend_profile: str | None = None
    settings: dict[str, GivenValue] = {}
    serial: Launch = Launch()
    extend: Launch = Launch()
    expect: dict[str, Told] = {}

    @property
    def slug(self) -> str:
        """Its name as part of a test's id, and of a file's."""
        return re.sub(r"[^A-Za-z0-9.+]+", "-", self.name).strip("-.").lower()


class VariantsFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole file. ``gates``: of the contract, all that a run measures where none are named; ``settings``: of every
    variant that does not give them itself."""

    variants: tuple[Variant, ...]
    gates: tuple[str, ...] = ()
    settings: dict[str, GivenValue] = {}


def read_variants(path: Path) -> VariantsFile:
    """A file of launch variants. Raises UsageError, which says where in the file what was expected."""
    file = read_typed(path, "profile matrix", VariantsFile)
    try:
        _check(file)
    except ValueError as error:
        raise UsageError(f"profile matrix {path}: {error}") from None
    return file


def _check(file: VariantsFile) -> None:
    """Raises ValueError for what is no gate, no engine, no setting and no flag, and for a name that stands twice."""
    if not file.variants:
        raise ValueError("variants is empty; expected at least one [[variants]]")
    measured = [name for name, gate in gates().items() if gate.measure is not None]
    for at, name in enumerate(file.gates):
        if name not in measured:
            raise ValueError(f"gates[{at}]: {name!r} is no gate that is measured{did_you_mean(name, measured)}")
    _check_settings("settings", file.settings)
    names: dict[str, str] = {}
    for at, variant in enumerate(file.variants):
        here = f"variants[{at}]"
        if not variant.slug:
            raise ValueError(f"{here}.name: {variant.name!r} has no letter and no digit; expected a name")
        if variant.slug in names:
            raise ValueError(
                f"{here}.name: {variant.name!r} is too like {names[variant.slug]!r}; name each its own way"
            )
        names[variant.slug] = variant.name
        if variant.engine is not None and variant.engine not in ENGINES.all():
            known = ENGINES.all()
            raise ValueError(
                f"{here}.engine: no engine is called {variant.engine!r}; expected {', '.join(known)}"
                f"{did_you_mean(variant.engine, known)}"
            )
        _check_settings(f"{here}.settings", variant.settings)
        for part, launch in (("", variant), (".serial", variant.serial), (".extend", variant.extend)):
            for flag, value in launch.flags.items():
                _check_flag(f"{here}{part}.flags", flag, value)


def _check_settings(at: str, given: dict[str, GivenValue]) -> None:
    check_given(at, given)
    for name in given:
        if name in _NOT_VARIED:
            itself = f"write it beside the name of each variant, {name} = …, or " if name in _OF_A_VARIANT else ""
            raise ValueError(
                f"{at}: {name} is no setting of a variant; {itself}give it for the whole run: {_option(name)}"
            )


def _option(name: str) -> str:
    option = OPTION_OF[name]
    return option.short_flag if option.short else option.flag


def _check_flag(at: str, flag: str, value: FlagValue) -> None:
    if flag.startswith("-"):
        raise ValueError(f"{at}: {flag!r} has leading dashes; write {flag.lstrip('-')}")
    if isinstance(value, str) and is_filled_in(value):
        raise ValueError(f"{at}.{flag}: {value!r} is for launch profiles; write the value itself")
    if flag in _OF_THE_RUN:
        raise ValueError(
            f'{at}: {flag!r} is the run\'s own to give; a model is a setting: settings = {{ model = "DIR" }}'
        )
