"""The ways to ask for scores that users deploy, each once: adapters, gates and documentation take them from here."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Head(StrEnum):
    """What a model reads scores with: the logits of a causal LM at labels, or a classification head."""

    CAUSAL = "causal"
    CLASSIFICATION = "classification"


class ModeName(StrEnum):
    """The modes by name, as ``/get_server_info`` says which a server speaks."""

    IDS = "ids"
    TEXT = "text"
    LABELS_PER_ITEM = "labels_per_item"
    TEMPERATURE = "temperature"
    CLASSIFICATION = "classification"
    SETWISE = "setwise"
    SETWISE_CLASSIFICATION = "setwise_classification"
    RERANK = "rerank"
    DECISIONS = "decisions"
    GENERATIVE_SCORING = "generative_scoring"


@dataclass(frozen=True, kw_only=True)
class ScoringMode:
    """One mode. ``number``: of its row in the table of modes; None for one that is beside it. ``paths``: where it is
    asked for. ``heads``: of the models that have it. ``fields``: of a request, beside those of every one on its paths.
    ``answer``: the shape of an answer. ``reference``: what its scores must equal, serially."""

    name: ModeName
    number: int | None
    paths: tuple[str, ...]
    heads: tuple[Head, ...]
    fields: tuple[str, ...]
    answer: str
    reference: str


_SCORE: Final = ("/v1/score",)
_CAUSAL: Final = (Head.CAUSAL,)
_CLASSES: Final = (Head.CLASSIFICATION,)

#: In the order of their numbers.
MODES: Final = (
    ScoringMode(
        name=ModeName.IDS,
        number=1,
        paths=_SCORE,
        heads=_CAUSAL,
        fields=("query", "items", "label_token_ids", "apply_softmax", "item_first"),
        answer="scores [N][K]",
        reference="each item alone behind the query that the declared semantics gives it",
    ),
    ScoringMode(
        name=ModeName.TEXT,
        number=2,
        paths=_SCORE,
        heads=(*_CAUSAL, *_CLASSES),
        fields=("query", "items"),
        answer="as for ids",
        reference="the ids that the tokenizer gives the query and each item, each text by itself",
    ),
    ScoringMode(
        name=ModeName.LABELS_PER_ITEM,
        number=3,
        paths=_SCORE,
        heads=_CAUSAL,
        fields=("label_token_ids",),
        answer="scores [N][K_i]",
        reference="one request for each list of labels",
    ),
    ScoringMode(
        name=ModeName.TEMPERATURE,
        number=4,
        paths=_SCORE,
        heads=_CAUSAL,
        fields=("temperature", "return_token_logprobs"),
        answer="scores, and token_logprobs of the same shape",
        reference="the softmax of the log-probabilities at temperature 1, divided by the temperature",
    ),
    ScoringMode(
        name=ModeName.CLASSIFICATION,
        number=5,
        paths=_SCORE,
        heads=_CLASSES,
        fields=("apply_softmax", "temperature", "return_pooled_hidden_states"),
        answer="scores [N][C]; pooled_hidden_states [N][H]",
        reference="the head at the last token of each item alone",
    ),
    ScoringMode(
        name=ModeName.SETWISE,
        number=6,
        paths=_SCORE,
        heads=_CAUSAL,
        fields=("score_extraction_token",),
        answer="scores [N][N_i][K]",
        reference="each item alone, read at each of its extraction tokens",
    ),
    ScoringMode(
        name=ModeName.SETWISE_CLASSIFICATION,
        number=7,
        paths=_SCORE,
        heads=_CLASSES,
        fields=("score_extraction_token", "return_pooled_hidden_states"),
        answer="scores [N][N_i][C]; pooled_hidden_states [N][N_i][H]",
        reference="each item alone, the head at each of its extraction tokens",
    ),
    ScoringMode(
        name=ModeName.RERANK,
        number=8,
        paths=("/v1/rerank", "/rerank", "/v2/rerank"),
        heads=(*_CAUSAL, *_CLASSES),
        fields=("query", "documents", "top_n", "return_documents", "instruct"),
        answer="entries of index and score, by descending score",
        reference="the score of each rendered prompt: the share of yes in yes and no, or the sigmoid of the one logit",
    ),
    ScoringMode(
        name=ModeName.DECISIONS,
        number=9,
        paths=("/v1/decisions",),
        heads=_CAUSAL,
        fields=("input", "questions", "temperature", "return_prompt_token_ids"),
        answer="answers by the ids of the questions: probabilities, label_mass",
        reference="the prompt and label ids that the answer names",
    ),
    ScoringMode(
        name=ModeName.GENERATIVE_SCORING,
        number=None,
        paths=("/generative_scoring",),
        heads=_CAUSAL,
        fields=("query", "items", "label_token_ids", "apply_softmax", "item_first", "add_special_tokens", "cache_salt"),
        answer="data of index and score, that of the first label",
        reference="the first label of each item alone",
    ),
)


def scoring_mode(name: ModeName) -> ScoringMode:
    """The mode of a name."""
    return next(mode for mode in MODES if mode.name is name)
