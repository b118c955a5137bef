"""Launch profiles as data: read, laid over each other, and turned into command lines. See ``profiles.toml``."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import msgspec

from pytest_multiitem.errors import UsageError, did_you_mean
from pytest_multiitem.inputs import read_bytes
from pytest_multiitem.settings.settings import OPTION_OF, Settings

SHIPPED = Path(__file__).with_name("profiles.toml")
_EXPECTED = (
    "engine, role (multi, serial or extend) and port, and where needed host, about, extends, settings, flags, env, "
    "one_of, cpu (with settings, flags and env) and cpu_with (the same for a package)"
)

FlagValue = bool | int | float | str | list[int | float | str]
Flags = Mapping[str, FlagValue]


class Layer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What of a launch profile may differ on a CPU; the fields are those of `LaunchProfile`."""

    settings: dict[str, bool | int | float | str] = {}
    flags: dict[str, FlagValue] = {}
    env: dict[str, str] = {}


class LaunchProfile(Layer, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How an engine is started for a role.

    ``settings``: defaults of run settings, as a user would type them. ``flags`` and the alternatives
    ``one_of`` map flag names without dashes to values, in which ``{name}`` is filled in from the run.
    ``host``: where ``multiitem launch`` has it listen; a run's own servers listen on loopback always.
    ``cpu``: what is laid over them where the device is a CPU. ``cpu_with``: what is laid over that where the engine's
    environment also holds a package of that name.
    """

    name: str
    engine: str
    role: Literal["multi", "serial", "extend"]
    port: int
    host: str = "127.0.0.1"
    about: str = ""
    one_of: tuple[dict[str, FlagValue], ...] = ()
    cpu: Layer = Layer()
    cpu_with: dict[str, Layer] = {}

    def over(self, layer: Layer) -> LaunchProfile:
        """The profile with a layer over it."""
        changed = {key: getattr(self, key) | getattr(layer, key) for key in Layer.__struct_fields__}
        return msgspec.structs.replace(self, **changed)

    def insisting(self, layer: Layer) -> LaunchProfile:
        """The profile with a layer over it and over each of its alternatives."""
        one_of = tuple({**flags, **layer.flags} for flags in self.one_of)
        return msgspec.structs.replace(self.over(layer), one_of=one_of)

    def alternatives(self) -> list[dict[str, FlagValue]]:
        """All flags, once for every alternative, without those that are switched off."""
        return [
            {name: value for name, value in {**self.flags, **more}.items() if value is not False}
            for more in (self.one_of or ({},))
        ]


@cache
def read_profiles(own: Path | None = None) -> Mapping[str, LaunchProfile]:
    """All profiles by name: the shipped ones, and the user's file laid over them.

    Raises UsageError for a file that cannot be read, and for a key or a value that no profile has.
    """
    tables: dict[str, Any] = _load(SHIPPED)
    if own is not None:
        tables = _merged(tables, _load(own))
    profiles = {}
    for name in tables:
        try:
            if "name" in tables[name]:
                raise msgspec.ValidationError("Object contains unknown field `name`")
            profiles[name] = msgspec.convert({**_resolved(tables, name), "name": name}, LaunchProfile)
        except msgspec.ValidationError as error:
            raise UsageError(f"launch profiles {own or SHIPPED}: [{name}]: {error}; expected {_EXPECTED}") from None
    return MappingProxyType(profiles)


def launch_profile(name: str, *, device: str, own: Path | None = None) -> LaunchProfile:
    """The profile called ``name`` as it is on a device, whatever packages are there. Raises UsageError listing those
    that exist."""
    profiles = read_profiles(own)
    if name not in profiles:
        raise UsageError(
            f"no launch profile is called {name!r}; expected one of {', '.join(profiles)}{did_you_mean(name, profiles)}"
        )
    profile = profiles[name]
    return profile.over(profile.cpu) if device == "cpu" else profile


def profile_name(settings: Settings, engine: str, role: str) -> str:
    """Which profile an engine's servers of a role are started with: the one chosen, or ``ENGINE-ROLE``."""
    return _chosen(settings)[role] or f"{engine}-{role}"


def _chosen(settings: Settings) -> dict[str, str | None]:
    return {"serial": settings.serial_profile, "extend": settings.extend_profile, "multi": settings.multi_profile}


def with_profile_defaults(settings: Settings, engine: str) -> Settings:
    """The settings with the defaults of the profiles in use; whatever the user has set stays.

    Raises UsageError where a chosen profile belongs to another engine or role.
    """
    chosen = _chosen(settings)
    for role in sorted(chosen, key=lambda role: chosen[role] is not None):  # the last one has the last word
        name = profile_name(settings, engine, role)
        if name not in read_profiles(settings.profiles) and name == f"{engine}-{role}":
            continue  # an engine need not have every role, and a project's own has no profiles at all
        profile = launch_profile(name, device=settings.device, own=settings.profiles)
        if (profile.engine, profile.role) != (engine, role):
            raise UsageError(
                f"profile {name!r} starts {profile.engine} as {profile.role}; a profile of {engine} "
                f"for the {role} server is needed here"
            )
        settings = _with_defaults(settings, profile)
    return settings


def is_filled_in(value: str) -> bool:
    """Whether a flag's value is ``{name}``, which stands for one of the run's; JSON begins with a brace as well."""
    return re.fullmatch(r"\{\w+\}", value) is not None


def filled(flags: Flags, values: Mapping[str, Any]) -> dict[str, Any]:
    """The flags that are given, with ``{name}`` filled in from ``values``."""
    given = {
        name: values[value[1:-1]] if isinstance(value, str) and is_filled_in(value) else value
        for name, value in flags.items()
    }
    return {n: v for n, v in given.items() if not (v is None or v is False or v == () or v == "")}


def arguments(flags: Flags, values: Mapping[str, Any]) -> list[str]:
    """The command-line arguments of flags, with ``{name}`` filled in from ``values``."""
    words: list[str] = []
    for name, value in filled(flags, values).items():
        words.append(f"--{name}")
        if value is not True:
            words += map(str, value) if isinstance(value, list | tuple) else [str(value)]
    return words


def _with_defaults(settings: Settings, profile: LaunchProfile) -> Settings:
    origins = dict(settings.origins)
    changed: dict[str, Any] = {}
    for name, value in profile.settings.items():
        if name not in OPTION_OF:
            raise UsageError(f"profile {profile.name}: no setting is called {name!r}{did_you_mean(name, OPTION_OF)}")
        if not origins.get(name, "default").startswith(("default", "profile ")):
            continue
        try:
            changed[name] = OPTION_OF[name].parse(str(value))
        except ValueError as error:
            raise UsageError(f"profile {profile.name}: setting {name} = {value!r} is not valid: {error}") from None
        origins[name] = f"profile {profile.name}"
    return replace(settings, **changed, origins=origins)


def _load(path: Path) -> dict[str, Any]:
    try:
        tables = tomllib.loads(read_bytes(path, "launch profiles").decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"launch profiles {path}: not valid TOML: {error}") from None
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise UsageError(f"launch profiles {path}: {name!r} stands outside of a table; expected [profile-name]")
    return tables


def _resolved(tables: Mapping[str, Mapping[str, Any]], name: str, below: tuple[str, ...] = ()) -> dict[str, Any]:
    """A profile's table with everything that it extends."""
    table = dict(tables[name])
    base = table.pop("extends", None)
    if base is None:
        return table
    if not isinstance(base, str) or base not in tables or base in (name, *below):
        problem = "itself" if base in (name, *below) else f"{base!r}, which does not exist"
        raise UsageError(f"launch profile {name!r} extends {problem}")
    return _merged(_resolved(tables, base, (name, *below)), table)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two tables, key by key; a list of the upper one replaces the lower one's."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged
