"""The two files of the two-step evaluation, typed: one endpoint's evaluation, and two of them combined.

Their field names are final, because other tools read them; what is measured beyond those names stands in
further fields. Adding an optional field keeps a schema's version; removing or changing one raises it.
A field is left out where nothing was measured.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from pytest_multiitem.errors import UsageError
from pytest_multiitem.results.records import TrafficSource
from pytest_multiitem.results.store import read_record
from pytest_multiitem.storage import try_writing, writing

EVALUATION_SCHEMA: Final = "multiitem_evaluation_v1"
COMBINED_SCHEMA: Final = "multiitem_combined_v1"

#: Scores [N][K] of one request.
Rows = list[list[float]]
#: The values of `scoring.semantics.Semantics` that equal a serial scoring.
Declared = Literal["prefix_first_delim", "query_prefix"]


class Mutation(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One item replaced. ``unchanged_item_abs_diffs`` [N-1]: of every other item, the largest score difference
    over the labels, in the order of the items. Further: ``mutation``, "same_length", "longer" or "shorter"."""

    mutated_index: int
    mutated_item_ids: list[int]
    scores: Rows
    unchanged_item_abs_diffs: list[float]
    max_abs_diff_unchanged: float
    mean_abs_diff_unchanged: float
    mutation: str | None = None


class Isolation(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One request, its scores [N][K], and the worst of its mutations.

    Further: ``name`` and ``labels`` of the request, ``replays`` (scores of the same request, sent again), and
    ``mutations`` (every one).
    """

    query_ids: list[int]
    item_ids: list[list[int]]
    base_scores: Rows | None = None
    same_length_mutation: Mutation | None = None
    changed_length_mutation: Mutation | None = None
    name: str | None = None
    labels: list[int] | None = None
    replays: list[Rows] | None = None
    mutations: list[Mutation] | None = None


class Alignment(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The same items behind ``query + delimiter``, scored serially. Further: ``replays``."""

    query_plus_delimiter_ids: list[int]
    base_scores_query_plus_delimiter: Rows
    replays: list[Rows] | None = None


class FurtherCase(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A further request of a workload, measured like the first one."""

    isolation: Isolation
    semantic_alignment: Alignment | None = None


class Timing(msgspec.Struct, kw_only=True, omit_defaults=True):
    """N items, in seconds: one packed request, or N one-item requests. ``p95_interpolated``: the p95 comes from
    too few runs to be one. ``wrong_scores``: runs, warm-ups too, with a score that is not what the same item scores in
    other requests."""

    latencies_sec: list[float]
    p50_sec: float
    p95_sec: float
    items_per_sec_p50: float
    items_per_sec_p95: float
    p95_interpolated: bool | None = None
    wrong_scores: int = 0


class LeakVisibility(msgspec.Struct, kw_only=True):
    """How far an item's score moves behind a neighbour, measured serially; ``shifts``: one a pair of items."""

    shifts: list[float]
    scores: list[Rows]


class TimedRequest(msgspec.Struct, kw_only=True):
    """What was timed: N items are the first N of these, and of those of ``further_timed`` in turn."""

    query_ids: list[int]
    item_ids: list[list[int]]


class Attested(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What the server says it executed; see `adapters.attestation.Attestation`."""

    mask: str
    packed_sequences: int = 0
    packed_items: int = 0
    problem: str | None = None


class Failure(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Where the evaluation ended early, or what made what was measured worthless (``wrong_scores``).

    ``kind``: `transport.client.FailureKind`. ``status``: the HTTP status, if one came.
    """

    stage: str
    kind: str
    message: str
    status: int | None = None


class Evaluation(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One endpoint, measured. ``labels`` are those of ``isolation``'s request.

    Everything from ``schema_version`` on is further. ``semantics``: what a multi-item server is declared to compute.
    ``backend``: what serves, "jax", "pytorch" or "transformers". ``complete``: whether everything was measured.
    ``leak_visibility``: by semantics, in serial mode. ``attestation``: of "scores" and of "timing". ``timing_doubt``:
    why it could not be told whether timed scores are wrong. ``score_problem``: what is wrong with another score, by
    the same item in other requests.
    ``further_timed``: of a user's own requests, those that are timed after the first one. ``traffic``: the user's file.
    ``server``: what it says of itself. ``machine``: where the requests were sent from.
    """

    mode: Literal["multi", "serial"]
    url: str
    model: str | None
    labels: list[int]
    delimiter: int
    isolation: Isolation
    performance: dict[str, Timing]
    semantic_alignment: Alignment | None = None
    schema_version: str | None = None
    created_at_utc: str | None = None
    package_version: str | None = None
    semantics: Declared | None = None
    backend: str | None = None
    seed: int | None = None
    warmup_runs: int | None = None
    complete: bool | None = None
    failure: Failure | None = None
    further_cases: list[FurtherCase] = []
    leak_visibility: dict[str, LeakVisibility] | None = None
    timed_request: TimedRequest | None = None
    further_timed: list[TimedRequest] = []
    timing_doubt: str | None = None
    score_problem: str | None = None
    attestation: dict[str, Attested] = {}
    traffic: TrafficSource | None = None
    server: dict[str, Any] = {}
    machine: dict[str, Any] = {}


class CombinedIsolation(msgspec.Struct, kw_only=True):
    """The largest score change of an untouched item, over all mutations of a kind; ``…_unchanged_diffs``: of
    every untouched item under the worst mutation."""

    same_length_mutation_max_abs_diff: float | UnsetType | None = UNSET
    changed_length_mutation_max_abs_diff: float | UnsetType | None = UNSET
    same_length_mutation_unchanged_diffs: list[float] | UnsetType = UNSET
    changed_length_mutation_unchanged_diffs: list[float] | UnsetType = UNSET


class Equivalence(msgspec.Struct, kw_only=True):
    """Packed scores against a serial reference; ``abs_diffs``: one an item, the largest over the labels."""

    max_abs_diff: float | UnsetType | None = UNSET
    mean_abs_diff: float | UnsetType | None = UNSET
    abs_diffs: list[float] | UnsetType = UNSET


class SpeedPoint(msgspec.Struct, kw_only=True):
    """N items on both sides. ``speedup_interval_95``: the sides were timed apart, so their runs are not paired.
    ``…_wrong_scores``: runs with wrong scores; left out where there are none."""

    speedup_vs_serial_p50: float | UnsetType | None = UNSET
    multi_p50_sec: float | UnsetType = UNSET
    multi_p95_sec: float | UnsetType = UNSET
    serial_p50_sec: float | UnsetType = UNSET
    serial_p95_sec: float | UnsetType = UNSET
    multi_items_per_sec_p50: float | UnsetType = UNSET
    serial_items_per_sec_p50: float | UnsetType = UNSET
    multi_latencies_sec: list[float] | UnsetType = UNSET
    serial_latencies_sec: list[float] | UnsetType = UNSET
    multi_wrong_scores: int | UnsetType = UNSET
    serial_wrong_scores: int | UnsetType = UNSET
    speedup_interval_95: tuple[float, float] | None = None


class GateEvidence(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What was measured around a gate's value (see `results.records.Evidence`).

    ``problem`` makes the gate FAIL, ``error`` ERROR where there is no problem, ``doubt`` keeps it from a PASS,
    ``not_run`` says why there is no value.
    """

    noise_floor: float | None = None
    leak_visibility: float | None = None
    score_spread: float | None = None
    problem: str | None = None
    error: str | None = None
    doubt: str | None = None
    not_run: str | None = None


class Sources(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The evaluations that were joined, whole: everything else in the file follows from them."""

    multi: Evaluation
    serial: Evaluation
    torch: Evaluation | None = None


class Combined(msgspec.Struct, kw_only=True):
    """A multi-item and a serial evaluation, joined; the parity fields stand beside the multi-vs-serial ones.

    ``evidence``: by gate. ``torch_reference``: what the parity fields compare with. ``notes``: what a reader
    of the verdicts should know. ``sources``: what all of it is computed from.
    """

    schema_version: str | UnsetType = UNSET
    created_at_utc: str | UnsetType = UNSET
    package_version: str | UnsetType = UNSET
    model: str | UnsetType | None = UNSET
    labels: list[int] | UnsetType = UNSET
    delimiter: int | UnsetType = UNSET
    semantics: Declared | UnsetType | None = UNSET
    multi_url: str | UnsetType = UNSET
    serial_url: str | UnsetType = UNSET
    isolation: CombinedIsolation | UnsetType = UNSET
    equivalence: Equivalence | UnsetType = UNSET
    equivalence_query_plus_delimiter: Equivalence | UnsetType = UNSET
    performance: dict[str, SpeedPoint] | UnsetType = UNSET
    max_abs_diff_jax_serial_vs_torch_serial: float | UnsetType | None = UNSET
    max_abs_diff_jax_multi_vs_torch_multi_semantic: float | UnsetType | None = UNSET
    max_abs_diff_jax_multi_vs_torch_serial: float | UnsetType | None = UNSET
    torch_reference: dict[str, Any] | UnsetType = UNSET
    evidence: dict[str, GateEvidence] = {}
    notes: list[str] = []
    sources: Sources | UnsetType = UNSET


def check_writable(path: Path) -> None:
    """Make a file's directory. Raises UsageError, before anything is measured for nothing."""
    if path.parent.exists() and not path.parent.is_dir():
        raise UsageError(f"cannot write {path}: {path.parent} is no directory")
    with writing(path, advice="name a file in a directory that can be written to"):
        path.parent.mkdir(parents=True, exist_ok=True)
        try_writing(path.parent)
    if path.is_dir():
        raise UsageError(f"cannot write {path}: it is a directory; name a file")


def read_evaluation(path: Path) -> Evaluation:
    """Read one endpoint's evaluation. Raises UsageError naming the field that is missing or wrong."""
    return read_record(path, Evaluation, EVALUATION_SCHEMA, "write one with: multiitem evaluate", unnamed=True)[0]


def read_combined(paths: list[Path]) -> Combined:
    """Read combined results: one file, or one a section, as other tools write them.

    Raises UsageError naming the field that is wrong, or in which two files contradict each other.
    """
    joined: dict[str, Any] = {}
    for path in paths:
        advice = "join evaluations with: multiitem combine"
        _, content = read_record(path, Combined, COMBINED_SCHEMA, advice, unnamed=True)
        for name, value in content.items():
            if joined.setdefault(name, value) != value:
                raise UsageError(f"{path} and {paths[0]} differ in {name}: they are not of the same evaluations")
    return msgspec.convert(joined, Combined)
