"""Settings that a file gives by their names, with values as TOML and JSON have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from pytest_multiitem.errors import did_you_mean
from pytest_multiitem.settings.settings import OPTION_OF

GivenValue: TypeAlias = bool | int | float | str


def as_typed(value: GivenValue) -> str:
    """A value as a user would type it on the command line."""
    return str(int(value)) if isinstance(value, bool) else str(value)


def check_given(at: str, given: Mapping[str, GivenValue]) -> None:
    """Raises ValueError for what is no setting, and for a value that is not valid; ``at``: where in the file."""
    for name, value in given.items():
        if name not in OPTION_OF:
            raise ValueError(f"{at}: no setting is called {name!r}{did_you_mean(name, OPTION_OF)}")
        try:
            OPTION_OF[name].parse(as_typed(value))
        except ValueError as error:
            raise ValueError(f"{at}.{name}: {value!r} is not valid: {error}") from None


def parsed(given: Mapping[str, GivenValue]) -> dict[str, Any]:
    """The values of the settings, once they are checked."""
    return {name: OPTION_OF[name].parse(as_typed(value)) for name, value in given.items()}
