"""How the time of a request grows with its number of items, and with its query."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.engine_speed.shapes import Requests, Shape
from benchmarks.engine_speed.sides import Side
from benchmarks.engine_speed.timing import Effort, median_interval
from pytest_multiitem.bench.statistics import p50
from pytest_multiitem.errors import MultiItemError
from pytest_multiitem.transport.client import prepare, read_scores


def measure_growth(
    sides: Sequence[Side], shapes: Sequence[Shape], requests: Requests, effort: Effort, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Times of every shape on every side, in seconds of a whole request.

    Blocks are interleaved over shapes and sides, so that the machine's drift is no growth. Every run is a request that
    no run before had.
    """
    points = [(side, shape) for side in sides for shape in shapes]
    seconds: dict[tuple[Side, Shape], list[float]] = {point: [] for point in points}
    failures: dict[tuple[Side, Shape], str] = {}
    planned: dict[tuple[Side, Shape], int] = {}
    number = 1000  # beyond the requests of the other measurements
    for point in points:
        try:
            planned[point] = effort.runs(_time(*point, requests, number))  # the first run compiles
            planned[point] = effort.runs(_time(*point, requests, number := number + 1))
        except MultiItemError as error:
            failures[point] = str(error).splitlines()[0]
        number += 1
    estimate = sum(planned.values())
    say(f"growth of {points[0][1].name} to {points[-1][1].name}: warm; {estimate} runs to go" if points else "")
    for block in range(max(planned.values(), default=0)):
        turns = [point for point in points if point not in failures and block < planned[point]]
        for point in turns if block % 2 == 0 else reversed(turns):
            number += 1
            try:
                seconds[point].append(_time(*point, requests, number))
            except MultiItemError as error:
                failures[point] = str(error).splitlines()[0]
    found = []
    for side, shape in points:
        times = seconds[side, shape]
        record: dict[str, Any] = {"backend": side.backend, "shape": shape.name, "items": shape.items}
        record |= {"query_tokens": shape.query_tokens, "item_tokens": shape.item_tokens}
        if (side, shape) in failures:
            record["failure"] = failures[side, shape]
        else:
            record |= {"seconds": times, "p50_sec": p50(times), "interval_95": median_interval(times)}
        found.append(record)
    return found


def linear_fit(counts: Sequence[int], seconds: Sequence[float]) -> dict[str, Any]:
    """The line ``seconds = intercept + slope · count`` that is nearest relative to the times, since a time's error
    grows with it (least squares weighted by 1/seconds).

    ``r2``: share of the times' variance that the line explains; ``largest_relative_residual``: the farthest point's
    distance over its time. Raises ValueError below three points.
    """
    if len(counts) < 3:
        raise ValueError(f"a line through {len(counts)} points says nothing; expected at least 3")
    n, t = np.asarray(counts, dtype=float), np.asarray(seconds, dtype=float)
    slope, intercept = np.polyfit(n, t, 1, w=1 / t)
    residual = t - (intercept + slope * n)
    worst = int(np.argmax(np.abs(residual) / t))
    return {
        "points": len(counts),
        "slope_sec_per_item": float(slope),
        "intercept_sec": float(intercept),
        "r2": float(1 - (residual**2).sum() / ((t - t.mean()) ** 2).sum()),
        "largest_relative_residual": float(abs(residual[worst]) / t[worst]),
        "at_items": int(counts[worst]),
    }


def _time(side: Side, shape: Shape, requests: Requests, number: int) -> float:
    case = requests.case(shape, number)
    request = prepare(case.query, case.items, case.labels)
    target = side.server.target
    with target.watch():
        seconds, response = target.client.timed_send(request)
    read_scores(response, request)
    return seconds
