"""``multiitem launch``: a launch profile's server in the foreground, or its exact command line."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn

from pytest_multiitem.errors import EngineUnavailable, UsageError
from pytest_multiitem.options import OPTIONS, Settings, resolve
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.servers.engines import Profile, choose_engine
from pytest_multiitem.servers.launched import LaunchedEngine
from pytest_multiitem.servers.process import LaunchSpec, environment
from pytest_multiitem.servers.profiles import launch_profile, read_profiles


def settings_from(arguments: Sequence[str], profile: str | None, environ: Mapping[str, str] | None = None) -> Settings:
    """The settings of a run from the options after the command's own, environment variables included (``environ``:
    others than this process's).

    With a profile, they are fitted to its engine, and it is the one in use for its role. Raises
    UsageError naming an option that no run has.
    """
    given: dict[str, str | bool] = {}
    names = {name: option for option in OPTIONS for name in (option.flag, option.short_flag)}
    left = list(arguments)
    while left:
        name, equals, value = left.pop(0).partition("=")
        option = names.get(name)
        if option is None:
            raise UsageError(f"{name!r} is no option of a run; see the options page, or pytest --help")
        if option.is_flag:
            given[option.ini] = True
        elif equals:
            given[option.ini] = value
        elif left:
            given[option.ini] = left.pop(0)
        else:
            raise UsageError(f"{name} needs a value")
    settings = resolve(given, {}, environ)
    if profile is None:
        return settings
    chosen = launch_profile(profile, device=settings.device, own=settings.profiles)
    in_use: dict[str, Any] = {"engine": chosen.engine, f"{chosen.role}_profile": profile}
    settings = replace(settings, **in_use)
    return choose_engine(chosen.engine).fit(settings)


def spec_of(profile: str, settings: Settings) -> LaunchSpec:
    """The launch of a profile. Raises EngineUnavailable where it cannot be started here."""
    chosen = launch_profile(profile, device=settings.device, own=settings.profiles)
    engine = choose_engine(chosen.engine)
    if not isinstance(engine, LaunchedEngine):
        raise UsageError(f"engine {engine.name} is not started from launch profiles")
    wanted = Profile(
        chosen.role,
        settings.backend[0],
        settings.mask_impl[0] if chosen.role == "multi" else None,
        settings.server_chunk_size[0] if chosen.role == "multi" else None,
        Semantics(settings.semantics),
    )
    reason = engine.unavailable(wanted, settings)
    if reason is not None:
        raise EngineUnavailable(reason)
    spec = engine.launch(wanted, settings)
    command = tuple(part.replace("{port}", str(spec.preferred_port)) for part in spec.command)
    return replace(spec, command=command)


def shell_line(spec: LaunchSpec) -> str:
    """The command line as a shell takes it."""
    env = [f"{name}={shlex.quote(value)}" for name, value in spec.env.items() if value is not None]
    return " ".join([*env, shlex.join(spec.command)])


def listing(settings: Settings) -> str:
    """All profiles, a line each."""
    rows: Iterable[tuple[str, str, str, str]] = (
        (profile.name, profile.engine, profile.role, profile.about)
        for profile in (
            launch_profile(name, device=settings.device, own=settings.profiles)
            for name in read_profiles(settings.profiles)
        )
    )
    return "".join(f"{name:<22} {engine:<9} {role:<7} {about}\n" for name, engine, role, about in rows)


def run(spec: LaunchSpec) -> NoReturn:
    """Become the server: signals reach it as they would reach this process, and nothing outlives it."""
    try:
        os.execvpe(spec.command[0], spec.command, environment(spec.env))
    except OSError as error:
        raise UsageError(f"{spec.command[0]} cannot be run: {error.strerror}") from None
