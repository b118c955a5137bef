"""Generative scoring: what its wire does of its own, beside what the gates of plain ids ask for by way of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pytest_multiitem.gates.checks import Broken, NotMade
from pytest_multiitem.gates.evidence import max_abs
from pytest_multiitem.gates.gate import Gate, Measurement
from pytest_multiitem.gates.mode_probe import Checks, ModeProbe, measured
from pytest_multiitem.gates.subject import Subject
from pytest_multiitem.scoring.cases import TokenIds
from pytest_multiitem.scoring.modes import ModeName
from pytest_multiitem.targets.modes import first_label
from pytest_multiitem.transport.client import ScoreFailure

_QUERY: Final = "Which of these can be eaten?"
_TEXTS: Final = (" an apple", " a red car", " bread, still warm")
_SALT: Final = "a tenant of its own"
#: Of tokens: a limit above this is not probed; the request alone would be megabytes.
_LONGEST = 200_000
#: By how much nearer to its own probability than to another label's a score must be.
_TOLD_APART = 10
#: Distinct items behind a query that alone is too long.
_BEHIND = 3


def measure(subject: Subject) -> Measurement:
    """Ask as a client would that says no more than it must: a score is that of the first label, the softmax over all
    labels is what is not said, text may have special tokens unless it says no, and a salt changes nothing.

    A prompt over the model's limit must be refused: one that is cut scores every item by what is left of the query.
    """
    return measured(subject, ModeName.GENERATIVE_SCORING, _checks)


def _checks(probe: ModeProbe) -> Checks:
    wire = _Wire(probe)
    return {
        "the first label alone": wire.first,
        "a softmax where nothing is said": wire.default,
        "a softmax over one label": wire.one,
        "text": wire.text,
        "a salt of the cache": wire.salted,
        "over-long prompts": wire.over_long,
    }


class _Wire:
    """The case, as the endpoint is asked itself: no client stands between."""

    def __init__(self, probe: ModeProbe) -> None:
        self.probe = probe
        self.labels = [*probe.case.labels[:2]]

    def asked(self, items: Sequence[TokenIds] | None = None, **more: Any) -> NDArray[np.float64]:
        """The scores [N] of the first label."""
        case = self.probe.case
        contents = [list(item) for item in (case.items if items is None else items)]
        fields = {"query": list(case.query), "items": contents, "label_token_ids": self.labels, **more}
        return first_label(self.probe.multi, fields)

    def _two(self) -> list[int]:
        if len(self.labels) < 2:
            raise NotMade("not sent: the request has one label")
        return self.labels

    def first(self) -> str:
        """Of two labels: its probability is that of a call with it alone, and the shares of both sum to 1."""
        first, second = self._two()
        own, other = (self.asked(label_token_ids=[label], apply_softmax=False) for label in (first, second))
        if max_abs(own - other) <= 2 * self.probe.same * float(max(own.max(), other.max())):
            raise NotMade("two labels whose probabilities hardly differ: which one is answered would not show")
        both = self.asked(apply_softmax=False)
        limit = max_abs(own - other) / _TOLD_APART
        seen = self.probe.within(max_abs(both - own), "the first label of two, and alone", limit)
        shares = self.asked(apply_softmax=True) + self.asked(label_token_ids=[second, first], apply_softmax=True)
        return f"{seen}; {self.probe.within(max_abs(shares - 1), 'the shares of both, against 1')}"

    def default(self) -> str:
        """Not said, it is taken: other engines take it the other way round."""
        self._two()
        unsaid, shares, plain = self.asked(), self.asked(apply_softmax=True), self.asked(apply_softmax=False)
        if max_abs(shares - plain) <= 2 * self.probe.same:
            raise NotMade("shares and probabilities hardly differ: the default would not show")
        if max_abs(unsaid - plain) <= self.probe.same:
            raise Broken("without apply_softmax the scores are probabilities over the vocabulary; expected true")
        return self.probe.within(max_abs(unsaid - shares), "without apply_softmax, against true")

    def one(self) -> str:
        """It is 1, whatever the item: a score that says nothing."""
        return self.probe.within(
            max_abs(self.asked(label_token_ids=self.labels[:1], apply_softmax=True) - 1), "one label, against 1"
        )

    def text(self) -> str:
        """Without special tokens it scores as its ids do; with them, where the tokenizer has any, otherwise."""
        ids = {text: self.probe.encode(text) for text in (_QUERY, *_TEXTS)}
        by_ids = self.asked([ids[text] for text in _TEXTS], query=list(ids[_QUERY]))
        fields = {"query": _QUERY, "items": [*_TEXTS], "label_token_ids": self.labels}
        plain = first_label(self.probe.multi, {**fields, "add_special_tokens": False})
        seen = self.probe.within(max_abs(plain - by_ids), f"{len(_TEXTS)} texts, against their token ids")
        moved = max_abs(first_label(self.probe.multi, fields) - plain)
        return f"{seen}; where add_special_tokens is not said they move by {moved:.3g}"

    def salted(self) -> str:
        """A salt keeps prefixes apart; it is no content."""
        try:
            found = self.asked(cache_salt=_SALT)
        except ScoreFailure as failure:
            if failure.status is not None and 400 <= failure.status < 500:
                raise NotMade(f"cache_salt is refused with status {failure.status}") from None
            raise
        return self.probe.within(max_abs(found - self.asked()), "with a cache_salt")

    def over_long(self) -> str:
        """A query that is longer than the limit by itself, before several items."""
        limit, pool = self.probe.multi.max_tokens, self.probe.case.pool
        if limit is None or limit > _LONGEST:
            raise NotMade(
                f"not sent: {'the server tells no limit' if limit is None else f'its limit is {limit} tokens'}"
            )
        query = [pool[place % len(pool)] for place in range(limit + 1)]
        try:
            scores = self.asked([(token,) for token in pool[:_BEHIND]], query=query)
        except ScoreFailure as failure:
            if failure.status is not None and 400 <= failure.status < 500:
                return (
                    f"a prompt of {len(query) + 1} tokens is refused with status {failure.status}; the limit is {limit}"
                )
            raise
        alike = f", and {_BEHIND} different items all score {scores[0]:.6g}" if np.ptp(scores) == 0 else ""
        raise Broken(f"a prompt of {len(query) + 1} tokens is cut without a word, the limit is {limit}{alike}")


GENERATIVE_SCORING = Gate(
    "generative_scoring_agrees",
    "what /generative_scoring does of its own: the first label alone, a softmax where nothing is said, text, a salt of "
    "the cache; and that an over-long prompt is refused and not cut",
    rests_on="one check that could be made, and none that is broken",
    measure=measure,
    needs=("multi", "serial"),
    mode=ModeName.GENERATIVE_SCORING,
    no_column="the embedded engine, of which builds are mutants, does not serve this endpoint",
    costly=True,
    short="generative",
    order=37,
)
GATES = (GENERATIVE_SCORING,)
