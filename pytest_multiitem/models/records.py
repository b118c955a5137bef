"""The records of a matrix of models, as they stand in ``model_matrix.json`` (schema ``model_matrix_v1``).

Adding an optional field keeps the version; removing or changing one raises it.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from pytest_multiitem.results.records import GateRecord, SettingRecord

SCHEMA_VERSION: Final = "model_matrix_v1"
FILE = "model_matrix.json"

#: What a model comes to on a backend, with a mask; from the worst to the best.
State = Literal["fail", "error", "now_passes", "inconclusive", "expected_failure", "not_run", "pass"]


class Expected(msgspec.Struct, kw_only=True):
    """A failure that the file of models tells of, and that is about this combination."""

    gate: str
    issue: str
    reason: str = ""


class Speed(msgspec.Struct, kw_only=True):
    """Throughput of one request, and its shape; ``seconds``: of every timed run."""

    items_per_sec: float
    num_items: int
    query_tokens: int
    item_tokens: int
    seconds: list[float]


class ModelCell(msgspec.Struct, kw_only=True):
    """One model on one backend with one mask.

    ``state``: what it comes to. ``reason``: why nothing was measured. ``incompatible``: the file says that the model
    cannot run there. ``expected``: the failures that the file expects there; ``node``: where it was measured;
    ``retried``: why it was measured again.
    """

    model: str
    source: str
    engine: str
    backend: str
    mask: str
    state: State
    reason: str | None = None
    incompatible: bool = False
    engine_version: str | None = None
    gates: list[GateRecord] = []
    expected: list[Expected] = []
    speed: Speed | None = None
    hardware: dict[str, Any] = {}
    node: str | None = None
    retried: list[str] = []
    seconds: float = 0.0


class ModelMatrix(msgspec.Struct, kw_only=True):
    """The whole matrix. ``planned``: the combinations, as ``MODEL BACKEND MASK``; it is ``complete`` once there is a
    cell of each. ``gates``: of the contract. ``counts``: cells by their state. ``disagreements``: cells that were
    measured twice, and what the two measurements do not agree on; the first one counts."""

    schema_version: Literal["model_matrix_v1"] = SCHEMA_VERSION
    run_id: str
    started_at_utc: str
    finished_at_utc: str | None = None
    complete: bool = False
    interrupted_by: str | None = None
    executor: str = "local"
    machine: dict[str, Any] = {}
    versions: dict[str, str] = {}
    settings: list[SettingRecord] = []
    file: str = ""
    gates: list[str] = []
    planned: list[str] = []
    cells: list[ModelCell] = []
    counts: dict[str, int] = {}
    disagreements: list[str] = []
