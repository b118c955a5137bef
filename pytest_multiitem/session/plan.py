"""The tests of a run that use the plugin, and the servers that they will ask for."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from pytest_multiitem.errors import StorageError
from pytest_multiitem.results.records import Place
from pytest_multiitem.results.store import write_atomically

if TYPE_CHECKING:
    from pytest_multiitem.adapters.base import Profile

#: Where an xdist worker leaves its plan for the controller: in the run's directory; else, so that the controller hears
#: of a run whose directory cannot be written to, among this user's temporary files.
_PLAN = ".plan.json"


def _places(run_dir: Path) -> tuple[Path, Path]:
    return run_dir / _PLAN, Path(tempfile.gettempdir()) / f"multiitem-plan-{run_dir.name}.json"


def left_by_workers(run_dir: Path) -> bool:
    """Whether a worker has left its plan for the controller."""
    return any(path.exists() and path.stat().st_uid == os.getuid() for path in _places(run_dir))


def remove(run_dir: Path) -> None:
    """Take away what workers have left."""
    for path in _places(run_dir):
        with suppress(OSError):
            path.unlink()


@dataclass
class Plan:
    """Selected and deselected tests: node id → gate name (None: no gate), and the parameters of both. ``profiles``: of
    the selected ones. ``starts_servers``: whether any of these is started by the run."""

    selected: dict[str, str | None] = field(default_factory=dict)
    deselected: dict[str, str | None] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)
    profiles: tuple[Profile, ...] = ()
    starts_servers: bool = False

    @property
    def uses_plugin(self) -> bool:
        """Whether any test of the run uses the plugin; else the plugin leaves no trace."""
        return bool(self.selected or self.deselected)

    def write(self, run_dir: Path) -> None:
        """Leave the tests for the controller; every worker leaves the same. Raises StorageError."""
        plan = {"selected": self.selected, "deselected": self.deselected, "places": self.places}
        content = msgspec.json.encode({**plan, "starts_servers": self.starts_servers})
        in_run_dir, elsewhere = _places(run_dir)
        try:
            write_atomically(in_run_dir, content)
        except StorageError:
            write_atomically(elsewhere, content)

    def adopt(self, run_dir: Path) -> bool:
        """Take over the tests that a worker left; whether this plan was empty before."""
        path = next(path for path in _places(run_dir) if path.exists())
        is_first = not self.uses_plugin
        if is_first:
            content = msgspec.json.decode(path.read_bytes())
            self.selected, self.deselected = content["selected"], content["deselected"]
            self.places = msgspec.convert(content["places"], dict[str, Place])
            self.starts_servers = content["starts_servers"]
        remove(run_dir)
        return is_first
