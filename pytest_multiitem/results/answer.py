"""The answer of an acceptance, as it stands in ``answer.json`` beside the run's ``matrix.json`` (schema
``multiitem_answer_v1``).

What was measured is in `Given` and in the matrix; everything else follows from these two (`acceptance.derive`).
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

ANSWER_SCHEMA: Final = "multiitem_answer_v1"
ANSWER: Final = "answer.json"

#: YES: safe to pack, and faster. NO: it is not. UNDECIDED: what was measured cannot tell.
Word = Literal["YES", "NO", "UNDECIDED"]


class TimedRequest(msgspec.Struct, kw_only=True):
    """A request whose items were timed at every client chunk size; serially, those at ``serial_places`` alone, and as
    the calls follow one another, all take as many times longer as there are more. ``serial_scores``: what each of those
    scores alone [n][K]; ``packed_scores``: the same in requests of the largest client chunk size; null where a side has
    not answered."""

    name: str
    query_tokens: int
    items: int
    serial_places: list[int]
    serial_scores: list[list[float]] | None = None
    packed_scores: list[list[float]] | None = None


class TimedRow(msgspec.Struct, kw_only=True):
    """One way to send all items: to the serial side one by one (``client_chunk_size`` null), or packed.

    ``runs_ms``: by request and interleaved block, the time of its items, serially of those at its ``serial_places``;
    null where the run failed.
    ``failures``: how often, by `transport.client.FailureKind`. ``problem``: in words, what else is against the row.
    ``wrong``: a score that is not what it must equal, in words. ``max_abs_diff``: from the serial side's scores.
    """

    client_chunk_size: int | None
    runs_ms: list[list[float | None]]
    failures: dict[str, int] = {}
    problem: str | None = None
    wrong: str | None = None
    max_abs_diff: float | None = None


class Given(msgspec.Struct, kw_only=True):
    """What was measured beside the gates, and what was asked for.

    ``own_traffic``: whether the requests are the user's; ``requests``: how many the gates were measured on.
    ``matrix_sha256``: of the run's ``matrix.json``; null where there is none. ``not_timed``: why there are no rows, or
    fewer than planned. ``interrupted_by``: what ended the measurement early. ``problem``: what kept it from being made.
    """

    effort: str
    one_server: bool = False
    own_traffic: bool = False
    requests: int | None = None
    guardrail_ratio: float = 1.25
    delimiter_told: bool = True
    delimiter: int | None = None
    timed: list[TimedRequest] = []
    rows: list[TimedRow] = []
    matrix_sha256: str | None = None
    not_timed: str | None = None
    interrupted_by: str | None = None
    problem: str | None = None


class GateLine(msgspec.Struct, kw_only=True):
    """What one gate came to, for people. ``says``: what it looks at, in plain words. ``needed``: whether a YES needs
    its PASS. ``rounding``: whether it wants equal bits, and is INCONCLUSIVE for rounding alone."""

    gate: str
    verdict: str
    says: str
    reason: str
    needed: bool
    value: float | None = None
    rounding: bool = False


class ChunkFigures(msgspec.Struct, kw_only=True):
    """The figures of a row. ``items_per_sec``: over the mean of whole blocks. ``p50_ms``, ``p95_ms``: of the time until
    all items of one request are scored; ``p95_interpolated``: from fewer than 90 such times. ``times_as_fast``: the
    serial side's time over this row's, of medians of blocks that both have, with its 95 % interval. ``why_not``: what
    kept it from being the one to deploy; null for that one."""

    client_chunk_size: int | None
    blocks: int
    items_per_sec: float | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    p95_interpolated: bool | None = None
    times_as_fast: float | None = None
    interval_95: tuple[float, float] | None = None
    why_not: str | None = None


class Answer(msgspec.Struct, kw_only=True):
    """The whole answer. ``sentence``: what a product owner reads. ``reasons``: what it rests on, or what is against it.
    ``deploy``: items a request. ``largest_difference``: of a candidate's packed score from the one it gets alone.
    ``answers_compared``: by the gates, with the same items elsewhere. ``rounding``: gates that a YES rests on although
    they are INCONCLUSIVE, since they are so for rounding alone and the gates that look beyond it PASS.
    ``not_measured``: what nothing is known of, and why."""

    schema_version: Literal["multiitem_answer_v1"] = ANSWER_SCHEMA
    answer: Word
    sentence: str
    reasons: list[str]
    exit_status: int
    deploy: int | None = None
    times_as_fast: float | None = None
    interval_95: tuple[float, float] | None = None
    guardrail_p95_ms: float | None = None
    largest_difference: float | None = None
    answers_compared: int = 0
    complete: bool
    rounding: list[str] = []
    gates: list[GateLine]
    curve: list[ChunkFigures]
    not_measured: list[str]
    given: Given
    package_version: str
    written_at_utc: str
    machine: dict[str, Any] = {}
