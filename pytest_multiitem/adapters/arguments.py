"""Settings of a run from the words of a command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pytest_multiitem.adapters.base import choose_engine
from pytest_multiitem.adapters.profiles import launch_profile
from pytest_multiitem.errors import UsageError
from pytest_multiitem.settings.resolve import resolve
from pytest_multiitem.settings.settings import Settings
from pytest_multiitem.settings.table import OPTIONS


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
