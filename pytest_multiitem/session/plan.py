"""The tests of a run that use the plugin."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Plan:
    """The tests of this run that use the plugin: node id → gate name (None: no gate)."""

    selected: dict[str, str | None] = field(default_factory=dict)
    deselected: dict[str, str | None] = field(default_factory=dict)
