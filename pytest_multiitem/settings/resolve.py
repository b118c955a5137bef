"""The settings in force, from the command line, the environment, pyproject.toml and ini files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from pytest_multiitem.errors import UsageError
from pytest_multiitem.settings.option import TABLE
from pytest_multiitem.settings.settings import OPTIONS, Settings
from pytest_multiitem.untrusted.secrets import without_credentials


def resolve(
    command_line: Mapping[str, str | bool | None],
    ini: Mapping[str, str | None],
    environ: Mapping[str, str] | None = None,
    project: Mapping[str, str] | None = None,
) -> Settings:
    """The settings in force.

    ``command_line`` and ``ini`` map :attr:`Option.ini` names to what was given, None where nothing was; ``project`` is
    what `project_file.project_settings` gives. Raises UsageError naming the value, where it came from, and what was
    expected.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for option in OPTIONS:
        sources = (
            ("command line", command_line.get(option.ini)),
            (f"environment {option.variable}", environ.get(option.variable) or None),
            (TABLE, None if project is None else project.get(option.name)),
            ("ini", ini.get(option.ini) or None),
        )
        origin, given = next((source for source in sources if source[1] is not None), ("default", None))
        origins[option.name], values[option.name] = origin, option.default if given is None else given
        if isinstance(given, str):
            try:
                values[option.name] = option.parse(given)
            except ValueError as error:
                raise UsageError(
                    f"{option.place(origin)}: {without_credentials(given)!r} is not valid: {error}"
                ) from None
    return Settings(**values, origins=origins)
