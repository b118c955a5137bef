"""``multiitem launch``: a launch profile's server in the foreground, or its exact command line."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from pytest_multiitem.commands.options import takes_run_options
from pytest_multiitem.errors import UsageError

if TYPE_CHECKING:
    from pytest_multiitem.servers.process import LaunchSpec


@takes_run_options
def launch(
    profile: Annotated[str | None, typer.Argument(help="A launch profile's name.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the command line and start nothing.")] = False,
    *,
    given: Mapping[str, str | None],
) -> None:
    """Start a server from a launch profile in the foreground, or print its command line; without a name, list the
    profiles. Further options are those of a run: --model DIR, --engine-python PATH, --multiitem-delimiter ID, …"""
    from pytest_multiitem.adapters.launched import launch_of  # numpy comes with the adapters
    from pytest_multiitem.adapters.profiles import read_profiles
    from pytest_multiitem.settings.resolve import resolve

    settings = resolve(given, {})
    if profile is None:
        for each in read_profiles(settings.profiles).values():
            typer.echo(f"{each.name:<22} {each.engine:<9} {each.role:<7} {each.about}")
        return
    spec = launch_of(profile, settings)
    if not dry_run:
        run(spec)
    env = [f"{name}={shlex.quote(value)}" for name, value in spec.env.items() if value is not None]
    typer.echo(" ".join([*env, shlex.join(spec.command)]))


def run(spec: LaunchSpec) -> NoReturn:
    """Become the server: signals reach it as they would reach this process, and nothing outlives it."""
    from pytest_multiitem.servers.process import environment

    try:
        os.execvpe(spec.command[0], spec.command, environment(spec.env))
    except OSError as error:
        raise UsageError(f"{spec.command[0]} cannot be run: {error.strerror}") from None
