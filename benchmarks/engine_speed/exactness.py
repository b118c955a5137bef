"""Whether what was timed is right: isolation to the last bit, and the same scores by every path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.engine_speed.shapes import Requests, Shape
from benchmarks.engine_speed.sides import Side
from benchmarks.engine_speed.timing import Timed
from pytest_multiitem.scoring.cases import mutations

KINDS = ("same_length", "longer", "shorter")
_NUMBER = 500  # a request that is not timed


def isolation(side: Side, shape: Shape, requests: Requests) -> dict[str, Any]:
    """The largest change of any untouched score [N, K] when the first, a middle and the last item are mutated, at the
    same and at another length.

    ``touched_change``: the smallest change of a mutated item's own scores: 0 would mean that nothing was measured.
    ``score_spread``: the range of the scores over the items. Raises ScoreFailure or ServerError.
    """
    case = requests.case(shape, _NUMBER)
    target = side.server.target
    with target.attest() as attestation:
        base = target.score(case)
        replay = target.score(case)
        largest, differing, touched, count = 0.0, 0, np.inf, 0
        for mutation in mutations(case, KINDS, seed=_NUMBER):
            scores = target.score(mutation.case)
            others = np.arange(len(base)) != mutation.index
            change = np.abs(scores - base)
            largest = max(largest, float(change[others].max(initial=0.0)))
            differing += int((scores[others] != base[others]).any(axis=1).sum())
            touched = min(touched, float(change[mutation.index].max()))
            count += 1
    return {
        "backend": side.backend,
        "shape": shape.name,
        "mutations": count,
        "max_abs_change_of_others": largest,
        "scores_that_changed": differing,
        "replay_max_abs_diff": float(np.abs(replay - base).max()),
        "touched_change": float(touched),
        "score_spread": float(np.ptp(base, axis=0).max()),
        "executed": attestation.mask,
        "problem": attestation.problem,
    }


#: Sides whose scores must agree: each with the one that computes the same sequences another way.
_PAIRS = (
    ("segment", "dense"),
    ("cached_again", "segment"),
    ("extend", "serial"),
    ("extend_again", "serial"),
    ("serial_one_call", "serial"),
)


def agreement(timed: Sequence[Timed]) -> list[dict[str, Any]]:
    """Largest score differences between sides that compute the same sequences, on a request that all of them scored."""
    by_key = {(t.side.backend, t.side.key): t for t in timed if t.scores is not None}
    found: list[dict[str, Any]] = []

    def compare(first: Timed | None, second: Timed | None) -> None:
        if first is None or second is None or first.scores is None or second.scores is None:
            return
        count = min(len(first.scores), len(second.scores))
        found.append(
            {
                "shape": first.shape.name,
                "backend": first.side.backend,
                "side": first.side.key,
                "with": f"{second.side.backend} {second.side.key}",
                "items": count,
                "max_abs_diff": float(np.abs(first.scores[:count] - second.scores[:count]).max()),
            }
        )

    for backend in ("pytorch", "jax"):
        for one, other in _PAIRS:
            compare(by_key.get((backend, one)), by_key.get((backend, other)))
        compare(by_key.get((backend, "serial")), by_key.get(("transformers", "transformers_loop")))
    compare(by_key.get(("transformers", "transformers_padded")), by_key.get(("transformers", "transformers_loop")))
    ours = len(found)
    for mode in by_key.values():
        if mode.side.backend == "sglang":
            compare(mode, by_key.get(("transformers", "transformers_loop")))
    # Of an engine's many modes, the one that is farthest away says enough.
    return found[:ours] + sorted(found[ours:], key=lambda one: -one["max_abs_diff"])[:1]
