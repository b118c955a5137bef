"""What an option is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Option:
    """One setting. Its names follow from ``name``: ``--multiitem-<name>``, ``MULTI_ITEM_<NAME>``, and
    ``multiitem_<name>`` in an ini file. ``short``: a further command-line name where no other plugin
    owns it. ``parse`` turns text into the value and raises ValueError saying what was expected."""

    name: str
    default: Any
    help: str
    parse: Callable[[str], Any]
    metavar: str | None = None
    short: bool = False
    is_flag: bool = False

    @property
    def flag(self) -> str:
        """The canonical command-line name."""
        return "--multiitem-" + self.name.replace("_", "-")

    @property
    def short_flag(self) -> str:
        """The name that users type, where it is free."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """The environment variable."""
        return "MULTI_ITEM_" + self.name.upper()

    @property
    def ini(self) -> str:
        """The ini key; also the ``dest`` of the command-line option."""
        return "multiitem_" + self.name
