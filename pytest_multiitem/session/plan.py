"""The tests of a run that use the plugin."""

from __future__ import annotations

from dataclasses import dataclass, field

from pytest_multiitem.results.records import Place


@dataclass
class Plan:
    """The tests of this run that use the plugin: node id → gate name (None: no gate), and their parameters."""

    selected: dict[str, str | None] = field(default_factory=dict)
    deselected: dict[str, str | None] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)
