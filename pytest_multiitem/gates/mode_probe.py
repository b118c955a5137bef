"""What the gates of modes share: a small request, how it is scored, and the checks that make up such a gate."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from pytest_multiitem.adapters.attestation import Attestation
from pytest_multiitem.errors import EngineUnavailable
from pytest_multiitem.gates.checks import NotMade, made, within
from pytest_multiitem.gates.evidence import Baseline, baseline, evidence_of
from pytest_multiitem.gates.gate import Measurement
from pytest_multiitem.gates.subject import Subject
from pytest_multiitem.scoring.cases import Case, TokenIds
from pytest_multiitem.scoring.limits import placed_limit
from pytest_multiitem.scoring.modes import ModeName
from pytest_multiitem.targets.modes import require_mode, speaks, takes_ids
from pytest_multiitem.targets.target import Target, declared_semantics
from pytest_multiitem.transport.client import Scores
from pytest_multiitem.transport.one_item import NeverScored

#: Items of a request of these gates, at most.
_ITEMS = 6
#: What a letter of a text is changed to.
_LETTERS = "aeinorst"
#: What a text may have more of: most tokenizers have each as a token.
_WORDS = (" north", " water", " green", " seven", " never", " stone", " night", " paper")
#: A softmax is flatter at one of these temperatures, and steeper at the other.
TEMPERATURES = (2.0, 0.5)
Checks = Mapping[str, Callable[[], str]]


@dataclass(frozen=True, eq=False)
class ModeProbe:
    """Both servers, a small case, and how it is scored by ids alone."""

    multi: Target
    serial: Target
    case: Case
    base: Baseline

    @property
    def same(self) -> float:
        """How far two scores of the same content may be apart."""
        return placed_limit(self.multi.dtype)

    def within(self, difference: float, what: str, limit: float | None = None) -> str:
        """`checks.within`, with the noise of this server; ``limit``: that of the same content where None."""
        return within(difference, self.same if limit is None else limit, what, noise=self.base.noise)

    def alone(self, query: TokenIds, items: Sequence[TokenIds], labels: Sequence[int], *, softmax: bool) -> Scores:
        """The serial scores [N, K] of items, in the context that the declared semantics gives them."""
        behind = declared_semantics(self.multi).serial_query(query, self.multi.delimiter)
        try:
            return self.serial.score_ids(behind, items, labels, apply_softmax=softmax)
        except NeverScored as reason:
            raise NotMade(f"not sent: {reason}") from None

    def encode(self, text: str) -> TokenIds:
        """The ids of a text by itself, without special tokens. Raises NotMade where nobody here knows them."""
        encode = self.multi.encode
        if encode is None:
            raise NotMade("not sent: the served model's tokenizer.json does not lie on this machine")
        return tuple(encode(text))

    def other(self, item: TokenIds, number: int, *, keep: Collection[int] = ()) -> TokenIds:
        """An item as long, by its number, with other tokens but those that are kept."""
        pool, found = self.case.pool, []
        for place, token in enumerate(item):
            at = 7 * place + 13 * number + token
            while pool[at % len(pool)] in (token, *keep):
                at += 1
            found.append(token if token in keep else pool[at % len(pool)])
        return tuple(found)

    def longer(self, item: TokenIds, by: int, *, keep: Collection[int] = ()) -> TokenIds:
        """An item with more tokens at its beginning."""
        return (*self.other(self.case.pool[:by], by, keep=keep), *item)

    @property
    def knows_tokens(self) -> bool:
        """Whether it is known here how many tokens a text is."""
        return self.multi.encode is not None

    def other_text(self, text: str, number: int) -> str:
        """A text with one other letter or word, by its number, and of as many tokens where that is known. Raises
        NotMade where there is none."""
        encode = self.multi.encode
        tried = [
            text[:place] + letter + text[place + 1 :]
            for place in reversed(range(len(text)))
            for letter in _LETTERS
            if text[place].isalpha() and text[place] != letter
        ]
        words = text.split(" ")
        tried += [
            " ".join((*words[:place], word.strip(), *words[place + 1 :]))
            for place in range(len(words))
            for word in _WORDS
            if words[place] and words[place] != word.strip()
        ]
        tried = [*tried[number % len(_LETTERS) :], *tried[: number % len(_LETTERS)]]
        size = 0 if encode is None else len(encode(text))
        found = next((other for other in tried if encode is None or len(encode(other)) == size), None)
        if found is None:
            raise NotMade(f"not sent: no other text of {size} tokens is known for {text[:40]!r}")
        return found

    def longer_text(self, text: str, by: int) -> str:
        """A text with more words at its end."""
        return text + "".join(_WORDS[place % len(_WORDS)] for place in range(by))

    def token(self, text: str) -> int | None:
        """The one token that a text is; None where it is several, none of the vocabulary, or the delimiter."""
        ids = self.encode(text)
        size = self.multi.vocab_size
        known = len(ids) == 1 and ids[0] != self.multi.delimiter and (size is None or ids[0] < size)
        return ids[0] if known else None


def measured(
    subject: Subject,
    mode: ModeName,
    checks: Callable[[ModeProbe], Checks],
    *,
    head: bool = False,
    texts: Callable[[Target], Baseline] | None = None,
) -> Measurement:
    """Make the checks of a mode. Raises EngineUnavailable where the server does not speak it. ``head``: of a model with
    a classification head, whose classes are then the labels: that of the server, else one of such a model beside it.
    ``texts``: what stands for the scores of a case on a server without ids and labels, whose case is then empty.

    A check that does not hold makes the gate FAIL; where none could be made, or what one saw may be noise, nothing is
    decided.
    """
    multi, record = subject.multi, subject.record
    serial = subject.serial
    if head and not speaks(multi, mode):
        multi, serial = subject.with_head()
    require_mode(multi, mode)
    if texts is not None and not takes_ids(multi):
        case, whole = Case(mode.value, (), (), (), ()), texts(multi)
    else:
        case = subject.cases(subject.multi)[0]
        if head:
            case = replace(case, labels=tuple(range(classes_of(multi))))
        case = replace(case, items=tuple(filter(None, case.items))[:_ITEMS], texts=())
        if not case.items:
            return Measurement(multi, None, doubt=f"request {case.name!r} has no item with tokens")
        whole = baseline(multi, case, record)
    probe = ModeProbe(multi, serial, case, whole)
    with multi.attest() as attestation:
        outcomes = made(checks(probe), multi, record, case=f"{case.name}, {mode.value}")
    attestation.packed_sequences = attestation.packed_items = 0  # how small these are says nothing of other requests
    return Measurement(
        target=multi,
        value=None,
        evidence=evidence_of(multi, None, [case], record, scored=[whole], spread=[whole]),
        attestation=Attestation.joined([whole.attestation, *([attestation] if outcomes.held else [])]),
        samples=outcomes.samples,
        details=outcomes.details,
        problem=outcomes.problem,
        doubt=outcomes.doubt,
        holds=outcomes.holds,
    )


def classes_of(target: Target) -> int:
    """The classes of a served model with a head, by its config.json. Raises EngineUnavailable where there is none."""
    config = _config(target)
    try:
        classes: int = config["num_labels"] if "num_labels" in config else len(config["id2label"])
    except (TypeError, LookupError):
        raise EngineUnavailable(f"how many classes the {target.place} has is not known: no config.json here") from None
    return classes


def hidden_of(target: Target) -> int:
    """The size of a served model's states, by its config.json. Raises NotMade where there is none."""
    hidden = _config(target).get("hidden_size")
    if type(hidden) is not int:
        raise NotMade("not sent: the size of the served model's states is not known: no config.json here")
    return hidden


def _config(target: Target) -> dict[str, Any]:
    try:
        config = msgspec.json.decode((Path(target.model or "") / "config.json").read_bytes())
    except (OSError, ValueError):
        config = None
    return config if isinstance(config, dict) else {}


def largest(differences: Sequence[float]) -> float:
    """The largest of differences, NaN before all others."""
    return float(np.max(differences)) if len(differences) else 0.0
