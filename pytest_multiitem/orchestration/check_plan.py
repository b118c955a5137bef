"""Whether machines can be had and reached with what was asked for: before anything is begun."""

from __future__ import annotations

import re
from pathlib import Path

from pytest_multiitem.errors import UsageError
from pytest_multiitem.orchestration.records import Plan

#: Names go into paths and command lines here, on the machines and at the service.
_SUBDIR = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MACHINE = re.compile(r"[a-z]([-a-z0-9]{0,60}[a-z0-9])?")
_PROJECT = re.compile(r"[a-z][a-z0-9:.-]{0,60}")
_ZONE = re.compile(r"[a-z]+(-[a-z0-9]+)+")
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")


def check_subdir(name: str) -> None:
    """Raises UsageError for what is no name of a run's directory."""
    _matching("--artifact-subdir", name, _SUBDIR, "letters, digits, '.', '_' and '-'")


def check_plan(plan: Plan) -> None:
    """Raises UsageError for what no machine can be had or reached with."""
    rented = [side for side in plan.sides if side.provider == "gcloud"]
    if rented:
        _matching("--project (or PROJECT)", plan.project, _PROJECT, "the id of your cloud project")
        _matching("--ssh-user", plan.user, _USER, "the name of a user")
    for side in rented:
        _matching(f"--{side.side}-name", side.name, _MACHINE, "lower-case letters, digits and '-', at most 62")
        _matching(f"--{side.side}-zone", side.zone, _ZONE, "a zone, such as us-east5-b")
    for side in plan.sides:
        if side.provider == "ssh" and not side.host:
            raise UsageError(
                f"--provider ssh: no machine is named for the {side.side}; give --{side.side}-host [USER@]HOST"
            )
        if side.host and (side.host.startswith("-") or any(letter.isspace() for letter in side.host)):
            raise UsageError(f"--{side.side}-host {side.host!r} is no host; expected [USER@]HOST")
    if len({(side.name, side.zone) for side in plan.sides}) < len(plan.sides) and rented:
        raise UsageError(f"both machines are called {plan.sides[0].name}; give them different names")
    if plan.max_usd is not None and any(side.usd_per_hour is None for side in rented):
        raise UsageError("--max-usd needs the prices: give --tpu-usd-per-hour and --gpu-usd-per-hour")
    for option in plan.ssh_options:
        if "=" not in option or option.startswith("-"):
            raise UsageError(f"--ssh-option {option!r} is not valid: expected NAME=VALUE")
    if plan.ssh_key and not Path(f"{plan.ssh_key}.pub").is_file() and rented:
        raise UsageError(
            f"--ssh-key: there is no {plan.ssh_key}.pub, which new machines are told; make it with ssh-keygen -y"
        )


def _matching(flag: str, value: str, form: re.Pattern[str], expected: str) -> None:
    if form.fullmatch(value) is None:
        raise UsageError(
            f"{flag}: {value!r} is not valid: expected {expected}"
            if value
            else f"{flag} is not given: expected {expected}"
        )
