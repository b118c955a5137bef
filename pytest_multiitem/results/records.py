"""The records of a run, as they stand in ``matrix.json`` (schema ``multiitem_matrix_v1``).

Adding an optional field keeps the version; removing or changing one raises it.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from pytest_multiitem.results.details import Details, Notes
from pytest_multiitem.results.verdict import Verdict as Verdict

SCHEMA_VERSION: Final = "multiitem_matrix_v1"


class Place(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """Which of a gate's tests a verdict is of, by the test's parameters. ``label``: all of them, as the test's id shows
    them; null where it has none. ``variant``: of a profile matrix."""

    label: str | None = None
    backend: str | None = None
    mask: str | None = None
    model: str | None = None
    variant: str | None = None


class Evidence(msgspec.Struct, kw_only=True):
    """What a verdict rests on; null where it was not measured.

    ``noise_floor``: largest score difference between quiet replays of the same request. ``traffic_floor``: the same for
    replays among other requests. ``leak_visibility``: how far a neighbour's tokens move a score on this model.
    ``semantic_visibility``: how far the delimiter does. ``score_spread``: range of the scores over the items.
    ``shape_floor``: how far a batch of another shape moves scores where nothing leaks; measured only where scores
    moved. ``leak_bound``: a leak is at most this large, with 95 % confidence; measured only then.
    """

    noise_floor: float | None = None
    traffic_floor: float | None = None
    leak_visibility: float | None = None
    semantic_visibility: float | None = None
    score_spread: float | None = None
    shape_floor: float | None = None
    leak_bound: float | None = None


#: The fields of `Evidence`, in the order in which they are shown.
EVIDENCE: Final = Evidence.__struct_fields__


class GateRecord(Evidence, kw_only=True):
    """One gate's verdict with its evidence.

    ``value`` and ``limit`` are in the gate's own unit (score difference, or ratio); ``null`` where nothing (finite) was
    measured. ``role``: what the server under test is there for. ``mask_attested``: what the running server says it
    executed for exactly these requests. ``now_passes``: a known incompatibility that did not show. ``place``: which of
    the gate's tests this is.
    """

    gate: str
    verdict: Verdict
    reason: str
    relation: Literal["==", "<=", ">=", "holds"]
    value: float | None = None
    limit: float | None = None
    interval: tuple[float, float] | None = None
    samples: dict[str, int] = {}
    engine: str | None = None
    role: str | None = None
    backend: str | None = None
    model: str | None = None
    dtype: str | None = None
    semantics: str | None = None
    mask_requested: str | None = None
    mask_attested: str | None = None
    server_chunk_size: int | None = None
    client_chunk_size: int | None = None
    items_per_sequence: float | None = None
    details: Details = msgspec.field(default_factory=Notes)
    now_passes: str | None = None
    place: Place = Place()
    nodeid: str = ""
    seconds: float = 0.0


class BenchmarkRecord(msgspec.Struct, kw_only=True):
    """One benchmark. Times in seconds; ``p95_sec`` from fewer than 90 runs is an interpolation.

    ``query_tokens``, ``item_tokens``: of several requests of a user's own, the means, rounded. ``workload_sha256``: of
    the encoded requests; null where the benchmark does not say what it sends.
    """

    name: str
    nodeid: str
    engine: str
    backend: str
    model: str
    mask_requested: str | None
    mask_attested: str | None
    num_items: int
    query_tokens: int
    item_tokens: int
    client_chunk_size: int
    warmup_runs: int
    runs_sec: list[float]
    p50_sec: float
    p95_sec: float
    p95_interpolated: bool
    items_per_sec_p50: float
    workload_sha256: str | None = None
    dtype: str | None = None
    device: str | None = None
    server_chunk_size: int | None = None


class SettingRecord(msgspec.Struct, kw_only=True):
    """One setting as a user would type it, and where it came from."""

    name: str
    value: str
    origin: str


class ServerRecord(msgspec.Struct, kw_only=True):
    """A server that the run used; ``info`` is what it answered to ``/get_server_info``, ``packages`` the
    versions in its engine's own environment."""

    label: str
    url: str
    owned: bool
    command: list[str] = []
    log: str | None = None
    info: dict[str, Any] | None = None
    packages: dict[str, str] = {}


class TrafficSource(msgspec.Struct, kw_only=True):
    """A user's own requests: their file, and what was taken of it.

    ``sha256``: of the file. ``requests``: in the file; ``drawn``: how many of them are sent, chosen by ``seed`` where
    that is fewer. ``tokenizer``: what made ids of text; None where all content was ids.
    """

    path: str
    sha256: str
    requests: int
    drawn: int
    seed: int
    tokenizer: str | None = None

    @property
    def words(self) -> str:
        """In a line."""
        part = f"{self.drawn} request{'s' * (self.drawn != 1)}"
        if self.drawn < self.requests:
            part = f"a sample of {self.drawn} of {self.requests} requests (seed {self.seed})"
        of = f" as text by the tokenizer {self.tokenizer}" if self.tokenizer else ""
        return f"{part} of {self.path}{of}, sha256 {self.sha256[:12]}"


class VariantRecord(msgspec.Struct, kw_only=True):
    """A launch variant of a profile matrix.

    ``flags``: what it lays over the launch profile of the packed server, as typed; ``environment``: names of variables
    that it sets there; ``settings``: as a user would type them. ``attested``: what the server itself says of what was
    asked for; ``untold``: that of which it says nothing. ``reason``: why it was not measured.
    """

    name: str
    engine: str
    about: str = ""
    engine_version: str | None = None
    flags: list[str] = []
    environment: list[str] = []
    settings: dict[str, str] = {}
    attested: dict[str, Any] = {}
    untold: list[str] = []
    reason: str | None = None


class TestRecord(msgspec.Struct, kw_only=True):
    """One test of the run: its outcome in pytest's words, and its gate's verdict where it has one."""

    nodeid: str
    outcome: Literal["passed", "failed", "skipped", "deselected", "not reached"]
    seconds: float = 0.0
    gate: str | None = None
    verdict: Verdict | None = None
    reason: str | None = None


class Matrix(msgspec.Struct, kw_only=True):
    """The whole run. ``traffic``: where its requests came from; null where they are the built-in ones. ``artefacts``:
    further files that its options wrote, from its directory. ``variants``: of a profile matrix, in the file's order."""

    schema_version: Literal["multiitem_matrix_v1"] = SCHEMA_VERSION
    run_id: str
    started_at_utc: str
    finished_at_utc: str
    complete: bool
    interrupted_by: str | None
    exit_status: int
    command_line: list[str]
    machine: dict[str, Any]
    versions: dict[str, str]
    settings: list[SettingRecord]
    servers: list[ServerRecord]
    gates: list[GateRecord]
    benchmarks: list[BenchmarkRecord]
    tests: list[TestRecord]
    summary: dict[str, int]
    traffic: TrafficSource | None = None
    artefacts: list[str] = []
    variants: list[VariantRecord] = []
