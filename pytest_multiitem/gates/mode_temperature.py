"""A temperature and log-probabilities: their isolation. What they are is part of the contract of a request."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pytest_multiitem.gates.gate import Gate, Measurement
from pytest_multiitem.gates.mode_isolation import Isolation
from pytest_multiitem.gates.mode_probe import TEMPERATURES, Checks, ModeProbe, measured
from pytest_multiitem.gates.subject import Subject
from pytest_multiitem.scoring.cases import TokenIds
from pytest_multiitem.scoring.modes import ModeName
from pytest_multiitem.scoring.wire.score import ScoreRequest
from pytest_multiitem.targets.modes import tables
from pytest_multiitem.targets.target import Target


def measure(subject: Subject) -> Measurement:
    """Ask for scores at a temperature with their log-probabilities, and compare both with themselves as
    `gates.mode_isolation` does."""
    return measured(subject, ModeName.TEMPERATURE, _checks)


def _checks(probe: ModeProbe) -> Checks:
    def asked(items: Sequence[TokenIds], server: Target) -> list[NDArray[np.float64]]:
        request = ScoreRequest(
            query=list(probe.case.query),
            items=[list(item) for item in items],
            label_token_ids=list(probe.case.labels),
            apply_softmax=True,
            temperature=TEMPERATURES[0],
            return_token_logprobs=True,
        )
        found = tables(server, request)
        assert found.logprobs is not None  # they were asked for
        pairs = zip(found.scores, found.logprobs, strict=True)
        return [np.stack([scores, logprobs]) for scores, logprobs in pairs]

    def unit(answer: Sequence[NDArray[np.float64]]) -> float:
        return float(np.abs(np.stack(answer)).max())

    return Isolation(probe, probe.case.items, asked, probe.other, probe.longer, unit).checks


TEMPERATURE = Gate(
    "temperature_isolates",
    "the isolation of scores at a temperature and of their log-probabilities, to the bit where the engine promises it",
    rests_on="one check that could be made, and none that is broken",
    measure=measure,
    needs=("multi", "serial"),
    mode=ModeName.TEMPERATURE,
    costly=True,
    short="temperature",
    order=38,
)
GATES = (TEMPERATURE,)
