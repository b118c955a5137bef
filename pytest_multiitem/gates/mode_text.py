"""Text: its isolation, and the tokens that a server puts on each text. Which ids it has is part of the contract."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pytest_multiitem.gates.checks import Broken, NotMade
from pytest_multiitem.gates.evidence import max_abs
from pytest_multiitem.gates.gate import Gate, Measurement
from pytest_multiitem.gates.mode_isolation import Isolation
from pytest_multiitem.gates.mode_probe import Checks, ModeProbe, measured
from pytest_multiitem.gates.subject import Subject
from pytest_multiitem.scoring.modes import ModeName
from pytest_multiitem.scoring.wire.score import ScoreRequest
from pytest_multiitem.targets.modes import require_ids, tables
from pytest_multiitem.targets.target import Target

_QUERY = "Which of these can be eaten?"
_ITEMS = (" an apple", " a red car", " bread, still warm", " 42 stones", "\nmilk and honey", " the window of a house")
#: What tokenizers put before a text, or behind it: a server that does so per item adds the same to each.
_SPECIALS = ("<|im_start|>", "<|endoftext|>", "<s>", "</s>", "[CLS]", "[SEP]", "<bos>", "<eos>")


def measure(subject: Subject) -> Measurement:
    """Score six texts, and compare them with themselves as `gates.mode_isolation` does, and with their token ids: by
    themselves, or with a special token on every item, which is named. An item whose tokens are others when it is read
    together with the query is counted: packed and serial text differ there by design. Raises EngineUnavailable for a
    server without labels.
    """
    require_ids(subject.multi)
    return measured(subject, ModeName.TEXT, _checks)


def _checks(probe: ModeProbe) -> Checks:
    texts = _Texts(probe)
    return {
        "special tokens": texts.specials,
        "read together with the query": texts.joined,
        **Isolation(probe, _ITEMS, texts.asked, probe.other_text, probe.longer_text, exact=probe.knows_tokens).checks,
    }


class _Texts:
    """The texts, and what the packed server gives for them and for ids."""

    def __init__(self, probe: ModeProbe) -> None:
        self.probe = probe

    def asked(self, items: Sequence[str], server: Target) -> list[NDArray[np.float64]]:
        """Scores [K] of each text."""
        labels = list(self.probe.case.labels)
        request = ScoreRequest(query=_QUERY, items=list(items), label_token_ids=labels, apply_softmax=True)
        return tables(server, request).scores

    def specials(self) -> str:
        """Of a query there may be some, of an item none."""
        probe, encode = self.probe, self.probe.multi.encode
        if encode is None:
            raise NotMade("not sent: the served model's tokenizer.json does not lie on this machine")
        found = np.stack(self.asked(_ITEMS, probe.multi))
        queries = {tuple(encode(_QUERY)), tuple(encode(_QUERY, special=True))}
        items = [encode(text) for text in _ITEMS]

        def apart(around: Sequence[int], behind: bool = False) -> float:
            contents = [[*item, *around] if behind else [*around, *item] for item in items]
            rows = (probe.multi.score_ids(query, contents, probe.case.labels) for query in queries)
            return min(max_abs(found - each) for each in rows)

        plain = apart(())
        for text in _SPECIALS if plain > probe.same else ():
            token = self._special(text)
            for behind in (False, True) if token is not None else ():
                if token is not None and apart((token,), behind) <= probe.same:
                    where = "behind" if behind else "before"
                    raise Broken(f"a special token, {text} ({token}), stands {where} every item; expected on none")
        return probe.within(plain, f"{len(items)} texts, against their token ids")

    def _special(self, text: str) -> int | None:
        try:
            return self.probe.token(text)
        except NotMade:
            return None

    def joined(self) -> str:
        """How many of the texts; no fault of anybody's."""
        query = self.probe.encode(_QUERY)
        others = [text for text in _ITEMS if self.probe.encode(_QUERY + text) != (*query, *self.probe.encode(text))]
        shown = f": {', '.join(map(repr, others[:3]))}" if others else ""
        return f"{len(others)} of {len(_ITEMS)} have other tokens together with the query{shown}"


TEXT = Gate(
    "text_agrees",
    "texts against their token ids, without special tokens on items; their isolation, to the bit where the engine "
    "promises it",
    rests_on="one check that could be made, and none that is broken",
    measure=measure,
    needs=("multi", "serial"),
    mode=ModeName.TEXT,
    costly=True,
    short="text",
    order=39,
)
GATES = (TEXT,)
