"""Which ways to ask for scores were verified on which engine: what the documentation keeps of runs (schema
``multiitem_verified_modes_v1``)."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

VERIFIED_MODES_SCHEMA: Final = "multiitem_verified_modes_v1"


class VerifiedMode(msgspec.Struct, kw_only=True):
    """A mode on one version of an engine, as a run has judged it.

    ``holds``: whether everything about it that was measured passes; null where something could not be decided.
    ``because``: what says so: the gates, or checks of a gate, that pass, or those that do not. ``backends``: of the
    engine, that were measured. ``measured_at_utc``: when its run began.
    """

    mode: str
    engine: str
    version: str | None
    holds: bool | None
    because: list[str]
    backends: list[str]
    measured_at_utc: str


class VerifiedModes(msgspec.Struct, kw_only=True):
    """All of them, by engine, version and mode; of several runs, the last one counts."""

    schema_version: Literal["multiitem_verified_modes_v1"] = VERIFIED_MODES_SCHEMA
    modes: list[VerifiedMode] = []

    def renewed(self, found: list[VerifiedMode]) -> VerifiedModes:
        """With what further runs have found in the place of what was known of the same."""
        known = {(each.engine, each.version or "", each.mode): each for each in (*self.modes, *found)}
        return VerifiedModes(modes=[known[key] for key in sorted(known)])
