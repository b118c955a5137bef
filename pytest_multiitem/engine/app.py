"""The embedded engine's HTTP server, as an ASGI application over anything that scores.

The application knows the wire and nothing of models. Whoever wants another behaviour on the wire
wraps the application as ASGI middleware; in scoring, the :class:`ScoringSteps`; below, the backend.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from pytest_multiitem.engine.intake import Intake
from pytest_multiitem.engine.scorer import MAX_SCORES
from pytest_multiitem.engine.tokenizer import TextTokenizer
from pytest_multiitem.engine.worker import Worker
from pytest_multiitem.scoring.readout import softmax
from pytest_multiitem.scoring.steps import ScoringSteps
from pytest_multiitem.scoring.wire.errors import WireError, internal_error
from pytest_multiitem.scoring.wire.fields import Usage, check_token_ids, empty_query
from pytest_multiitem.scoring.wire.score import (
    SCORE_FIELDS,
    ScoreRequest,
    ScoreResponse,
    encode_score_response,
    parse_score_request,
)

log = logging.getLogger(__name__)

_Endpoint = Callable[[Request], Awaitable[Response]]

#: Nobody reads this answer: the client has gone (nginx's code for it).
_CLIENT_GONE = 499


@dataclass(frozen=True, eq=False, kw_only=True)
class Service:
    """What is served.

    ``tokenizer``: ``None`` refuses text. ``model``: the served name. ``max_positions``: in tokens.
    ``probe_ids``: valid ids (at least one) for the health check's own request. ``info``: the part of
    ``/get_server_info`` that does not change.
    """

    scorer: ScoringSteps
    tokenizer: TextTokenizer | None
    model: str
    vocab_size: int
    max_positions: int
    probe_ids: Sequence[int]
    info: Mapping[str, Any]
    worker: Worker = field(default_factory=Worker)
    intake: Intake = field(default_factory=Intake)

    @property
    def max_text_chars(self) -> int | None:
        """Characters of one text: more are more tokens than the model has positions, whatever they are."""
        return None if self.tokenizer is None else self.max_positions * self.tokenizer.longest_token

    @property
    def limits(self) -> dict[str, int | None]:
        """What a request may be at most, and how many may wait, as ``/get_server_info`` says it."""
        return {
            "max_body_bytes": self.intake.most_bytes,
            "max_held_bytes": self.intake.most_held_bytes,
            "max_items": self.scorer.config.max_items,
            "max_labels": self.vocab_size,
            "max_scores": MAX_SCORES,
            "max_positions": self.max_positions,
            "max_text_chars": self.max_text_chars,
            "max_queued_requests": self.worker.most_queued,
        }


def create_app(service: Service) -> Starlette:
    """The ASGI application that serves ``service``."""
    endpoints = _Endpoints(service)
    app = Starlette(
        routes=[
            Route("/v1/score", _answered(endpoints.score), methods=["POST"]),
            Route("/v1/models", _answered(endpoints.models), methods=["GET"]),
            Route("/health", _answered(endpoints.health), methods=["GET"]),
            Route("/generate", _answered(endpoints.generate), methods=["POST"]),
            Route("/health_generate", _answered(endpoints.health_generate), methods=["GET", "POST"]),
            Route("/get_server_info", _answered(endpoints.server_info), methods=["GET"]),
            Route("/flush_cache", _answered(endpoints.flush_cache), methods=["GET", "POST"]),
        ],
        exception_handlers={HTTPException: _routing_error},
    )
    app.router.redirect_slashes = False
    return app


class _Endpoints:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def score(self, request: Request) -> Response:
        intake = self._service.intake
        async with intake.body(request) as body:
            # Checked outside the worker, so that a bad request is refused while a long one runs.
            parsed, query, items = await intake.read(lambda: self._understand(body))
            return _json(await self._service.worker.run(request, lambda: self._score(parsed, query, items)))

    def _understand(self, body: bytes) -> tuple[ScoreRequest, list[int], list[list[int]]]:
        """The request, and its query and items as checked token ids."""
        service = self._service
        most = service.scorer.config.max_items
        with service.intake.decoding():
            request = parse_score_request(body, vocab_size=service.vocab_size, max_items=most)
        if not isinstance(request.query, str):
            return request, request.query, request.items  # type: ignore[return-value]
        if service.tokenizer is None:
            raise WireError(
                400,
                "text_not_supported",
                "query and items are text, but the served checkpoint has no tokenizer.json; send lists of token ids",
                "query",
            )
        texts = list(map(str, request.items))
        self._check_length(request.query, "query")
        for number, text in enumerate(texts):
            self._check_length(text, f"items[{number}]")
        query, items = service.scorer.tokenise(request.query, texts, service.tokenizer.encode)
        if not query:
            raise empty_query()
        check_token_ids(query, items, vocab_size=service.vocab_size)
        return request, query, items

    def _check_length(self, text: str, param: str) -> None:
        """Refuse a text before it is tokenised where no tokens of it can be few enough."""
        most = self._service.max_text_chars
        if most is not None and len(text) > most:
            message = f"{param} has {len(text)} characters; this server takes at most {most} in one text: shorten it"
            raise WireError(400, "sequence_too_long", message, param)

    def _score(self, request: ScoreRequest, query: list[int], items: list[list[int]]) -> bytes:
        temperature, logprobs = request.temperature or 1.0, request.return_token_logprobs
        # Both start from the probabilities over the vocabulary: what normalises them drops out of a softmax.
        plain = not request.apply_softmax or temperature != 1.0 or logprobs
        result = self._service.scorer.score(query, items, request.label_token_ids, not plain, request.item_first)
        scores, more = result.scores, {}
        if logprobs or (plain and request.apply_softmax):
            with np.errstate(divide="ignore"):
                log_probabilities = np.log(scores)
            if request.apply_softmax:
                scores = softmax(log_probabilities, temperature)
            if logprobs:
                more["token_logprobs"] = log_probabilities.tolist()
        usage = Usage(prompt_tokens=result.prompt_tokens, total_tokens=result.prompt_tokens)
        model = request.model or self._service.model
        return encode_score_response(ScoreResponse(scores=scores.tolist(), model=model, usage=usage, **more))

    async def health(self, request: Request) -> Response:
        """The process lives; says nothing of the engine."""
        return _json(b'{"status":"ok"}')

    async def health_generate(self, request: Request) -> Response:
        """One real scored request; 503 where it fails."""
        ids = list(self._service.probe_ids)
        probe = ScoreRequest(query=ids[:1], items=[ids[:1]], label_token_ids=ids)
        try:
            await self._service.worker.run(request, lambda: self._score(probe, ids[:1], [ids[:1]]))
        except (ClientDisconnect, WireError):
            raise
        except Exception:
            log.exception("the health check's request failed")
            message = "the engine failed to score a small request; its log has the details"
            raise WireError(503, "not_ready", message) from None
        return _json(b'{"status":"ok"}')

    async def generate(self, request: Request) -> Response:
        """The prompt is computed as the query of an empty item, and nothing is generated: this engine only scores."""
        nothing: list[list[int]] = [[]]
        intake = self._service.intake
        async with intake.body(request) as body:
            prompt = await intake.read(lambda: self._prompt(body))
            probe = ScoreRequest(query=prompt, items=nothing, label_token_ids=list(self._service.probe_ids))
            await self._service.worker.run(request, lambda: self._score(probe, prompt, nothing))
        finish = {"type": "abort", "message": "this engine scores, and generates nothing"}
        told = {"prompt_tokens": len(prompt), "completion_tokens": 0, "finish_reason": finish}
        return _json(msgspec.json.encode({"text": "", "output_ids": [], "meta_info": told}))

    def _prompt(self, body: bytes) -> list[int]:
        """The token ids of a prompt. Raises WireError where there is none."""
        try:
            with self._service.intake.decoding():
                fields = msgspec.json.decode(body)
            text, ids = fields.get("text"), fields.get("input_ids")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, AttributeError):
            raise WireError(400, "invalid_json", "the body is no JSON object") from None
        if isinstance(text, str) and ids is None and self._service.tokenizer is not None:
            self._check_length(text, "text")
            ids = self._service.tokenizer.encode(text)
        if not isinstance(ids, list) or not ids:
            message = "expected input_ids, a list of at least one token id, or text where there is a tokenizer"
            raise WireError(400, "invalid_prompt", message, "input_ids")
        check_token_ids(ids, [], vocab_size=self._service.vocab_size)
        return ids

    async def server_info(self, request: Request) -> Response:
        service = self._service
        known = {"score_fields": list(SCORE_FIELDS), "limits": service.limits, "executed": service.scorer.executed()}
        return _json(msgspec.json.encode({**service.info, **known}))

    async def models(self, request: Request) -> Response:
        limit = self._service.max_positions
        model = {"id": self._service.model, "object": "model", "owned_by": "pytest-multiitem", "max_model_len": limit}
        return _json(msgspec.json.encode({"object": "list", "data": [model]}))

    async def flush_cache(self, request: Request) -> Response:
        await self._service.worker.run(request, self._service.scorer.flush_cache)
        return _json(b'{"success":true}')


def _answered(endpoint: _Endpoint) -> _Endpoint:
    """``endpoint`` with every exception turned into an answer; the server lives on."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except WireError as error:
            return _error(error)
        except ClientDisconnect:
            return Response(status_code=_CLIENT_GONE)
        except Exception:
            log.exception("%s %s failed", request.method, request.url.path)
            return _error(internal_error())

    return answer


async def _routing_error(request: Request, error: Exception) -> Response:
    """Unknown paths and wrong methods, in the shape of every other error."""
    assert isinstance(error, HTTPException)
    where = f"{request.method} {request.url.path}"
    if error.status_code == 404:
        wire = WireError(404, "not_found", f"{where}: no such endpoint; scores are at POST /v1/score")
    elif error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        wire = WireError(405, "method_not_allowed", f"{where}: this endpoint takes {allowed}")
    else:
        wire = WireError(error.status_code, "invalid_request", f"{where}: {error.detail}")
    return _error(wire, error.headers)


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")


def _error(error: WireError, headers: Mapping[str, str] | None = None) -> Response:
    return Response(error.body(), error.status, {**(headers or {}), **error.headers}, media_type="application/json")
