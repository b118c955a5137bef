"""``POST /v1/score``."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from pytest_multiitem.engine.scored import Asked, scored
from pytest_multiitem.engine.service import Service
from pytest_multiitem.scoring.config import Mode
from pytest_multiitem.scoring.modes import ModeName
from pytest_multiitem.scoring.wire.errors import WireError
from pytest_multiitem.scoring.wire.fields import Usage
from pytest_multiitem.scoring.wire.score import (
    ScoreRequest,
    ScoreResponse,
    encode_score_response,
    parse_score_request,
)


@dataclass(frozen=True)
class Understood:
    """A checked request. ``model``: the name that comes back."""

    asked: Asked
    model: str


def spoken(service: Service) -> list[ModeName]:
    """The modes of this endpoint that a service speaks."""
    classifies = service.scorer.classes is not None
    modes = [ModeName.CLASSIFICATION] if classifies else [ModeName.IDS, ModeName.LABELS_PER_ITEM, ModeName.TEMPERATURE]
    if service.tokenizer is not None:
        modes.append(ModeName.TEXT)
        if service.scorer.config.mode is not Mode.PREFILL_EXTEND:
            modes.append(ModeName.SETWISE_CLASSIFICATION if classifies else ModeName.SETWISE)
    return modes


def understand(service: Service, body: bytes) -> Understood:
    """The request, its query and items as checked token ids. Raises WireError."""
    scorer = service.scorer
    with service.intake.decoding():
        request = parse_score_request(
            body,
            vocab_size=service.vocab_size,
            max_items=scorer.config.max_items,
            classifies=scorer.classes is not None,
        )
    if isinstance(request.query, str):
        query, items = service.tokenise(request.query, [*map(str, request.items)], ("query", "items"))
    else:
        query, items = request.query, request.items  # type: ignore[assignment]
    if request.return_pooled_hidden_states and not scorer.pooled:
        name = "return_pooled_hidden_states"
        message = f"{name} is true, but this server's backend does not give them; leave it out"
        raise WireError(400, "pooled_hidden_states_not_supported", message, name)
    labels = request.label_token_ids
    own = labels if labels is not None and isinstance(labels[0], list) else None
    asked = Asked(
        query=query,
        items=items,
        labels=labels or (),
        own_labels=own,
        apply_softmax=request.apply_softmax,
        item_first=request.item_first,
        temperature=request.temperature or 1.0,
        logprobs=request.return_token_logprobs,
        pooled=request.return_pooled_hidden_states,
        extraction=_extraction(service, request),
    )
    return Understood(asked, request.model or service.model)


def _extraction(service: Service, request: ScoreRequest) -> int | None:
    """The id of the extraction token, which a request names by its text."""
    text, name = request.score_extraction_token, "score_extraction_token"
    if text is None:
        return None
    token = service.words(name).id_of(text)
    if token is None or token >= service.vocab_size:
        message = f"{name} is {text[:60]!r}, which is no token of the served model; expected the text of one token"
        raise WireError(400, "invalid_score_extraction_token", message, name)
    return token


def answer(service: Service, understood: Understood) -> bytes:
    """The scores as JSON. Raises WireError for a request over a limit."""
    found = scored(service.scorer, understood.asked)
    response = ScoreResponse(
        scores=found.scores,
        model=understood.model,
        usage=Usage.of(found.prompt_tokens),
        token_logprobs=msgspec.UNSET if found.logprobs is None else found.logprobs,
        pooled_hidden_states=msgspec.UNSET if found.pooled is None else found.pooled,
    )
    return encode_score_response(response)
