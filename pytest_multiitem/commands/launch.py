"""``multiitem launch``: a launch profile's server in the foreground, or its exact command line."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from pytest_multiitem.commands.options import takes_run_options
from pytest_multiitem.commands.output import say
from pytest_multiitem.errors import UsageError

if TYPE_CHECKING:
    from pytest_multiitem.servers.process import LaunchSpec


@takes_run_options
def launch(
    profile: Annotated[str | None, typer.Argument(help="A launch profile's name.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the command line and start nothing; the engine need not be there.")
    ] = False,
    host: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Where it listens (default: what the profile says).")
    ] = None,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Start it where other machines can reach it, such as 0.0.0.0.")
    ] = False,
    *,
    given: Mapping[str, str | None],
) -> None:
    """Start a server from a launch profile in the foreground, or print its command line; without a name, list the
    profiles. Further options are those of a run: --model DIR, --engine-python PATH, --multiitem-delimiter ID, …"""
    from pytest_multiitem.adapters.launched import launch_of  # numpy comes with the adapters
    from pytest_multiitem.adapters.profiles import read_profiles
    from pytest_multiitem.settings.project_file import project_settings
    from pytest_multiitem.settings.resolve import resolve
    from pytest_multiitem.untrusted.secrets import redacted_command

    settings = resolve(given, {}, project=project_settings(Path.cwd()))
    if profile is None:
        for each in read_profiles(settings.profiles).values():
            say(f"{each.name:<22} {each.engine:<9} {each.role:<7} {each.about}")
        return
    spec = launch_of(profile, settings, host=host, only_shown=dry_run)
    if not dry_run:
        _check_address(spec.command[spec.command.index("--host") + 1], allow_remote=allow_remote)
        run(spec)
    env = redacted_command([f"{name}={value}" for name, value in spec.env.items() if value is not None])
    assigned = [f"{name}={shlex.quote(value)}" for name, _, value in (word.partition("=") for word in env)]
    say(" ".join([*assigned, shlex.join(redacted_command(spec.command))]))


def _check_address(host: str, *, allow_remote: bool) -> None:
    """Raises UsageError for an address that other machines can reach, unless the user wants them to."""
    from pytest_multiitem.transport.listening import is_loopback

    if is_loopback(host):
        return
    if not allow_remote:
        raise UsageError(
            f"this server would listen on {host}, where other machines can reach it; start it so with --allow-remote, "
            "or on this machine alone with --host 127.0.0.1"
        )
    say(
        f"multiitem: WARNING: this server listens on {host}: other machines can reach it, and it asks them for no key "
        "unless its own flags say so; only in a network of your own",
        err=True,
    )


def run(spec: LaunchSpec) -> NoReturn:
    """Become the server: signals reach it as they would reach this process, and nothing outlives it."""
    from pytest_multiitem.servers.process import environment

    try:
        os.execvpe(spec.command[0], spec.command, environment(spec.env))
    except OSError as error:
        raise UsageError(f"{spec.command[0]} cannot be run: {error.strerror}") from None
