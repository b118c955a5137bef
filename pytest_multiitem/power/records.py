"""The records of a kill matrix, as they stand in ``kill_matrix.json`` (schema ``kill_matrix_v1``).

Adding an optional field keeps the version; removing or changing one raises it.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from pytest_multiitem.results.details import BuildRecord
from pytest_multiitem.results.records import SettingRecord

SCHEMA_VERSION: Final = "kill_matrix_v1"


class FaultRecord(msgspec.Struct, kw_only=True):
    """What a fault is. ``number``: its row in the list of faults, 0 beyond it. ``scope``: which servers of a build have
    it. ``layer``: engine or wire. ``strengths``: the measured ones, the default first. ``inconclusive_counts``,
    ``thresholds``, ``beyond``: what counts as a kill, and at which strengths one is expected (`faults.base.Fault`)."""

    name: str
    number: int
    about: str
    seen: str
    layer: Literal["engine", "wire"]
    scope: list[str]
    strengths: list[float] = []
    unit: str = ""
    circumstances: dict[str, Any] = {}
    inconclusive_counts: bool = False
    thresholds: bool = False
    beyond: list[float] = []


class FailedBuild(msgspec.Struct, kw_only=True):
    """A build that could not be measured: nothing is known of its fault. ``reasons``: of every try, in their order."""

    backend: str
    label: str
    reasons: list[str]


class KillMatrix(msgspec.Struct, kw_only=True):
    """The whole measurement. ``gates``: the columns, in order, as ``GATE`` or ``GATE[PLACE]``. ``planned``: by backend,
    the labels of the builds to be measured; it is ``complete`` once all of them are. ``killed``: by backend,
    numbers of the list of faults all of whose faults were killed, and how many numbers were measured. ``unique``: the
    faults that only this gate saw. ``sensitivity``: by gate and fault, the smallest strength that it saw on every
    backend measured; ``reach``: the largest. ``not_measured``: gates that are no column, with the reason.

    ``executor``: where builds were measured. ``failed``: those that could not be, though tried again elsewhere.
    ``retried``: what was measured again, and why. ``disagreements``: builds that were measured twice, and what the two
    measurements do not agree on; the first one counts."""

    schema_version: Literal["kill_matrix_v1"] = SCHEMA_VERSION
    run_id: str
    started_at_utc: str
    finished_at_utc: str | None = None
    complete: bool = False
    interrupted_by: str | None = None
    machine: dict[str, Any] = {}
    versions: dict[str, str] = {}
    settings: list[SettingRecord] = []
    gates: list[str] = []
    not_measured: dict[str, str] = {}
    faults: list[FaultRecord] = []
    planned: dict[str, list[str]] = {}
    builds: list[BuildRecord] = []
    killed: dict[str, list[int]] = {}
    expected: list[int] = []
    unique: dict[str, list[str]] = {}
    sensitivity: dict[str, dict[str, float]] = {}
    reach: dict[str, dict[str, float]] = {}
    missing: dict[str, str] = {}
    executor: str = "local"
    failed: list[FailedBuild] = []
    retried: list[str] = []
    disagreements: list[str] = []
