"""How a machine is set up for an engine: data, shipped beside this module, and laid over by a user's own."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import msgspec

from pytest_multiitem.errors import UsageError, did_you_mean
from pytest_multiitem.inputs import read_bytes

_SHIPPED = Path(__file__).with_name("setups.toml")


class Setup(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """See ``setups.toml``. ``copies_wheel``: whether the product's wheel is taken there first."""

    python: str
    engine_python: str | None = None
    commands: list[str] = []
    copies_wheel: bool = True


def setup_for(engine: str, own: Path | None) -> Setup:
    """The set-up of an engine. Raises UsageError."""
    tables = _read(_SHIPPED)
    for name, table in (_read(own) if own else {}).items():
        tables[name] = {**tables.get(name, {}), **table} if isinstance(table, dict) else table
    if engine not in tables:
        hint = did_you_mean(engine, tables)
        raise UsageError(
            f"no set-up for the engine {engine!r}; expected {', '.join(tables)}{hint}, or one of --setup FILE"
        )
    try:
        return msgspec.convert(tables[engine], Setup)
    except msgspec.ValidationError as error:
        raise UsageError(f"set-up of the engine {engine!r}{f' in {own}' if own else ''}: {error}") from None


def ready_made(python: str) -> Setup:
    """Of a machine that has the product in an interpreter's environment already: only looked at."""
    return Setup(python=python, copies_wheel=False)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_bytes(path, "set-up").decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"set-up {path}: not valid TOML: {error}") from None
