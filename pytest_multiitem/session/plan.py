"""The tests of a run that use the plugin, and the servers that they will ask for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from pytest_multiitem.results.records import Place
from pytest_multiitem.results.store import write_atomically

if TYPE_CHECKING:
    from pytest_multiitem.adapters.base import Profile

#: Where an xdist worker leaves its plan for the controller, in the run's directory.
PLAN = ".plan.json"


@dataclass
class Plan:
    """Selected and deselected tests: node id → gate name (None: no gate), and the parameters of both. ``profiles``: of
    the selected ones."""

    selected: dict[str, str | None] = field(default_factory=dict)
    deselected: dict[str, str | None] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)
    profiles: tuple[Profile, ...] = ()

    @property
    def uses_plugin(self) -> bool:
        """Whether any test of the run uses the plugin; else the plugin leaves no trace."""
        return bool(self.selected or self.deselected)

    def write(self, run_dir: Path) -> None:
        """Leave the tests for the controller; every worker leaves the same."""
        content = {"selected": self.selected, "deselected": self.deselected, "places": self.places}
        write_atomically(run_dir / PLAN, msgspec.json.encode(content))

    def adopt(self, run_dir: Path) -> bool:
        """Take over the tests that a worker left; whether this plan was empty before."""
        path = run_dir / PLAN
        is_first = not self.uses_plugin
        if is_first:
            content = msgspec.json.decode(path.read_bytes())
            self.selected, self.deselected = content["selected"], content["deselected"]
            self.places = msgspec.convert(content["places"], dict[str, Place])
        path.unlink()
        return is_first
