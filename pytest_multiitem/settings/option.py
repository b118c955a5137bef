"""What an option is, and how a field of a dataclass states one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

#: Where a pyproject.toml holds settings.
TABLE = "[tool.multiitem]"


@dataclass(frozen=True)
class Option:
    """One setting. Its names follow from ``name``: ``--multiitem-<name>``, ``MULTI_ITEM_<NAME>``, and
    ``multiitem_<name>`` in an ini file. ``short``: a further command-line name where no other plugin
    owns it. ``parse`` turns text into the value and raises ValueError saying what was expected.
    ``topic``: the group in which help and documentation list it."""

    name: str
    topic: str
    default: Any
    help: str
    parse: Callable[[str], Any]
    metavar: str | None = None
    short: bool = False

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

    @property
    def is_switch(self) -> bool:
        """Whether the name alone turns it on; ``=0`` and ``=1`` may follow it."""
        return isinstance(self.default, bool)

    def place(self, origin: str) -> str:
        """Where a value of that origin was given, for messages."""
        places = {"command line": f"option {self.flag}", "ini": f"ini value {self.ini}"}
        places[TABLE] = f"{TABLE} {self.name}"
        if origin.startswith("--"):
            return f"option {origin}"
        places[f"environment {self.variable}"] = f"environment variable {self.variable}"
        return places.get(origin, f"{self.name} ({origin})")


def option(
    default: Any,
    help: str,
    parse: Callable[[str], Any],
    metavar: str | None = None,
    *,
    short: bool = False,
    topic: str | None = None,
) -> Any:
    """A dataclass field that is a setting; see `Option`. A topic holds for the fields after it as well."""
    stated = {"help": help, "parse": parse, "metavar": metavar, "short": short}
    return dataclasses.field(default=default, metadata={"option": stated, "topic": topic})


def options_of(kind: type) -> tuple[Option, ...]:
    """The options that a dataclass states, in the order of its fields."""
    options, topic = [], ""
    for field in dataclasses.fields(kind):
        if "option" in field.metadata:
            topic = field.metadata["topic"] or topic
            options.append(Option(field.name, topic, field.default, **field.metadata["option"]))
    return tuple(options)
