"""A request among others: one just before it, and two beside it, all unrelated to it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from threading import Barrier
from typing import Any

from pytest_multiitem.client import Scores
from pytest_multiitem.scoring.cases import Case, unrelated
from pytest_multiitem.servers.target import Target

#: Called with one JSON-ready line per raw sample.
Recorder = Callable[[dict[str, Any]], None]

_BESIDE = 2


def surrounded(target: Target, case: Case, record: Recorder, number: int = 0) -> Scores:
    """The scores [N, K] of a request in traffic; ``number``: which other requests are around it.

    Those beside it are sent at the same moment, each over a connection of its own. Raises ScoreFailure where any of
    them fails: a server has to answer them all.
    """
    before, *beside = (unrelated(case, number * (1 + _BESIDE) + place) for place in range(1 + _BESIDE))
    together = Barrier(1 + _BESIDE)

    def send(server: Target, request: Case) -> Scores:
        together.wait()
        return server.score(request)

    target.score(before)
    with ExitStack() as stack:
        servers = [stack.enter_context(target.another()) for _ in beside]
        pool = stack.enter_context(ThreadPoolExecutor(_BESIDE, thread_name_prefix="multiitem-traffic"))
        stack.callback(together.abort)  # an interrupt leaves nobody waiting
        others = [pool.submit(send, server, request) for server, request in zip(servers, beside, strict=True)]
        scores = send(target, case)
        for other in others:
            other.result()
    record(
        {
            "kind": "surrounded",
            "server": target.profile.label,
            "case": case.name,
            "number": number,
            "scores": scores.tolist(),
        }
    )
    return scores
