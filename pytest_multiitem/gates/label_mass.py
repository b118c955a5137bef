"""Label mass: how much of the vocabulary's probability the labels have. Next to none: nobody asked for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pytest_multiitem.gates.checks import NotMade
from pytest_multiitem.gates.evidence import baseline, evidence_of
from pytest_multiitem.gates.gate import Gate, Measurement
from pytest_multiitem.gates.mode_probe import TEMPERATURES
from pytest_multiitem.gates.mode_setwise import MARKS
from pytest_multiitem.gates.subject import Subject
from pytest_multiitem.results import details
from pytest_multiitem.scoring.cases import Case
from pytest_multiitem.scoring.modes import ModeName
from pytest_multiitem.scoring.prompts import reranker
from pytest_multiitem.scoring.wire.score import ScoreRequest
from pytest_multiitem.targets.modes import decided, require_ids, speaks, tables
from pytest_multiitem.targets.target import Target
from pytest_multiitem.transport.client import ScoreFailure

#: Of the vocabulary's probability: labels that a template asks for have nearly all of it.
_NEAR_ZERO = 1e-3
#: Of random weights all tokens are about as probable: labels have this share of what is theirs by number, at least.
_OF_CHANCE = 0.01
#: Requests whose labels are looked at.
_CASES = 4
#: What a generated checkpoint has beside its weights.
_GENERATED = "multiitem-checksums.json"
_TEXT, _TEXTS = "Which of these can be eaten?", (" an apple", " a red car")
_QUESTION = {"id": "mild", "type": "yes_no", "question": "Is it mild?"}


def measure(subject: Subject) -> Measurement:
    """Score the run's first requests without a softmax, in every causal mode that the server speaks, two texts, a
    rendered prompt for rerank, and a decision, and report the median share of the vocabulary's probability that the
    labels have.

    INCONCLUSIVE where it is near zero: below 0.001 for requests of the user's own and for prompts of the server's: a
    model may be no judge of what it is asked. FAIL below a hundredth of chance for a checkpoint of random weights, to
    which all tokens are about as probable. Requests that are random tokens ask for no label: for them it is reported,
    and must not be 0.
    """
    multi, record = subject.multi, subject.record
    require_ids(multi)
    cases = subject.cases(multi)[:_CASES]
    whole = [baseline(multi, case, record) for case in cases]
    with multi.attest() as attestation:
        ids = [multi.score_ids(case.query, case.items, case.labels, apply_softmax=False).sum(axis=1) for case in cases]
        own = ModeName.GENERATIVE_SCORING if speaks(multi, ModeName.GENERATIVE_SCORING) else ModeName.IDS
        masses = {own: float(np.median(np.concatenate(ids)))}
        not_made: dict[str, str] = {}
        for mode, measured in _MEASURED.items():
            if mode.value in subject.settings.mode and speaks(multi, mode):
                try:
                    masses[mode] = measured(multi, cases[0])
                except NotMade as reason:
                    not_made[mode.value] = str(reason)
    attestation.packed_sequences = attestation.packed_items = 0
    generated, asked = _is_generated(multi), subject.settings.workload is not None
    chance = min(len(case.labels) for case in cases) / (multi.vocab_size or 1)
    words, low = [], []
    for mode, mass in masses.items():
        least = _NEAR_ZERO if mode in _PROMPTED or (asked and mode is not ModeName.TEXT) else 0.0
        if generated:
            least = _OF_CHANCE * chance
        said = f"{mode.value} {mass:.3g}"
        words.append(said if mass >= _NEAR_ZERO else f"{said} (near zero)")
        if not mass > least:
            low.append(f"{said}, at most {least:.3g}")
    doubt = f"the labels have next to none of the vocabulary's probability ({'; '.join(low)})"
    why = "a template is missing, or the label ids are not those of this tokenizer"
    return Measurement(
        target=multi,
        value=min(masses.values()),
        evidence=evidence_of(multi, None, cases, record, scored=whole, spread=whole),
        attestation=attestation,
        samples={"requests": len(cases), "items": sum(map(len, ids))},
        details=details.RequestContract(
            broken={}, held={mode.value: f"{mass:.6g}" for mode, mass in masses.items()}, not_made=not_made
        ),
        problem=f"{doubt}, of weights that are random: labels are not read where they stand"
        if low and generated
        else None,
        doubt=f"{doubt}: {why}" if low else None,
        holds=f"label mass: {', '.join(words)}",
    )


def _of_lists(multi: Target, case: Case) -> float:
    """Of labels of each item's own, which are the same ones."""
    return _mass(multi, case, label_token_ids=[[*case.labels] for _ in case.items])


def _of_temperature(multi: Target, case: Case) -> float:
    """Of the log-probabilities, which no temperature moves."""
    request = _request(case, apply_softmax=True, temperature=TEMPERATURES[0], return_token_logprobs=True)
    logprobs = tables(multi, request).logprobs
    assert logprobs is not None  # they were asked for
    return float(np.median([np.exp(row).sum() for row in logprobs]))


def _of_text(multi: Target, case: Case) -> float:
    """Of two texts, which ask for no label."""
    request = ScoreRequest(query=_TEXT, items=[*_TEXTS], label_token_ids=[*case.labels], apply_softmax=False)
    try:
        rows = tables(multi, request).scores
    except ScoreFailure as failure:
        if failure.status is not None and 400 <= failure.status < 500:
            raise NotMade(f"text is refused with status {failure.status}") from None
        raise
    return float(np.median([row.sum() for row in rows]))


def _of_sets(multi: Target, case: Case) -> float:
    """At an extraction token behind each item. Raises NotMade where none is known."""
    encode = multi.encode
    known = [] if encode is None else [(text, ids[0]) for text in MARKS if len(ids := encode(text)) == 1]
    size = multi.vocab_size or 0
    text, mark = next(((t, i) for t, i in known if i < size and i != multi.delimiter), ("", None))
    content = {token for tokens in (case.query, *case.items) for token in tokens}
    if mark is None or mark in content:
        raise NotMade(f"not sent: none of {', '.join(MARKS)} is a token that the requests do not have")
    items = [[*item, mark] for item in case.items]
    request = _request(case, items=items, apply_softmax=False, score_extraction_token=text)
    rows = tables(multi, request, readouts=[1] * len(items)).scores
    return float(np.median([row.sum() for row in rows]))


def _of_rerank(multi: Target, case: Case) -> float:
    """Of a server whose prompt is known. Raises NotMade for any other."""
    encode = multi.encode
    if encode is None or multi.info.get("engine") != "embedded":
        raise NotMade("not sent: what prompt this server renders is not known")
    query, items = reranker.rendered(reranker.INSTRUCT, "What is it about?", ["It is about snow.", "no"])
    labels = [encode(label)[0] for label in reranker.LABELS]
    scores = multi.score_ids(encode(query), [encode(item) for item in items], labels, apply_softmax=False)
    return float(np.median(scores.sum(axis=1)))


def _of_decisions(multi: Target, case: Case) -> float:
    """By the answer's own word."""
    return decided(multi, {"input": "It is May.", "questions": [_QUESTION]}).answers["mild"].label_mass


def _request(case: Case, **more: Any) -> ScoreRequest:
    fields = {"items": [[*item] for item in case.items], "label_token_ids": [*case.labels], **more}
    return ScoreRequest(query=[*case.query], **fields)


def _mass(multi: Target, case: Case, **more: Any) -> float:
    rows = tables(multi, _request(case, apply_softmax=False, **more)).scores
    return float(np.median([row.sum() for row in rows]))


#: How the label mass of a mode is measured beside that of plain ids, on the run's first request.
_MEASURED: Mapping[ModeName, Callable[[Target, Case], float]] = {
    ModeName.TEXT: _of_text,
    ModeName.LABELS_PER_ITEM: _of_lists,
    ModeName.TEMPERATURE: _of_temperature,
    ModeName.SETWISE: _of_sets,
    ModeName.RERANK: _of_rerank,
    ModeName.DECISIONS: _of_decisions,
}
#: Those whose prompt asks for the labels, whatever the run's requests are.
_PROMPTED = frozenset({ModeName.RERANK, ModeName.DECISIONS})


def _is_generated(multi: Target) -> bool:
    """Whether a checkpoint is one of random weights that this package wrote."""
    return multi.model is not None and (Path(multi.model) / _GENERATED).is_file()


LABEL_MASS = Gate(
    "label_mass_not_zero",
    "the share of the vocabulary's probability that the labels have, in every causal mode that the server speaks",
    rests_on="probabilities without softmax",
    measure=measure,
    needs=("multi",),
    costly=True,
    short="label mass",
    order=34,
)
GATES = (LABEL_MASS,)
