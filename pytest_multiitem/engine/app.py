"""The embedded engine's HTTP server, as an ASGI application over anything that scores.

The application knows the wire and nothing of models. Whoever wants another behaviour on the wire
wraps the application as ASGI middleware; in scoring, the :class:`ScoringSteps`; below, the backend.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from pytest_multiitem.engine.endpoints import decisions, rerank, score
from pytest_multiitem.engine.scored import Asked, Scored, scored
from pytest_multiitem.engine.service import Service
from pytest_multiitem.scoring.modes import MODES, ModeName
from pytest_multiitem.scoring.wire.decisions import DECISIONS_PATH
from pytest_multiitem.scoring.wire.errors import WireError, internal_error
from pytest_multiitem.scoring.wire.fields import check_finite, check_token_ids
from pytest_multiitem.scoring.wire.rerank import RERANK_PATHS
from pytest_multiitem.scoring.wire.score import SCORE_FIELDS
from pytest_multiitem.transport.address import SCORE_PATH

log = logging.getLogger(__name__)

_Endpoint = Callable[[Request], Awaitable[Response]]
_Understood = TypeVar("_Understood")

#: Nobody reads this answer: the client has gone (nginx's code for it).
_CLIENT_GONE = 499


def create_app(service: Service) -> Starlette:
    """The ASGI application that serves ``service``."""
    endpoints = _Endpoints(service)
    app = Starlette(
        routes=[
            Route(SCORE_PATH, _answered(endpoints.score), methods=["POST"]),
            *(Route(path, _answered(endpoints.rerank), methods=["POST"]) for path in RERANK_PATHS),
            Route(DECISIONS_PATH, _answered(endpoints.decisions), methods=["POST"]),
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


def spoken(service: Service) -> list[ModeName]:
    """The modes that a service speaks."""
    more = ((ModeName.RERANK, rerank.spoken(service)), (ModeName.DECISIONS, decisions.spoken(service)))
    return [*score.spoken(service), *(name for name, has in more if has)]


class _Endpoints:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def score(self, request: Request) -> Response:
        return await self._scored(request, score.understand, score.answer)

    async def decisions(self, request: Request) -> Response:
        return await self._scored(request, decisions.understand, decisions.answer)

    async def rerank(self, request: Request) -> Response:
        bare = RERANK_PATHS[request.url.path]
        return await self._scored(request, rerank.understand, partial(rerank.answer, bare=bare))

    async def _scored(
        self,
        request: Request,
        understand: Callable[[Service, bytes], _Understood],
        answer: Callable[[Service, _Understood], bytes],
    ) -> Response:
        service = self._service
        async with service.intake.body(request) as body:
            # Checked outside the worker, so that a bad request is refused while a long one runs.
            understood = await service.intake.read(lambda: understand(service, body))
            return _json(await service.worker.run(request, lambda: answer(service, understood)))

    def _probe(self, query: Sequence[int], items: Sequence[Sequence[int]]) -> Scored:
        """Compute a small request whose scores nobody asked for."""
        service = self._service
        return scored(service.scorer, Asked(query=query, items=items, labels=service.probe_ids))

    async def health(self, request: Request) -> Response:
        """The process lives; says nothing of the engine."""
        return _json(b'{"status":"ok"}')

    async def health_generate(self, request: Request) -> Response:
        """One real scored request; 503 where it fails."""
        ids = list(self._service.probe_ids[:1])
        try:
            found = await self._service.worker.run(request, lambda: self._probe(ids, [ids]))
            check_finite("the scores", found.scores[0])
        except (ClientDisconnect, WireError):
            raise
        except Exception:
            log.exception("the health check's request failed")
            message = "the engine failed to score a small request; its log has the details"
            raise WireError(503, "not_ready", message) from None
        return _json(b'{"status":"ok"}')

    async def generate(self, request: Request) -> Response:
        """The prompt is computed as the query of an empty item, and nothing is generated: this engine only scores."""
        intake = self._service.intake
        async with intake.body(request) as body:
            prompt = await intake.read(lambda: self._prompt(body))
            await self._service.worker.run(request, lambda: self._probe(prompt, [[]]))
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
            self._service.check_length(text, "text")
            ids = self._service.tokenizer.encode(text)
        if not isinstance(ids, list) or not ids:
            message = "expected input_ids, a list of at least one token id, or text where there is a tokenizer"
            raise WireError(400, "invalid_prompt", message, "input_ids")
        check_token_ids(ids, [], vocab_size=self._service.vocab_size)
        return ids

    async def server_info(self, request: Request) -> Response:
        service = self._service
        known = {
            "modes": [mode.name for mode in MODES if mode.name in spoken(service)],
            "score_fields": list(SCORE_FIELDS),
            "limits": service.limits,
            "executed": service.scorer.executed(),
        }
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
