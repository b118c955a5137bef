"""Launch profiles as data: read, laid over each other, and turned into command lines. See ``profiles.toml``."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pytest_multiitem.errors import UsageError, did_you_mean
from pytest_multiitem.settings.settings import Settings
from pytest_multiitem.settings.table import OPTIONS

SHIPPED = Path(__file__).with_name("profiles.toml")
_ROLES = ("multi", "serial", "extend")
_KEYS = {"engine", "role", "about", "extends", "port", "settings", "flags", "env", "cpu", "one_of"}
_LAYER_KEYS = {"settings", "flags", "env"}

FlagValue = str | int | float | bool | Sequence[Any]
Flags = Mapping[str, FlagValue]


@dataclass(frozen=True)
class LaunchProfile:
    """How an engine is started for a role; for one device.

    ``settings``: defaults of run settings, as a user would type them. ``flags`` and the alternatives
    ``one_of`` map flag names without dashes to values, in which ``{name}`` is filled in from the run.
    """

    name: str
    engine: str
    role: Literal["multi", "serial", "extend"]
    about: str
    port: int
    settings: Mapping[str, str]
    flags: Flags
    env: Mapping[str, str]
    one_of: tuple[Flags, ...] = ()

    def alternatives(self) -> list[dict[str, FlagValue]]:
        """All flags, once for every alternative, without those that are switched off."""
        return [
            {name: value for name, value in {**self.flags, **more}.items() if value is not False}
            for more in (self.one_of or ({},))
        ]


@cache
def read_profiles(own: Path | None = None) -> Mapping[str, Mapping[str, Any]]:
    """The tables of all profiles by name: the shipped ones, and the user's file laid over them.

    Raises UsageError for a file that cannot be read, and for a key or a value that no profile has.
    """
    tables: dict[str, Any] = _load(SHIPPED)
    if own is not None:
        for name, table in _load(own).items():
            tables[name] = _merged(tables.get(name, {}), table)
    for name in tables:
        _resolved(tables, name)
    return tables


def launch_profile(name: str, *, device: str, own: Path | None = None) -> LaunchProfile:
    """The profile called ``name`` as it is on a device. Raises UsageError listing those that exist."""
    tables = read_profiles(own)
    if name not in tables:
        raise UsageError(
            f"no launch profile is called {name!r}; expected one of {', '.join(tables)}{did_you_mean(name, tables)}"
        )
    table = _resolved(tables, name)
    if device == "cpu":
        table = _merged(table, table.get("cpu", {}))
    return LaunchProfile(
        name=name,
        engine=table["engine"],
        role=table["role"],
        about=table.get("about", ""),
        port=table["port"],
        settings=table.get("settings", {}),
        flags=table.get("flags", {}),
        env=table.get("env", {}),
        one_of=tuple(table.get("one_of", ())),
    )


def profile_name(settings: Settings, engine: str, role: str) -> str:
    """Which profile an engine's servers of a role are started with: the one chosen, or ``ENGINE-ROLE``."""
    chosen = {"multi": settings.multi_profile, "serial": settings.serial_profile, "extend": settings.extend_profile}
    return chosen[role] or f"{engine}-{role}"


def with_profile_defaults(settings: Settings, engine: str) -> Settings:
    """The settings with the defaults of the profiles in use; whatever the user has set stays.

    Raises UsageError where a chosen profile belongs to another engine or role.
    """
    for role in ("serial", "extend", "multi"):  # the last one has the last word
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


def filled(flags: Flags, values: Mapping[str, Any]) -> dict[str, Any]:
    """The flags that are given, with ``{name}`` filled in from ``values``."""
    found = {
        name: values[value[1:-1]] if isinstance(value, str) and value.startswith("{") else value
        for name, value in flags.items()
    }
    return {n: v for n, v in found.items() if not (v is None or v is False or v == () or v == "")}


def arguments(flags: Flags, values: Mapping[str, Any]) -> list[str]:
    """The command-line arguments of flags, with ``{name}`` filled in from ``values``."""
    found: list[str] = []
    for name, value in filled(flags, values).items():
        found.append(f"--{name}")
        if value is not True:
            found += map(str, value) if isinstance(value, list | tuple) else [str(value)]
    return found


def _with_defaults(settings: Settings, profile: LaunchProfile) -> Settings:
    options = {option.name: option for option in OPTIONS}
    origins = dict(settings.origins)
    changed: dict[str, Any] = {}
    for name, text in profile.settings.items():
        if name not in options:
            raise UsageError(f"profile {profile.name}: no setting is called {name!r}")
        if not origins.get(name, "default").startswith(("default", "profile ")):
            continue
        try:
            changed[name] = options[name].parse(str(text))
        except ValueError as error:
            raise UsageError(f"profile {profile.name}: setting {name} = {text!r} is not valid: {error}") from None
        origins[name] = f"profile {profile.name}"
    return replace(settings, **changed, origins=origins)


def _load(path: Path) -> dict[str, Any]:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read launch profiles {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"launch profiles {path}: not valid TOML: {error}") from None
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise UsageError(f"launch profiles {path}: {name!r} stands outside of a table; expected [profile-name]")
        _check_keys(path, name, table, _KEYS)
        if "cpu" in table:
            _check_keys(path, f"{name}.cpu", table["cpu"], _LAYER_KEYS)
    return tables


def _check_keys(path: Path, name: str, table: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(set(table) - known)
    if unknown:
        raise UsageError(
            f"launch profiles {path}: [{name}] has {', '.join(unknown)}; expected only {', '.join(sorted(known))}"
        )


def _resolved(tables: Mapping[str, Mapping[str, Any]], name: str, below: tuple[str, ...] = ()) -> dict[str, Any]:
    """A profile's table with everything that it extends."""
    table = dict(tables[name])
    base = table.pop("extends", None)
    if base is not None:
        if base not in tables or base in (name, *below):
            problem = "itself" if base in tables else f"{base!r}, which does not exist"
            raise UsageError(f"launch profile {name!r} extends {problem}")
        table = _merged(_resolved(tables, base, (name, *below)), table)
    if not below:
        for key in ("engine", "role", "port"):
            if key not in table:
                raise UsageError(f"launch profile {name!r} has no {key!r}")
        if table["role"] not in _ROLES:
            raise UsageError(f"launch profile {name!r}: role is {table['role']!r}; expected one of {', '.join(_ROLES)}")
    return table


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two tables, key by key; a list of the upper one replaces the lower one's."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged
