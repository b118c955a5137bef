"""Saved scores, as they stand in their file (schema ``multiitem_scores_v1``): those of a run, beside what they are of.

Adding an optional field keeps the version; removing or changing one raises it.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from pytest_multiitem.baselines.shelf import Shelf, is_name
from pytest_multiitem.errors import UsageError
from pytest_multiitem.results.store import checksum, read_record

SCORES_SCHEMA: Final = "multiitem_scores_v1"
#: In the directory of a run that has measured some.
SCORES_FILE: Final = "scores.json"
SHELF: Final = Shelf("scores", "saved scores", True, "--save-scores")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class ScoredServer(msgspec.Struct, kw_only=True):
    """What is known of a server when it scored; null where nobody knows. ``version``: of the engine.
    ``attestation_problem``: how what ran differs from what was asked for."""

    role: str
    engine: str | None = None
    version: str | None = None
    backend: str | None = None
    mask_attested: str | None = None
    attestation_problem: str | None = None
    server_chunk_size: int | None = None
    semantics: str | None = None
    delimiter: int | None = None
    model: str | None = None
    dtype: str | None = None


class ScoredRequest(msgspec.Struct, kw_only=True):
    """The scores [N][K] of one request from one server. ``request_sha256``: of its token ids, without what a server
    adds to them. ``noise_floor``: how far replays of it were apart; null where it was not measured."""

    server: str
    request: str
    request_sha256: str
    labels: list[int]
    scores: list[list[float]]
    noise_floor: float | None = None

    @property
    def key(self) -> str:
        """What makes it the same request to the same server in another run."""
        return f"{self.server} · {self.request}"


class GoldenScores(msgspec.Struct, kw_only=True):
    """The scores of a run, under a name. ``workload_sha256``: of all requests. ``servers``: by the names that
    ``requests`` use. ``missing``: servers that could not score, and why. ``scores_sha256``: of ``servers`` and
    ``requests`` (`results.store.checksum`), so that a file that was edited is none; null where nobody stated it."""

    schema_version: Literal["multiitem_scores_v1"] = SCORES_SCHEMA
    name: str
    saved_at_utc: str
    workload_sha256: str
    servers: dict[str, ScoredServer]
    requests: list[ScoredRequest]
    missing: dict[str, str] = {}
    run_id: str | None = None
    machine: dict[str, Any] = {}
    versions: dict[str, str] = {}
    settings: dict[str, str] = {}
    scores_sha256: str | None = None


def sha256_of(golden: GoldenScores) -> str:
    """The checksum of what was scored and by whom."""
    return checksum({"servers": golden.servers, "requests": golden.requests})


def workload_sha256(requests: dict[str, str]) -> str:
    """The checksum of a workload, from those of its requests by name."""
    return checksum(requests)


def read(path: Path) -> GoldenScores:
    """Read saved scores and check them. Raises UsageError naming what is wrong."""
    golden, _ = read_record(path, GoldenScores, SCORES_SCHEMA, SHELF.advice)
    found = problems(golden)
    if found:
        raise UsageError(f"{path} is no {SCORES_SCHEMA} file: {'; '.join(found[:3])}; {SHELF.advice}")
    return golden


def problems(golden: GoldenScores) -> list[str]:
    """What is wrong with what saved scores say; empty where nothing is."""
    return [*_problems(golden)]


def summary(golden: GoldenScores) -> str:
    """What they hold, in a few words."""
    return f"{sum(len(each.scores) for each in golden.requests)} items of {len(golden.servers)} servers"


def _problems(golden: GoldenScores) -> Iterator[str]:
    if not is_name(golden.name):
        yield f"name: {golden.name!r} is no name for saved scores"
    if not golden.requests:
        yield "requests: there is none; scores of nothing would let everything pass"
    for key, count in Counter(each.key for each in golden.requests).items():
        if count > 1:
            yield f"requests: {count} are {key!r}"
    for each in golden.requests:
        yield from (f"{each.key}: {problem}" for problem in _request_problems(each, golden))
    sums = {each.request: each.request_sha256 for each in golden.requests}
    if any(sums[each.request] != each.request_sha256 for each in golden.requests):
        yield "requests: one of a name has several checksums"
    elif golden.requests and workload_sha256(sums) != golden.workload_sha256:
        yield f"workload_sha256 is {golden.workload_sha256:.64}, but the requests give {workload_sha256(sums)}"
    if golden.scores_sha256 is not None and sha256_of(golden) != golden.scores_sha256:
        yield f"scores_sha256 is {golden.scores_sha256:.64}, but the scores have {sha256_of(golden)}"


def _request_problems(each: ScoredRequest, golden: GoldenScores) -> Iterator[str]:
    if each.server not in golden.servers:
        yield "its server is not among those that are described"
    if not _SHA256.fullmatch(each.request_sha256):
        yield f"{each.request_sha256!r:.80} is no sha256"
    if not each.scores or not each.labels:
        yield "it has no score"
    if any(len(row) != len(each.labels) for row in each.scores):
        yield f"a row has another number of scores than there are labels ({len(each.labels)})"
    bad = next((value for row in each.scores for value in row if not math.isfinite(value)), None)
    if bad is not None:
        yield f"{bad!r} is no score"
    if each.noise_floor is not None and not each.noise_floor >= 0:
        yield f"its noise floor is {each.noise_floor!r}"
