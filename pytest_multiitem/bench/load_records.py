"""A load measurement, as it stands in its file (schema ``score_load_v1``).

Adding an optional field keeps the version; removing or changing one raises it.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from pytest_multiitem.transport.client import FailureKind

LOAD_SCHEMA: Final = "score_load_v1"
#: The kind of a request that was never sent, because too many had no answer yet.
OVERLOAD: Final = "overload"


class LoadRecord(msgspec.Struct, kw_only=True):
    """One request; times in seconds from the level's start.

    ``due_sec``: when it was to be sent. ``started_sec``: when it was, null where the generator refused to.
    ``finished_sec``: its last byte or its failure, null where it was not waited for. ``latency_ms``: from when it
    was due to its last byte, where it succeeded. ``failure_kind``: a `transport.client.FailureKind`, or "overload".
    """

    state: Literal["successful", "errored", "incomplete"]
    items: int
    due_sec: float
    started_sec: float | None = None
    finished_sec: float | None = None
    latency_ms: float | None = None
    failure_kind: str | None = None
    failure_message: str | None = None
    http_status: int | None = None


class JudgedScores(msgspec.Struct, kw_only=True):
    """With what the answers of all levels were compared.

    ``limit``: how far scores of the same item may be apart, for the precision ``dtype`` that the server states.
    ``answers``, ``rows``: quiet ones, compared with each other before the levels; ``asked``: of these, the smaller
    requests. ``max_difference``: between those rows. ``problem``: the server contradicts itself without any load; then
    levels are judged by the smaller requests. ``wrong_warm_ups``: of the requests before the levels' clocks.
    ``doubt``: why some answers could not be judged.
    """

    limit: float
    dtype: str | None = None
    answers: int = 0
    rows: int = 0
    asked: int = 0
    max_difference: float | None = None
    problem: str | None = None
    wrong_warm_ups: int = 0
    doubt: str | None = None


class Level(msgspec.Struct, kw_only=True):
    """One concurrency (``mode`` closed) or one arrival rate (open), held for ``duration_sec``.

    ``offered_rate``: requests a second on average. ``elapsed_sec``: until the last answer; what is per second is
    per second of these. ``latency_ms`` (percentiles) and ``mean_latency_ms``: of the successful requests.
    ``goodput_items_per_sec``: items of requests that succeeded within the objective. ``share_within_objective``: of
    all requests. ``lateness_ms_p50``, ``lateness_ms_max``: the generator's own, from when a request was due until it
    was sent. ``generator_busy``: the share of the time that it computed. ``saturated``: null where it cannot be told;
    ``saturation``: why, in each case. ``ended_early``: why requests were issued for less than ``duration_sec``.
    """

    mode: Literal["closed", "open"]
    duration_sec: float
    elapsed_sec: float
    requests: int
    successful: int
    errored: int
    incomplete: int
    items_per_sec: float
    goodput_items_per_sec: float
    latency_ms: dict[str, Any]
    concurrency: int | None = None
    offered_rate: float | None = None
    errors_by_kind: dict[str, int] = {}
    mean_latency_ms: float | None = None
    share_within_objective: float | None = None
    lateness_ms_p50: float | None = None
    lateness_ms_max: float | None = None
    generator_busy: float | None = None
    saturated: bool | None = None
    saturation: str | None = None
    ended_early: str | None = None
    records: list[LoadRecord] = []

    @property
    def label(self) -> str:
        """For people: which level this is."""
        return f"concurrency {self.concurrency}" if self.mode == "closed" else f"{self.offered_rate:g} requests/s"


class LoadReport(msgspec.Struct, kw_only=True):
    """All levels of one server.

    ``items_per_request``: sizes of the requests that were sent in turn. ``saturation_concurrency`` and
    ``saturation_rate``: the lowest that saturate the server, null where none did. ``server_info``: what the server
    says of itself, where it was asked. ``scores``: how the answers were judged.
    """

    schema_version: Literal["score_load_v1"] = LOAD_SCHEMA
    url: str
    seed: int
    duration_sec: float
    timeout_sec: float
    latency_objective_ms: float
    items_per_request: list[int]
    levels: list[Level]
    max_goodput_items_per_sec: float
    saturation_concurrency: int | None = None
    saturation_rate: float | None = None
    generated_at_utc: str | None = None
    server_info: Any = None
    scores: JudgedScores | None = None

    @property
    def wrong_answers(self) -> int:
        """Answers with wrong scores, over all levels and the requests before them."""
        counted = sum(level.errors_by_kind.get(FailureKind.WRONG_SCORES.value, 0) for level in self.levels)
        return counted + (0 if self.scores is None else self.scores.wrong_warm_ups)
