"""``multiitem launch``: a launch profile's server in the foreground, or its exact command line."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from dataclasses import replace
from typing import NoReturn

from pytest_multiitem.adapters.base import Profile, choose_engine
from pytest_multiitem.adapters.launched import LaunchedEngine
from pytest_multiitem.adapters.profiles import launch_profile, read_profiles
from pytest_multiitem.errors import EngineUnavailable, UsageError
from pytest_multiitem.scoring.semantics import Semantics
from pytest_multiitem.servers.process import LaunchSpec, environment
from pytest_multiitem.settings.settings import Settings


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
