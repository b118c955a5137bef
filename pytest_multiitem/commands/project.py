"""What a project's pyproject.toml says, as defaults of the commands that have some of a run's settings as options."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from pytest_multiitem.commands.options import RunCommand
from pytest_multiitem.settings.settings import OPTION_OF

#: Settings that no command takes from there: what is said of one server, or is another thing there.
_OF_A_RUN = frozenset({"backend", "engine", "items", "model", "reference", "require", "serial_url"})
#: What they say of a model that is made is not what a run is asked for.
_OWN = ("checkpoint",)


def defaults(command: Any, project: Mapping[str, str], environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The defaults of a group's commands, as click's ``default_map`` has them: what the environment says, else the
    file. A command that takes all options of a run reads both itself, and gets none here."""
    environ = os.environ if environ is None else environ
    found: dict[str, Any] = {}
    for name, inner in command.commands.items():
        if hasattr(inner, "commands"):
            found[name] = defaults(inner, project, environ)
        elif not isinstance(inner, RunCommand) and name not in _OWN:
            found[name] = {
                each.name: environ.get(OPTION_OF[setting].variable) or project[setting]
                for each in inner.params
                if (setting := _setting(each)) in project and setting not in _OF_A_RUN
            }
    return found


def _setting(parameter: Any) -> str:
    """The name of the setting that an option of a command is, if it is one."""
    return str(parameter.opts[0]).removeprefix("--").replace("-", "_")
