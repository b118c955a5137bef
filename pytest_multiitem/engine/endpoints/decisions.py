"""``POST /v1/decisions``: each question an item with labels of its own, behind the input as their query."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pytest_multiitem.engine.scored import Asked, scored
from pytest_multiitem.engine.service import Service
from pytest_multiitem.scoring.prompts import decisions as prompts
from pytest_multiitem.scoring.wire.decisions import (
    DecisionAnswer,
    DecisionRequest,
    DecisionResponse,
    Question,
    encode_decisions,
    parse_decision_request,
)
from pytest_multiitem.scoring.wire.errors import WireError
from pytest_multiitem.scoring.wire.fields import Usage


@dataclass(frozen=True)
class Understood:
    """A checked request. ``labels``: the ids of each question's labels."""

    asked: Asked
    labels: list[list[int]]
    request: DecisionRequest


def spoken(service: Service) -> bool:
    """Whether a service decides: a causal LM with a tokenizer."""
    return service.scorer.classes is None and service.tokenizer is not None


def understand(service: Service, body: bytes) -> Understood:
    """The request, rendered and tokenised. Raises WireError."""
    with service.intake.decoding():
        request = parse_decision_request(body, max_items=service.scorer.config.max_items)
    if service.scorer.classes is not None:
        message = "the served model has a classification head; decisions are read at labels, of a causal LM"
        raise WireError(400, "decisions_not_supported", message)
    service.words("input")
    labels = [_labels(service, question, f"questions[{i}]") for i, question in enumerate(request.questions)]
    questions = [prompts.rendered_question(question) for question in request.questions]
    query, items = service.tokenise(prompts.rendered_input(request.input), questions, ("input", "questions"))
    asked = Asked(
        query=query, items=items, own_labels=labels, apply_softmax=True, temperature=request.temperature, logprobs=True
    )
    return Understood(asked, labels, request)


def _labels(service: Service, question: Question, param: str) -> list[int]:
    found: list[int] = []
    for label in prompts.labels(question):
        token = service.token_of(label)
        if token is None or token in found:
            message = f"{param} needs the label {label!r}, which is not one token by itself of the served model"
            raise WireError(400, "decisions_not_supported", message, param)
        found.append(token)
    return found


def answer(service: Service, understood: Understood) -> bytes:
    """The answers as JSON. Raises WireError for a request over a limit."""
    request, asked = understood.request, understood.asked
    try:
        found = scored(service.scorer, asked)
    except WireError as error:
        raise error.about("input", "questions") from None
    assert found.logprobs is not None
    answers = {}
    for number, question in enumerate(request.questions):
        probabilities = found.scores[number]
        decided = _decided(question, probabilities)
        if request.return_prompt_token_ids:
            decided |= {
                "prompt_token_ids": [*asked.query, *asked.items[number]],
                "query_tokens": len(asked.query),
                "label_token_ids": understood.labels[number],
            }
        answers[question.id] = DecisionAnswer(
            type=question.kind,
            probabilities=dict(zip(question.names, probabilities, strict=True)),
            label_mass=math.fsum(map(math.exp, found.logprobs[number])),
            **decided,  # type: ignore[arg-type]
        )
    usage = Usage.of(found.prompt_tokens)
    return encode_decisions(DecisionResponse(answers=answers, model=request.model or service.model, usage=usage))


def _decided(question: Question, probabilities: list[float]) -> dict[str, object]:
    """What is answered beside the probabilities; of equal options the first."""
    if question.kind == "choice":
        return {"choice": question.names[probabilities.index(max(probabilities))]}
    if question.kind == "score":
        return {"score": math.fsum(level * share for level, share in enumerate(probabilities))}
    return {}
