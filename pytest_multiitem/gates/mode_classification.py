"""Classification: a row of class logits for each item, read by a head instead of at labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pytest_multiitem.adapters.classify import ClassifyClient
from pytest_multiitem.gates.checks import Broken, NotMade
from pytest_multiitem.gates.evidence import Baseline, max_abs
from pytest_multiitem.gates.gate import Gate, Measurement
from pytest_multiitem.gates.mode_isolation import Isolation
from pytest_multiitem.gates.mode_probe import TEMPERATURES, Checks, ModeProbe, hidden_of, largest, measured
from pytest_multiitem.gates.subject import Subject
from pytest_multiitem.scoring.cases import TokenIds
from pytest_multiitem.scoring.modes import ModeName
from pytest_multiitem.scoring.readout import softmax
from pytest_multiitem.scoring.wire.score import ScoreRequest
from pytest_multiitem.targets.modes import classified, tables
from pytest_multiitem.targets.target import Target, declared_semantics
from pytest_multiitem.transport.client import ScoreFailure, Scores

#: Of a server that takes no ids.
_TEXTS = (
    "Snow stays until May where the sun does not reach.", "no", "Rye bread keeps longer than wheat bread does.",
    "In a warm year the hills are green in March.", "A car needs winter tyres.",
)  # fmt: skip
_REPLAYS = 3


def measure(subject: Subject) -> Measurement:
    """Ask for the class logits [N][C] of six items without labels, and compare them with the serial server's, and with
    themselves as `gates.mode_isolation` does; the softmax of them, at three temperatures; and
    the states that the head reads, where the server gives them.

    Of the server under test where its model has a head, else of servers of a tiny such model beside it.
    Of a server that takes texts alone, isolation.
    """
    if not isinstance(subject.multi.client, ClassifyClient):
        return measured(subject, ModeName.CLASSIFICATION, _checks, head=True)
    return measured(subject, ModeName.CLASSIFICATION, _text_checks, texts=_baseline)


def _baseline(multi: Target) -> Baseline:
    """The classes [N, C] of the texts, and of replays."""
    with multi.attest() as attestation:
        first, *again = [_of_texts(_TEXTS, multi) for _ in range(_REPLAYS)]
    return Baseline(first, largest([max_abs(each - first) for each in again]), 0.0, attestation)


def _of_texts(texts: Sequence[str], server: Target) -> Scores:
    found = classified(server, texts)
    assert found is not None  # such a server has been found
    return found


def _text_checks(probe: ModeProbe) -> Checks:
    """Of a server that takes texts: nothing is known of what it should answer but by its own answers."""
    isolation = Isolation(
        probe,
        _TEXTS,
        lambda texts, server: [*_of_texts(texts, server)],
        probe.other_text,
        probe.longer_text,
        exact=probe.knows_tokens,
    )

    def sums() -> str:
        rows = _of_texts(_TEXTS, probe.multi)
        if not ((rows >= 0) & (rows <= 1)).all():
            raise Broken(f"probabilities go from {rows.min():.6g} to {rows.max():.6g}")
        return f"{rows.shape[1]} classes, which sum to {rows.sum(axis=1).min():.6g} to {rows.sum(axis=1).max():.6g}"

    return {"classes are probabilities": sums, **isolation.checks}


def _checks(probe: ModeProbe) -> Checks:
    classes = _Classes(probe)
    return {
        "against the serial server": classes.serially,
        **classes.isolation.checks,
        "softmax": classes.softmaxed,
        "temperature": classes.temperature,
        "pooled hidden states": classes.pooled,
    }


class _Classes:
    """What the packed server gives for the items of a case."""

    def __init__(self, probe: ModeProbe) -> None:
        self.probe = probe
        self._whole: Scores | None = None

    def asked(self, items: Sequence[TokenIds], server: Target | None = None, **more: Any) -> Scores:
        """The class logits [N, C], or what ``more`` asks of them."""
        case = self.probe.case
        request = ScoreRequest(query=list(case.query), items=[list(item) for item in items], **more)
        return np.stack(tables(server or self.probe.multi, request, classes=len(case.labels)).scores)

    @property
    def isolation(self) -> Isolation[TokenIds]:
        """Of rows of logits, which may be of any size."""
        return Isolation(
            self.probe,
            self.probe.case.items,
            lambda items, server: [*self.asked(items, server)],
            self.probe.other,
            self.probe.longer,
            lambda tables: float(np.abs(np.concatenate(tables)).max()),
        )

    @property
    def whole(self) -> Scores:
        """Of all items in one request."""
        if self._whole is None:
            self._whole = self.asked(self.probe.case.items)
        return self._whole

    def _within(self, found: Scores, wanted: Scores, what: str) -> str:
        """Logits may be of any size: what they may differ by grows with them."""
        limit = self.probe.same * max(1.0, float(np.abs(self.whole).max()))
        return self.probe.within(max_abs(found - wanted), what, limit)

    def serially(self) -> str:
        case = self.probe.case
        wanted = self.probe.alone(case.query, case.items, case.labels, softmax=False)
        return self._within(self.whole, wanted, f"{len(wanted)} items alone on the serial server")

    def softmaxed(self) -> str:
        shares = self.asked(self.probe.case.items, apply_softmax=True)
        return self.probe.within(max_abs(shares - softmax(self.whole)), "the softmax of the logits")

    def temperature(self) -> str:
        seen = []
        for temperature in TEMPERATURES:
            found = self.asked(self.probe.case.items, apply_softmax=True, temperature=temperature)
            expected = softmax(self.whole, temperature)
            limit = self.probe.same / min(1.0, temperature)
            seen.append(self.probe.within(max_abs(found - expected), f"at temperature {temperature:g}", limit))
        return "; ".join(seen)

    def pooled(self) -> str:
        """The states [N, H] that the head reads: those of the serial server, of each item alone, and no two alike."""
        case, hidden = self.probe.case, hidden_of(self.probe.multi)
        seen = []
        whole = self._states(self.probe.multi, case.query, case.items, hidden)
        behind = declared_semantics(self.probe.multi).serial_query(case.query, self.probe.multi.delimiter)
        alone = [self._states(self.probe.multi, case.query, [item], hidden) for item in case.items]
        limit = self.probe.same * max(1.0, float(np.abs(whole).max()))
        for states, what in (
            (np.concatenate(alone), f"{len(alone)} states of items alone"),
            (self._states(self.probe.serial, behind, case.items, hidden), "states of the serial server"),
        ):
            seen.append(self.probe.within(max_abs(states - whole), what, limit))
        return "; ".join(seen)

    def _states(self, server: Target, query: Sequence[int], items: Sequence[TokenIds], hidden: int) -> Scores:
        request = ScoreRequest(
            query=list(query), items=[list(item) for item in items], return_pooled_hidden_states=True
        )
        try:
            found = tables(server, request, classes=len(self.probe.case.labels), hidden=hidden).pooled
        except ScoreFailure as failure:
            if failure.status is not None and 400 <= failure.status < 500:
                raise NotMade(f"refused with status {failure.status}: not every backend gives them") from None
            raise
        assert found is not None  # they were asked for
        return np.stack(found)


CLASSIFICATION = Gate(
    "classification_agrees",
    "the class logits of a model with a classification head, against the serial server; their isolation, to the bit "
    "where the engine promises it; their softmax, a temperature, and the states that the head reads",
    rests_on="one check that could be made, and none that is broken",
    measure=measure,
    needs=("multi", "serial"),
    mode=ModeName.CLASSIFICATION,
    costly=True,
    short="classes",
    order=35,
)
GATES = (CLASSIFICATION,)
