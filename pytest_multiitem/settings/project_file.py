"""``[tool.multiitem]`` of a project's pyproject.toml: settings that pytest and every command take from there."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

from pytest_multiitem.errors import UsageError, did_you_mean
from pytest_multiitem.settings.option import TABLE, Option
from pytest_multiitem.settings.settings import OPTION_OF, Settings

FILE = "pyproject.toml"


def project_settings(start: Path) -> dict[str, str]:
    """What the nearest pyproject.toml, from a directory upwards, says of settings, as text by their names; nothing
    where there is none, or no such table in it. A path in it is relative to the file.

    Raises UsageError for a file that is no TOML, an unknown key, a value of another type, and one that is not valid.
    """
    file = next((path for path in (each / FILE for each in (start, *start.parents)) if path.is_file()), None)
    if file is None:
        return {}
    given = _table(file)
    settings = {}
    for name, value in given.items():
        if name not in OPTION_OF:
            known = ", ".join(OPTION_OF)
            hint = did_you_mean(str(name), OPTION_OF)
            raise UsageError(f"{TABLE} in {file}: {name!r} is no setting{hint or f'; expected one of {known}'}")
        settings[name] = _checked(file, OPTION_OF[name], value)
    return settings


def _table(file: Path) -> Mapping[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
        content = tomllib.loads(text) if "multiitem" in text else {}  # nobody waits for a file that is not for us
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from None
    except ValueError as error:  # of TOML, and of UTF-8
        raise UsageError(f"{file} is not valid: {error}; {TABLE} in it may hold settings") from None
    tool = content.get("tool", {})
    given = tool.get("multiitem", {}) if isinstance(tool, dict) else {}
    if not isinstance(given, dict):
        raise UsageError(f"tool.multiitem in {file} is {given!r:.80}; expected a table, {TABLE}")
    return given


def _checked(file: Path, option: Option, value: Any) -> str:
    """A value as a user would type it. Raises UsageError where the setting does not take it."""
    expected = _expected(option)
    place = f"{TABLE} {option.name} in {file}"
    text = _text(option, value)
    if text is None:
        raise UsageError(f"{place}: {value!r:.80} is not valid: expected {expected}")
    if _is_path(option) and text:
        text = str(file.parent / Path(text).expanduser())
    try:
        option.parse(text)
    except ValueError as error:
        raise UsageError(f"{place}: {text!r:.80} is not valid: {error}") from None
    return text


def _text(option: Option, value: Any) -> str | None:
    """A value of TOML as the setting's text; None for one of another type."""
    kinds = _kinds(option)
    if option.is_switch:
        return str(int(value)) if isinstance(value, bool) else None
    if isinstance(value, bool):
        return None
    if tuple in kinds:
        return _list(value)
    if isinstance(value, int) and kinds & {int, float}:
        return str(value)
    if isinstance(value, float) and float in kinds:
        return repr(value)
    return value if isinstance(value, str) and value and not kinds & {int, float} else None


def _list(value: Any) -> str | None:
    """A list's text: of an array, of a table of names and values, or of a text that is one already."""
    if isinstance(value, dict):
        pairs = [f"{name}={each}" for name, each in value.items() if _is_word(each)]
        return ",".join(pairs) if pairs and len(pairs) == len(value) else None
    words = value if isinstance(value, list) else [value]
    return ",".join(map(str, words)) if words and all(map(_is_word, words)) else None


def _is_word(value: Any) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool) and value != ""


def _expected(option: Option) -> str:
    kinds = _kinds(option)
    if option.is_switch:
        return "true or false"
    if tuple in kinds:
        return "an array"
    return "a whole number" if int in kinds else "a number" if float in kinds else "a string"


def _kinds(option: Option) -> set[Any]:
    hint = _hints()[option.name]
    kinds = get_args(hint) if type(None) in get_args(hint) else (hint,)
    return {getattr(kind, "__origin__", kind) for kind in kinds}


@cache
def _hints() -> dict[str, Any]:
    return get_type_hints(Settings)


def _is_path(option: Option) -> bool:
    return Path in _kinds(option)
