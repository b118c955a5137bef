"""Setwise scoring: an item with several readouts, each at an extraction token inside it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from pytest_multiitem.gates.checks import NotMade
from pytest_multiitem.gates.evidence import max_abs
from pytest_multiitem.gates.gate import Gate, Measurement
from pytest_multiitem.gates.mode_isolation import Isolation
from pytest_multiitem.gates.mode_probe import TEMPERATURES, Checks, ModeProbe, largest, measured
from pytest_multiitem.gates.subject import Subject
from pytest_multiitem.scoring.cases import TokenIds
from pytest_multiitem.scoring.modes import ModeName
from pytest_multiitem.scoring.readout import softmax
from pytest_multiitem.scoring.wire.score import ScoreRequest
from pytest_multiitem.targets.modes import Tables, speaks, tables
from pytest_multiitem.targets.target import Target, declared_semantics
from pytest_multiitem.transport.one_item import OneItemClient

#: Texts that are a token each in most vocabularies, and written the same in and outside of it.
MARKS = ("<|im_end|>", "<|fim_middle|>", "<|box_end|>", "~", "@", "#")
#: Readouts of an item, at most.
_READOUTS = 4
#: Of logarithms: twice that of a factor of 1.02.
_LOG_LIMIT = 2 * float(np.log(1.02))


def measure(subject: Subject) -> Measurement:
    """Score sets of one to four readouts each, and compare each readout with a serial request that ends there, and each
    set with itself as `gates.mode_isolation` does: beside others of the same and of other lengths, alone, in another
    order, twice, among other requests, and with cold caches.

    A temperature and log-probabilities are asked for where the server speaks them.
    """
    return measured(subject, ModeName.SETWISE, partial(_checks, ModeName.SETWISE))


def measure_classes(subject: Subject) -> Measurement:
    """As `setwise_agrees`, with the classes of a head in the place of labels, and without log-probabilities: of the
    server under test where its model has a head, else of servers of a tiny such model beside it."""
    mode = ModeName.SETWISE_CLASSIFICATION
    return measured(subject, mode, partial(_checks, mode), head=True)


def _checks(mode: ModeName, probe: ModeProbe) -> Checks:
    mark = next(((text, token) for text in MARKS if (token := _mark(probe, text)) is not None), None)
    if mark is None:

        def no_mark() -> str:
            raise NotMade(f"not sent: none of {', '.join(MARKS)} is a token that the requests do not have")

        return {"readouts in their order": no_mark}
    sets = _Sets(mode, probe, *mark)
    checks: Checks = {
        "readouts in their order": sets.in_order,
        "against the serial server's sets": sets.serially,
        **sets.isolation.checks,
        "temperature": sets.temperature,
    }
    return checks if mode is not ModeName.SETWISE else {**checks, "token log-probabilities": sets.logprobs}


def _mark(probe: ModeProbe, text: str) -> int | None:
    token = probe.token(text)
    content = {token for tokens in (probe.case.query, *probe.case.items) for token in tokens}
    return None if token in content or token in probe.case.labels else token


class _Sets:
    """The items of a case with marks inside, and what the packed server gives for them."""

    def __init__(self, mode: ModeName, probe: ModeProbe, text: str, token: int) -> None:
        self.mode = mode
        self.probe, self.text, self.token = probe, text, token
        self.items = [self._marked(item, 1 + number % _READOUTS) for number, item in enumerate(probe.case.items)]
        self._whole: Tables | None = None

    def _marked(self, item: TokenIds, readouts: int) -> TokenIds:
        """So many marks, evenly spread; the last one is the item's end where there is one readout alone."""
        ends = np.linspace(0, len(item), readouts + 1).astype(int)[1:]
        if readouts > 1 and ends[-1] > ends[-2]:
            ends[-1] -= 1  # content behind the last mark is seen by no readout
        parts: list[int] = []
        start = 0
        for end in ends.tolist():
            parts += [*item[start:end], self.token]
            start = end
        return (*parts, *item[start:])

    def asked(self, items: Sequence[TokenIds], target: Target | None = None, **more: Any) -> Tables:
        case, target = self.probe.case, target or self.probe.multi
        query: list[int] = list(case.query)
        if target is self.probe.serial:
            semantics = declared_semantics(self.probe.multi)
            query = list(semantics.serial_query(case.query, self.probe.multi.delimiter))
        request = ScoreRequest(
            query=query,
            items=[list(item) for item in items],
            label_token_ids=list(case.labels) if self.mode is ModeName.SETWISE else None,
            apply_softmax=True,
            score_extraction_token=self.text,
            **more,
        )
        readouts = [item.count(self.token) for item in items]
        return tables(target, request, readouts=readouts, classes=len(case.labels))

    @property
    def whole(self) -> Tables:
        """Of all sets in one request."""
        if self._whole is None:
            self._whole = self.asked(self.items)
        return self._whole

    @property
    def isolation(self) -> Isolation[TokenIds]:
        """Of sets: whatever changes, the readouts of a set stay as many."""
        return Isolation(
            self.probe,
            self.items,
            lambda items, server: self.asked(items, server).scores,
            partial(self.probe.other, keep=(self.token,)),
            partial(self.probe.longer, keep=(self.token,)),
        )

    def in_order(self) -> str:
        """A readout is what a serial request without the rest of the item gives."""
        case = self.probe.case
        ends = [item[: place + 1] for item in self.items for place, token in enumerate(item) if token == self.token]
        wanted = self.probe.alone(case.query, ends, case.labels, softmax=True)
        found = np.concatenate(self.whole.scores)
        return self.probe.within(max_abs(found - wanted), f"{len(ends)} readouts of {len(self.items)} items")

    def serially(self) -> str:
        """The serial server reads the same sets."""
        serial = self.probe.serial
        if not speaks(serial, self.mode):
            raise NotMade("not sent: the serial server does not say that it speaks setwise")
        if isinstance(serial.client, OneItemClient):
            raise NotMade("not sent: one server answers for both sides")
        pairs = zip(self.asked(self.items, serial).scores, self.whole.scores, strict=True)
        return self.probe.within(largest([max_abs(a - b) for a, b in pairs]), "sets of the serial server")

    def temperature(self) -> str:
        """The softmax of the logarithms of the scores over it."""
        if self.mode is ModeName.SETWISE and not speaks(self.probe.multi, ModeName.TEMPERATURE):
            raise NotMade("not sent: the server does not say that it speaks temperature")
        seen = []
        for temperature in TEMPERATURES:
            limit = self.probe.same / min(1.0, temperature)
            with np.errstate(divide="ignore"):
                expected = [softmax(np.log(np.maximum(each, 0)), temperature) for each in self.whole.scores]
            moved = largest([max_abs(a - b) for a, b in zip(expected, self.whole.scores, strict=True)])
            if moved <= 2 * limit:
                continue
            found = self.asked(self.items, temperature=temperature).scores
            apart = largest([max_abs(a - b) for a, b in zip(found, expected, strict=True)])
            seen.append(self.probe.within(apart, f"at temperature {temperature:g}", limit))
        if not seen:
            raise NotMade("the scores are such that a temperature hardly moves them")
        return "; ".join(seen)

    def logprobs(self) -> str:
        """A row a readout, whose softmax is the scores, and which are those of the vocabulary."""
        if not speaks(self.probe.multi, ModeName.TEMPERATURE):
            raise NotMade("not sent: the server does not say that it speaks return_token_logprobs")
        logprobs = self.asked(self.items, return_token_logprobs=True).logprobs
        assert logprobs is not None
        case = self.probe.case
        last = [number for number, item in enumerate(self.items) if item[-1] == self.token]
        found = np.concatenate(logprobs)
        if found.max() > 1e-6:
            return self.probe.within(float(np.exp(found.max())), "the largest probability", 1.0)
        shares = softmax(found)
        seen = self.probe.within(max_abs(shares - np.concatenate(self.whole.scores)), "their softmax")
        plain = self.probe.multi.score_ids(
            case.query, [self.items[number] for number in last], case.labels, apply_softmax=False
        )
        if not (plain > 0).all():
            return seen
        ends = np.array([logprobs[number][-1] for number in last])
        apart = max_abs(ends - np.log(plain))
        return f"{seen}; {self.probe.within(apart, 'against the plain probabilities', _LOG_LIMIT)}"


SETWISE = Gate(
    "setwise_agrees",
    "readouts inside an item, against serial requests that end there; the isolation of sets, to the bit where the "
    "engine promises it; with a temperature, and their log-probabilities",
    rests_on="one check that could be made, and none that is broken",
    measure=measure,
    needs=("multi", "serial"),
    mode=ModeName.SETWISE,
    costly=True,
    short="setwise",
    order=31,
)
SETWISE_CLASSIFICATION = Gate(
    "setwise_classification_agrees",
    "the same of a model with a classification head, which is read at each extraction token",
    rests_on=SETWISE.rests_on,
    measure=measure_classes,
    needs=("multi", "serial"),
    mode=ModeName.SETWISE_CLASSIFICATION,
    costly=True,
    short="setwise classes",
    order=36,
)
GATES = (SETWISE, SETWISE_CLASSIFICATION)
