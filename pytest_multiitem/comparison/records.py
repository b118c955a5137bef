"""The artefacts of a comparison, as they stand in their JSON files.

The fields of the public scripts bear the public names and mean what they mean there, so that those scripts read these
files and these files can be theirs; what is measured beyond them stands in further fields. ``package_version`` stands
in files of this package alone.

Fields without a default are those that no tool can leave out; everything else may be missing in files of other
tools. Unknown fields are kept by `artefacts`. Adding an optional field keeps a schema's version. Times
are in milliseconds, money in US dollars, scores are softmax probabilities [N][K].
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from pytest_multiitem.errors import StorageError
from pytest_multiitem.results.records import TrafficSource

WORKLOAD_SCHEMA: Final = "canonical_score_workload_v1"
MATRIX_SCHEMA: Final = "score_matrix_v1"
COMPARISON_SCHEMA: Final = "cross_backend_comparison_v1"
AB_SCHEMA: Final = "multiitem_ab_v1"

#: Scores [N][K] of one request.
Scores = list[list[float]]
View = Literal["portable", "best_native"]
VIEWS: Final[tuple[View, ...]] = ("portable", "best_native")


class WorkloadRequest(msgspec.Struct, kw_only=True):
    """One request as token ids."""

    request_id: str
    query_token_ids: list[int]
    items_token_ids: list[list[int]]
    label_token_ids: list[int]
    apply_softmax: bool = True
    item_first: bool = False


class Workload(msgspec.Struct, kw_only=True):
    """The canonical workload. ``checksums``: ``<request id>_sha256`` → sha256 (`scoring.cases.request_sha256`).

    ``query_tokens``, ``num_items``, ``item_tokens``, ``label_token_ids``: where all requests have the same.

    Further: ``package_version``; ``seed``; ``source``: the user's own file that the requests were read from;
    ``discrimination``: what tells the items apart (`workload.discrimination`), and the spread of
    ``scores`` ([requests][N][K]), where a server scored it.
    """

    schema_version: Literal["canonical_score_workload_v1"]
    requests: list[WorkloadRequest]
    generated_at_utc: str | None = None
    model: str | None = None
    query_tokens: int | None = None
    num_items: int | None = None
    item_tokens: int | None = None
    delimiter_token_id: int | None = None
    label_token_ids: list[int] | None = None
    tokenizer: Any = None
    checksums: dict[str, str] = {}
    package_version: str | None = None
    seed: int | None = None
    discrimination: dict[str, Any] = {}
    scores: list[Scores] | None = None
    source: TrafficSource | None = None


class RunRecord(msgspec.Struct, kw_only=True):
    """One run over all items: ⌈N / chunk size⌉ requests, one after the other, each with its ``call_latencies_ms``.

    ``total_e2e_ms``: their sum; another tool may count its own work between them. A run that is not ``ok`` has a
    ``failure_reason`` (a `transport.client.FailureKind`) and the calls up to the failure; all of them where the scores
    are wrong. Further: ``block``, the number of the interleaved block it was measured in.
    """

    ok: bool
    total_e2e_ms: float | None = None
    call_latencies_ms: list[float] = []
    run_index: int | None = None
    failure_reason: str | None = None
    failure_detail: str | None = None
    block: int | None = None


class Row(msgspec.Struct, kw_only=True):
    """One client chunk size.

    ``…_total_e2e_ms``: a whole run. ``…_chunk_call_ms``: one request. ``throughput_items_sec``: N over the mean
    run. ``first_run_penalty_ratio``: the first timed run over the mean of the others. ``reference_scores``: the
    scores of the first successful run, all items.

    Further: ``percentiles``: of runs and of calls, null where the samples do not support them, with the reasons.
    ``p95_interpolated``: fewer than 90 runs. ``session``: rows of one session were measured in interleaved
    blocks. ``noise_floor``: largest score difference between the row's runs. ``score_spread``: range of the
    scores over the items. ``mask_attested`` and ``attestation_problem``: what the server says it executed.
    ``unstable`` and ``recompilation``: why the times are to be doubted, null where they are not.
    ``score_problem``: what is wrong with scores outside the timed runs (warm-ups, the first request), or why the scores
    could not be compared with those of the same items in other requests; null where all is well.
    ``warmup_ms``: of every request sent before the timed runs. ``request_items``: the items of each request of a
    workload of several, which a run sends one after the other. ``measured_at_utc``.
    """

    client_chunk_size: int
    status: Literal["ok", "partial_failure", "failed"]
    num_chunks: int | None = None
    timed_runs: int | None = None
    successful_runs: int | None = None
    success_rate: float | None = None
    p50_total_e2e_ms: float | None = None
    p95_total_e2e_ms: float | None = None
    mean_total_e2e_ms: float | None = None
    mean_chunk_call_ms: float | None = None
    p95_chunk_call_ms: float | None = None
    throughput_items_sec: float | None = None
    first_run_penalty_ratio: float | None = None
    failure_reason_counts: dict[str, int] = {}
    usd_per_run: float | None = None
    items_per_usd: float | None = None
    reference_scores: Scores | None = None
    run_records: list[RunRecord] = []
    percentiles: dict[str, Any] = {}
    p95_interpolated: bool | None = None
    session: str | None = None
    noise_floor: float | None = None
    score_spread: float | None = None
    mask_attested: str | None = None
    attestation_problem: str | None = None
    unstable: str | None = None
    recompilation: str | None = None
    score_problem: str | None = None
    warmup_ms: list[float] = []
    request_items: list[int] = []
    measured_at_utc: str | None = None


class WorkloadRef(msgspec.Struct, kw_only=True):
    """Which request of which workload was measured; ``sha256`` is that of the workload's file. Further:
    ``request_sha256``, the checksum of the request, which stays the same in a workload that is written anew;
    ``requests``: how many were measured where that is all of several, and then ``request_sha256`` is of the checksums
    of all, a line each."""

    path: str | None = None
    sha256: str | None = None
    request_id: str | None = None
    request_sha256: str | None = None
    requests: int | None = None

    @property
    def measured_sha256(self) -> str | None:
        """What tells the workload: the request's checksum, or the file's where that is not known."""
        return self.request_sha256 or self.sha256


class OwnReference(msgspec.Struct, kw_only=True):
    """Some items scored alone by a serial server, in the context that the side's declared semantics gives them.

    ``item_indices``: which items. ``scores``: theirs, serial. Where it could not be measured: ``reason``.
    """

    semantics: str | None = None
    source: str | None = None
    item_indices: list[int] = []
    scores: Scores = []
    noise_floor: float | None = None
    reason: str | None = None


class SelfComparison(msgspec.Struct, kw_only=True):
    """A/A: one server measured as if it were two, in interleaved blocks. A ratio interval that excludes 1 says
    that this machine shows differences where there are none."""

    client_chunk_size: int
    first_ms: list[float]
    second_ms: list[float]
    ratio_p50: float | None = None
    ratio_interval_95: tuple[float, float] | None = None


class Selected(msgspec.Struct, kw_only=True):
    """The row that is recommended, with what it won by."""

    client_chunk_size: int
    throughput_items_sec: float | None = None
    p95_total_e2e_ms: float | None = None
    success_rate: float | None = None


class Choice(msgspec.Struct, kw_only=True):
    """What the guardrail rule chose among some rows of a matrix (`guardrail.choice`): of ``eligible_count`` rows with
    a p95 of at most ``guardrail_p95_ms`` the one with the highest throughput, if any. ``notes``: why there is none."""

    selected: Selected | None
    eligible_count: int | None = None
    guardrail_ratio: float | None = None
    guardrail_p95_ms: float | None = None
    notes: list[str] = []


class Thresholds(msgspec.Struct, kw_only=True):
    """How far the scores of two sides may be apart."""

    max_abs_diff: float
    mean_abs_diff: float


class MatrixSummary(msgspec.Struct, kw_only=True):
    """Which chunk size a matrix recommends for its own side. ``correctness_thresholds``: that a comparison will judge
    by."""

    guardrail_ratio: float | None = None
    sweep_recommendation: Choice | None = None
    confirm_chunk_sizes: list[int] = []
    confirm_recommendation: Choice | None = None
    final_recommendation: Choice | None = None
    correctness_thresholds: Thresholds | None = None

    @property
    def final_chunk_size(self) -> int | None:
        """The client chunk size that is recommended; None where none is."""
        final = self.final_recommendation
        return None if final is None or final.selected is None else final.selected.client_chunk_size


class ScoreMatrix(msgspec.Struct, kw_only=True):
    """One side in one view: every client chunk size, swept, and the best ones confirmed.

    ``workload``: the workload's head, without its requests. Further: ``package_version``, ``engine``,
    ``semantics`` (declared),
    ``mask_requested``, ``cost_per_hour_usd``, ``own_reference``, ``self_comparison``, ``harness`` (the harness's own
    time, see `bench.overhead`), ``load`` (a `bench.load_records.LoadReport`), ``complete`` (false while rows are
    missing), ``blocker`` (why they are).
    """

    schema_version: Literal["score_matrix_v1"]
    backend: str
    evaluation_view: str
    results: list[Row]
    generated_at_utc: str | None = None
    hardware: Any = None
    server_config: Any = None
    workload_ref: WorkloadRef = msgspec.field(default_factory=WorkloadRef)
    workload: Any = None
    confirm_results: list[Row] = []
    summary: MatrixSummary = msgspec.field(default_factory=MatrixSummary)
    notes: list[str] = []
    package_version: str | None = None
    engine: str | None = None
    model: str | None = None
    dtype: str | None = None
    semantics: str | None = None
    mask_requested: str | None = None
    cost_per_hour_usd: float | None = None
    own_reference: OwnReference | None = None
    self_comparison: SelfComparison | None = None
    harness: dict[str, Any] | None = None
    load: dict[str, Any] | None = None
    versions: dict[str, str] = {}
    complete: bool | None = None
    blocker: str | None = None


class Agreement(msgspec.Struct, kw_only=True):
    """The scores of two sides on the same items (see `agreement.agreement`).

    ``num_compared``: how many scores. ``log_odds``: of the first label against the others.
    ``kendall_tau``, ``top_k_overlap``, ``ndcg_at_10``: what
    a user of the ranking feels; the first label's score ranks. ``worst_items``: index and both sides' scores.
    """

    num_compared: int | None = None
    max_abs_diff: float | None = None
    mean_abs_diff: float | None = None
    max_log_odds_diff: float | None = None
    mean_log_odds_diff: float | None = None
    kendall_tau: float | None = None
    top_k_overlap: dict[str, float] = {}
    ndcg_at_10: float | None = None
    ndcg_at_10_reverse: float | None = None
    noise_floor: float | None = None
    score_spread: float | None = None
    worst_items: list[dict[str, Any]] = []
    problem: str | None = None


class Check(msgspec.Struct, kw_only=True):
    """One gate's verdict on one pair of rows, or on one side against its own reference."""

    gate: str
    verdict: str
    reason: str
    value: float | None = None
    limit: float | None = None


class Side(msgspec.Struct, kw_only=True):
    """One matrix that was compared. ``chunk_sizes``: the client chunk sizes of its rows, the other side's or not."""

    backend: str
    view: str
    path: str | None = None
    engine: str | None = None
    model: str | None = None
    dtype: str | None = None
    semantics: str | None = None
    mask_requested: str | None = None
    hardware: Any = None
    server_config: Any = None
    workload_sha256: str | None = None
    own_reference_checks: list[Check] = []
    own_reference_agreement: Agreement | None = None
    complete: bool | None = None
    blocker: str | None = None
    chunk_sizes: list[int] | None = None


class SideRow(msgspec.Struct, kw_only=True):
    """One side at one chunk size, as the comparison uses it: the confirmed row where there is one.

    ``eligible``: whether it may win; ``why_not``: what keeps it from that. ``undecided``: nothing but that the evidence
    does not show whether its scores, which are within the limits, are right.
    """

    p50_ms: float | None = None
    p95_ms: float | None = None
    p95_interpolated: bool | None = None
    throughput_items_sec: float | None = None
    success_rate: float | None = None
    usd_per_run: float | None = None
    items_per_usd: float | None = None
    confirmed: bool = False
    eligible: bool = False
    undecided: bool = False
    why_not: str | None = None


class ComparedRow(msgspec.Struct, kw_only=True):
    """One client chunk size of one view, side by side. ``sides``: by backend.

    With A the first backend and B the second: ``speed_ratio`` is A's median run over B's (above 1: B is faster),
    ``p95_delta_percent`` and ``throughput_delta_percent`` are A relative to B. ``speed_verdict``: "a_faster",
    "b_faster", "no_difference_shown" or "not_compared". ``paired``: measured in interleaved blocks of one run.
    ``correct``: null where it could not be decided.
    """

    client_chunk_size: int
    sides: dict[str, SideRow]
    agreement: Agreement | None = None
    checks: list[Check] = []
    correct: bool | None = None
    speed_ratio: float | None = None
    speed_ratio_interval_95: tuple[float, float] | None = None
    speed_verdict: str = "not_compared"
    paired: bool | None = None
    p95_delta_percent: float | None = None
    throughput_delta_percent: float | None = None


class Winner(msgspec.Struct, kw_only=True):
    """A configuration that won, with what it won by."""

    backend: str
    view: str
    client_chunk_size: int
    throughput_items_sec: float
    p50_ms: float | None = None
    p95_ms: float | None = None
    engine: str | None = None
    mask: str | None = None
    items_per_usd: float | None = None


class ComparedView(msgspec.Struct, kw_only=True):
    """One view: ``backends`` [A, B] in the order of the deltas; winners by the guardrail rule.

    ``winner_by_guardrail``: where nothing may win, what would if the scores of the ``undecided`` rows were right.
    """

    view: str
    backends: list[str]
    rows: list[ComparedRow]
    guardrail_p95_ms: float | None = None
    winner: Winner | None = None
    winner_by_guardrail: Winner | None = None
    winners_by_backend: dict[str, Winner] = {}
    deferred: str | None = None


class Recommendation(msgspec.Struct, kw_only=True):
    """What to deploy. ``confidence``: "high", "medium", "low" or "none"; ``reasons``: what it rests on."""

    text: str
    confidence: Literal["high", "medium", "low", "none"]
    reasons: list[str] = []
    winner: Winner | None = None
    follow_ups: list[str] = []


class PublicSide(msgspec.Struct, kw_only=True):
    """One backend's row in the public form."""

    status: str | None = None
    success_rate: float | None = None
    p95_total_e2e_ms: float | None = None
    throughput_items_sec: float | None = None


class PublicSelected(PublicSide, kw_only=True):
    """The row that a backend's matrix recommends; other tools write the whole row."""

    client_chunk_size: int


class PublicCorrectness(msgspec.Struct, kw_only=True, rename={"passed": "pass"}):
    """``pass``: whether the scores of both backends were compared and are within the thresholds; ``detail``: what the
    gates say, where that is no PASS."""

    passed: bool
    status: str | None = None
    max_abs_diff: float | None = None
    mean_abs_diff: float | None = None
    num_compared: int | None = None
    detail: str | None = None


class PublicRow(msgspec.Struct, kw_only=True):
    """One client chunk size that both backends have measured."""

    client_chunk_size: int
    jax: PublicSide
    pytorch: PublicSide
    correctness: PublicCorrectness


class PublicWinner(msgspec.Struct, kw_only=True):
    """A row that won."""

    backend: str
    client_chunk_size: int
    throughput_items_sec: float | None = None
    p95_total_e2e_ms: float | None = None


class PublicChoice(msgspec.Struct, kw_only=True):
    """What the guardrail rule chose among the rows of a view."""

    winner: PublicWinner | None
    eligible_count: int | None = None
    guardrail_ratio: float | None = None
    guardrail_p95_ms: float | None = None


class PortableView(msgspec.Struct, kw_only=True):
    """The view portable in the public form; ``backend_best`` by backend."""

    rows: list[PublicRow]
    winner: PublicChoice | None = None
    guardrail_ratio: float | None = None
    backend_best: dict[str, PublicChoice] = {}


class BestNativeView(msgspec.Struct, kw_only=True):
    """The view best_native in the public form: each backend's best row, and the difference of their scores."""

    jax_selected: PublicSelected | None = None
    pytorch_selected: PublicSelected | None = None
    correctness: PublicCorrectness | None = None
    winner: PublicChoice | None = None
    guardrail_ratio: float | None = None


class Judged(msgspec.Struct, kw_only=True):
    """What the scores of both sides were judged by."""

    thresholds: Thresholds | None = None


class Comparison(msgspec.Struct, kw_only=True):
    """All sides, all views, one recommendation.

    In the public form: ``portable_view``, ``best_native_view``, ``correctness``, ``recommendations`` (by view, and
    overall), ``inputs`` (file by what it holds), ``notes``. Everything else is further, and more than that form holds;
    what stands in it follows from there (`decision.public_form`).

    ``status``: "complete", or "partial" where a side is missing or unfinished, with the ``blocker``; winners across
    backends are deferred then. ``limitations``: what the gates of a run on the segment mask have not shown.
    """

    schema_version: Literal["cross_backend_comparison_v1"]
    generated_at_utc: str | None = None
    portable_view: PortableView | None = None
    best_native_view: BestNativeView | None = None
    correctness: Judged | None = None
    recommendations: dict[str, str] = {}
    inputs: dict[str, str | None] = {}
    package_version: str | None = None
    status: Literal["complete", "partial"] | None = None
    blocker: str | None = None
    workload_ref: WorkloadRef = msgspec.field(default_factory=WorkloadRef)
    workload: Any = None
    sides: list[Side] = []
    views: list[ComparedView] = []
    winners_by_backend: dict[str, Winner] = {}
    recommendation: Recommendation | None = None
    summary: str | None = None
    notes: list[str] = []
    limitations: list[Check] = []


@dataclass
class Outcome:
    """A finished comparison. By side, with the reason: ``failures``, whose server died for good, or gives no answers;
    ``errors``, whose server, or whose baseline's, could not be had; ``not_run``, that cannot be here.
    ``unwritten``: what is against one of its files, where it could not be written."""

    directory: Path
    matrices: list[tuple[Path, ScoreMatrix]]
    comparison: Comparison
    failures: dict[str, str] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    not_run: dict[str, str] = field(default_factory=dict)
    unwritten: StorageError | None = None


class PairRecord(msgspec.Struct, kw_only=True):
    """Two arms of an A/B, by name: what makes them (``url``, ``python``, ``checkout``, variables), and one row each.
    ``ratio_p50``: A's median run over B's. ``labels``: the label token ids that were scored. ``served``: by arm, who
    answered (url, engine, backend, model, dtype, version; null where it is not known). ``requests``: of one run."""

    schema_version: Literal["multiitem_ab_v1"] = AB_SCHEMA
    arms: dict[str, dict[str, str]]
    rows: dict[str, Row]
    ratio_p50: float | None
    ratio_interval_95: tuple[float, float] | None
    verdict: str
    agreement: Agreement | None
    labels: list[int] | None = None
    served: dict[str, dict[str, str | None]] = {}
    requests: int = 1
