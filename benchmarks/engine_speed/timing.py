"""Times of a shape's request on every side, interleaved, with the peak memory of each server meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from benchmarks.engine_speed import memory
from benchmarks.engine_speed.shapes import Requests, Shape
from benchmarks.engine_speed.sides import Side
from pytest_multiitem.adapters.attestation import Attestation
from pytest_multiitem.bench.statistics import p50, ratio_interval
from pytest_multiitem.errors import MultiItemError
from pytest_multiitem.scoring.cases import Case
from pytest_multiitem.transport.client import Scores, prepare, read_scores

#: Of the slow modes of a scanned engine, so many are timed again: the fastest of the first block, where that took at
#: most so many times as long as the best.
_AGAIN, _CLOSE = 2, 1.25
#: A step that takes longer is told when it is done, in seconds.
_WORTH_TELLING = 3.0


@dataclass(frozen=True)
class Effort:
    """How long to measure: runs of a side at least and at most, and the seconds beyond which only the least is done."""

    least_runs: int = 3
    most_runs: int = 9
    seconds: float = 5.0

    def runs(self, first_seconds: float) -> int:
        """How many timed runs a side gets whose first one took so long."""
        wanted = int(self.seconds / first_seconds) if first_seconds > 0 else self.most_runs
        return max(self.least_runs, min(self.most_runs, wanted))


@dataclass(eq=False)
class Timed:
    """What was measured of one side at one shape; ``seconds[i]`` is the run of block i, of ``items`` items."""

    side: Side
    shape: Shape
    items: int
    seconds: list[float] = field(default_factory=list)
    scores: Scores | None = None
    peak_bytes: int | None = None
    attestation: Attestation | None = None
    failure: str | None = None

    @property
    def per_item(self) -> list[float]:
        """Seconds of an item, by block."""
        return [seconds / self.items for seconds in self.seconds]

    @property
    def above_idle(self) -> int | None:
        """Bytes that the server held at most, beyond what it held idle."""
        idle = self.side.server.idle_bytes
        return None if self.peak_bytes is None or idle is None else max(0, self.peak_bytes - idle)

    def as_dict(self) -> dict[str, Any]:
        """For the results."""
        about: dict[str, Any] = {
            "side": self.side.key,
            "about": self.side.about,
            "backend": self.side.backend,
            "shape": self.shape.name,
            "items_per_run": self.items,
            "calls_per_run": -(-self.items // (self.side.chunk or self.items)),
            "whole_request": self.items == self.shape.items,
        }
        if self.failure is not None:
            return {**about, "failure": self.failure}
        interval = median_interval(self.per_item)
        return {
            **about,
            "runs": len(self.seconds),
            "seconds": self.seconds,
            "p50_sec_per_item": p50(self.per_item),
            "items_per_sec_p50": 1 / p50(self.per_item),
            "items_per_sec_interval_95": None if interval is None else (1 / interval[1], 1 / interval[0]),
            "idle_bytes": self.side.server.idle_bytes,
            "peak_bytes": self.peak_bytes,
            "peak_above_idle_bytes": self.above_idle,
            "executed": None if self.attestation is None else self.attestation.mask,
            "problem": None if self.attestation is None else self.attestation.problem,
        }


def measure_shape(
    sides: Sequence[Side], shape: Shape, requests: Requests, effort: Effort, say: Callable[[str], None]
) -> list[Timed]:
    """Time a shape's requests on every side.

    A block runs every side once with the same request, which no block before had, in an order that turns round from
    block to block, so that drift of the machine hits all alike. Slow sides stay out of later blocks. Requests are
    encoded before the clock starts, and answers are read after it has stopped. A failure ends a side, not the
    measurement.
    """
    found = [Timed(side, shape, side.items(shape)) for side in sides]
    warm = requests.case(shape, 0)
    for timed in found:
        begin = time.monotonic()
        _guarded(timed, partial(warm_up, timed.side, shape, warm))
        if time.monotonic() - begin > _WORTH_TELLING:
            say(f"{shape.name}: warm: {timed.side.backend}, {timed.side.about}")
    with ExitStack() as stack:
        for timed in found:
            if timed.failure is None:
                timed.attestation = stack.enter_context(timed.side.server.target.attest())
        planned = dict.fromkeys(found, 1)
        block = 0
        while turns := [t for t in found if t.failure is None and len(t.seconds) == block < planned[t]]:
            case = requests.case(shape, 1 + block)
            for timed in turns if block % 2 == 0 else reversed(turns):
                _guarded(timed, partial(_run, timed, case, keep_scores=block == 0))
                if timed.seconds and timed.seconds[-1] > _WORTH_TELLING:
                    say(f"{shape.name}: block {block + 1}: {timed.side.backend}, {timed.side.about}")
            if block == 0:
                planned = _plan(turns, effort)
                estimate = sum((planned[t] - 1) * t.seconds[0] for t in turns if t.seconds)
                blocks = max(planned.values(), default=0)
                say(f"{shape.name}: the first of {blocks} blocks is done; about {estimate:.0f} s left")
            block += 1
    for timed in found:
        if timed.failure is None:
            timed.peak_bytes = memory.peak(timed.side.server.pids)
    return found


def common(first: Timed, second: Timed) -> tuple[list[float], list[float]]:
    """Seconds of an item on both, of the blocks that both were in."""
    count = min(len(first.seconds), len(second.seconds))
    return first.per_item[:count], second.per_item[:count]


def ratio(slower: Timed, faster: Timed) -> dict[str, Any] | None:
    """How many times as long an item takes on ``slower`` as on ``faster``: ratio of the medians over the blocks that
    both were in, with its 95 % interval; None where one was not measured."""
    a, b = common(slower, faster)
    return {"ratio": p50(a) / p50(b), "interval_95": ratio_interval(a, b), "blocks": len(a)} if a else None


def median_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of a median; None below three values."""
    return ratio_interval(values, [1.0] * len(values))


def _plan(turns: Sequence[Timed], effort: Effort) -> dict[Timed, int]:
    """How many blocks each side takes part in, from its time in the first."""
    modes = sorted((t for t in turns if t.side.scanned and t.seconds), key=lambda t: t.per_item[0])
    again = [t for t in modes[:_AGAIN] if t.per_item[0] <= _CLOSE * modes[0].per_item[0]]
    planned = {}
    for timed in turns:
        if not timed.seconds:
            planned[timed] = 0
        elif timed.side.scanned and timed not in again and effort.least_runs * timed.seconds[0] > effort.seconds:
            planned[timed] = 1
        else:
            planned[timed] = effort.runs(timed.seconds[0])
    return planned


def warm_up(side: Side, shape: Shape, case: Case) -> None:
    """Compile and allocate what the shape needs; peaks of memory count from then on. Raises MultiItemError."""
    items = side.items(shape)
    for request in side.requests(case, min(items, side.warm_items or items)):
        side.server.target.client.send(request)
    memory.forget_peak(side.server.pids)


def _run(timed: Timed, case: Case, *, keep_scores: bool) -> None:
    side = timed.side
    target = side.server.target
    requests = side.requests(case, timed.items)
    if side.knows_query:
        target.client.send(prepare(case.query, [case.pool[: timed.shape.item_tokens]], case.labels))
    with target.watch():
        answers = [target.client.timed_send(request) for request in requests]
    scores = [read_scores(response, request) for request, (_, response) in zip(requests, answers, strict=True)]
    timed.seconds.append(sum(seconds for seconds, _ in answers))
    if keep_scores:
        timed.scores = np.concatenate(scores)


def _guarded(timed: Timed, call: Callable[[], None]) -> None:
    """Record why a side failed; what others are measured at goes on."""
    try:
        call()
    except MultiItemError as error:
        timed.failure = str(error).splitlines()[0]
