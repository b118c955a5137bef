"""A request among others: one just before it, and two clients beside it, all unrelated to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from threading import Event
from typing import Any, TypeVar

import numpy as np

from pytest_multiitem.scoring.cases import Case, unrelated
from pytest_multiitem.targets.target import Target
from pytest_multiitem.transport.client import Scores

#: Called with one JSON-ready line per raw sample.
Recorder = Callable[[dict[str, Any]], None]

_BESIDE = 2
_Answer = TypeVar("_Answer")


def sample(record: Recorder, kind: str, **fields: Any) -> None:
    """Record a raw sample; scores as lists."""
    record({"kind": kind, **{name: v.tolist() if isinstance(v, np.ndarray) else v for name, v in fields.items()}})


def surrounded(target: Target, case: Case, record: Recorder, number: int = 0) -> Scores:
    """The scores [N, K] of a request in traffic; ``number``: which other requests are around it. Raises as `among`."""
    before, *beside = (unrelated(case, number * (1 + _BESIDE) + place) for place in range(1 + _BESIDE))
    first, *others = (partial(_score, each) for each in (before, *beside))
    scores = among(target, partial(_score, case), first, others)
    sample(record, "surrounded", server=target.profile.label, case=case.name, number=number, scores=scores)
    return scores


def _score(case: Case, target: Target) -> Scores:
    return target.score(case)


def among(
    target: Target,
    ask: Callable[[Target], _Answer],
    before: Callable[[Target], object],
    beside: Sequence[Callable[[Target], object]],
) -> _Answer:
    """The answer to what is asked right after another request, and while others run.

    Each client beside it has a connection of its own and sends its request again and again, from before this one is
    sent until it is answered: so it both comes while others run and runs while others come. Raises ScoreFailure where
    any request fails: a server has to answer them all.
    """
    answered = Event()

    def keep_sending(server: Target, send: Callable[[Target], object], started: Event) -> None:
        try:
            while not answered.is_set():
                send(server)
                started.set()
        finally:
            started.set()

    before(target)
    with ExitStack() as stack:
        servers = [stack.enter_context(target.another()) for _ in beside]
        pool = stack.enter_context(ThreadPoolExecutor(len(beside), thread_name_prefix="multiitem-traffic"))
        stack.callback(answered.set)
        started = [Event() for _ in beside]
        others = [pool.submit(keep_sending, *each) for each in zip(servers, beside, started, strict=True)]
        for each in started:
            each.wait()
        answer = ask(target)
        answered.set()
        for other in others:
            other.result()
    return answer
