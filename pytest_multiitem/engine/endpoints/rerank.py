"""``POST /v1/rerank``, ``/rerank`` and ``/v2/rerank``: Qwen3-Reranker's prompt, scored like any other request.

A causal LM's score of a document is p(yes) / (p(yes) + p(no)); a classification head's, which must have one class, the
sigmoid of its logit at the end of the same prompt.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pytest_multiitem.engine.scored import Asked, scored
from pytest_multiitem.engine.service import Service
from pytest_multiitem.scoring.prompts import reranker
from pytest_multiitem.scoring.wire.errors import WireError
from pytest_multiitem.scoring.wire.fields import Usage
from pytest_multiitem.scoring.wire.rerank import RerankRequest, encode_ranking, parse_rerank_request, ranking


@dataclass(frozen=True)
class Understood:
    """A checked request."""

    asked: Asked
    request: RerankRequest


def spoken(service: Service) -> bool:
    """Whether a service ranks: it has text, and either the one class or the two labels."""
    if service.tokenizer is None:
        return False
    return service.scorer.classes == 1 if service.scorer.classes is not None else _labels(service) is not None


def _labels(service: Service) -> list[int] | None:
    """The ids of yes and no; None where one of them is not a token by itself, or both are the same."""
    ids = [service.token_of(label) for label in reranker.LABELS]
    found = [token for token in ids if token is not None]
    return found if len(set(found)) == len(ids) else None


def understand(service: Service, body: bytes) -> Understood:
    """The request, rendered and tokenised. Raises WireError."""
    with service.intake.decoding():
        request = parse_rerank_request(body, max_items=service.scorer.config.max_items)
    service.words("query")
    labels = None if service.scorer.classes is not None else _labels(service)
    if not spoken(service):
        raise WireError(400, "rerank_not_supported", _reason(service))
    instruct = reranker.INSTRUCT if request.instruct is None else request.instruct
    service.check_length(instruct, "instruct")
    query, items = service.tokenise(
        *reranker.rendered(instruct, request.query, request.documents), ("query", "documents")
    )
    return Understood(Asked(query=query, items=items, labels=labels or (), apply_softmax=labels is not None), request)


def _reason(service: Service) -> str:
    if service.scorer.classes is not None:
        return f"the served model has {service.scorer.classes} classes; expected one, whose logit is the relevance"
    return f"expected {' and '.join(map(repr, reranker.LABELS))} to be a token each of the served model's vocabulary"


def answer(service: Service, understood: Understood, *, bare: bool) -> bytes:
    """The ranking as JSON, bare or in the form of Cohere. Raises WireError for a request over a limit."""
    try:
        found = scored(service.scorer, understood.asked)
    except WireError as error:
        raise error.about("query", "documents") from None
    scores = [row[0] if understood.asked.labels else _sigmoid(row[0]) for row in found.scores]
    request = understood.request
    usage = Usage.of(found.prompt_tokens)
    return encode_ranking(ranking(request, scores), model=request.model or service.model, usage=usage, bare=bare)


def _sigmoid(logit: float) -> float:
    """1 / (1 + exp(-logit)), without overflow for any."""
    tail = math.exp(-abs(logit))
    return (1.0 if logit >= 0 else tail) / (1.0 + tail)
