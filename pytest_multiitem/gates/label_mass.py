"""Label mass: how much of the vocabulary's probability the labels have. Next to none: nobody asked for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pytest_multiitem.gates.evidence import baseline, evidence_of
from pytest_multiitem.gates.gate import Gate, Measurement
from pytest_multiitem.gates.subject import Subject
from pytest_multiitem.results import details
from pytest_multiitem.scoring.modes import ModeName
from pytest_multiitem.scoring.prompts import reranker
from pytest_multiitem.targets.modes import decided, require_ids, speaks
from pytest_multiitem.targets.target import Target

#: Of the vocabulary's probability: labels that a template asks for have nearly all of it.
_NEAR_ZERO = 1e-3
#: Of random weights all tokens are about as probable: labels have this share of what is theirs by number, at least.
_OF_CHANCE = 0.01
#: Requests whose labels are looked at.
_CASES = 4
#: What a generated checkpoint has beside its weights.
_GENERATED = "multiitem-checksums.json"
_QUESTION = {"id": "mild", "type": "yes_no", "question": "Is it mild?"}


def measure(subject: Subject) -> Measurement:
    """Score the run's first requests without a softmax, a rendered prompt for rerank, and a decision, where the server
    speaks them, and report the median share of the vocabulary's probability that the labels have in each.

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
        masses = {ModeName.IDS: float(np.median(np.concatenate(ids)))}
        masses |= {mode: mass for mode, mass in _prompted(multi).items() if mode.value in subject.settings.mode}
    attestation.packed_sequences = attestation.packed_items = 0
    generated, asked = _is_generated(multi), subject.settings.workload is not None
    chance = min(len(case.labels) for case in cases) / (multi.vocab_size or 1)
    words, low = [], []
    for mode, mass in masses.items():
        least = _NEAR_ZERO if asked or mode is not ModeName.IDS else 0.0
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
            broken={}, held={mode.value: f"{mass:.6g}" for mode, mass in masses.items()}, not_made={}
        ),
        problem=f"{doubt}, of weights that are random: labels are not read where they stand"
        if low and generated
        else None,
        doubt=f"{doubt}: {why}" if low else None,
        holds=f"label mass: {', '.join(words)}",
    )


def _prompted(multi: Target) -> dict[ModeName, float]:
    """The label mass of a prompt of rerank, of a server whose prompt is known, and of a decision."""
    found = {}
    encode = multi.encode
    if encode is not None and multi.info.get("engine") == "embedded" and speaks(multi, ModeName.RERANK):
        query, items = reranker.rendered(reranker.INSTRUCT, "What is it about?", ["It is about snow.", "no"])
        labels = [encode(label)[0] for label in reranker.LABELS]
        scores = multi.score_ids(encode(query), [encode(item) for item in items], labels, apply_softmax=False)
        found[ModeName.RERANK] = float(np.median(scores.sum(axis=1)))
    if speaks(multi, ModeName.DECISIONS):
        answers = decided(multi, {"input": "It is May.", "questions": [_QUESTION]}).answers
        found[ModeName.DECISIONS] = answers["mild"].label_mass
    return found


def _is_generated(multi: Target) -> bool:
    """Whether a checkpoint is one of random weights that this package wrote."""
    return multi.model is not None and (Path(multi.model) / _GENERATED).is_file()


LABEL_MASS = Gate(
    "label_mass_not_zero",
    "the share of the vocabulary's probability that the labels have, by ids, in rerank and in decisions",
    rests_on="probabilities without softmax",
    measure=measure,
    needs=("multi",),
    costly=True,
    short="label mass",
    order=34,
)
GATES = (LABEL_MASS,)
