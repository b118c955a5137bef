"""The wire of ``POST /v1/rerank``, ``/rerank``, ``/v2/rerank``: documents by descending relevance to a query.

Engines answer in one of two forms: a bare list whose entries have a ``score`` (sglang), or an object whose ``results``
have a ``relevance_score`` (Cohere, Jina, vLLM). :func:`decode_ranking` reads both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from pytest_multiitem.scoring.modes import ModeName, scoring_mode
from pytest_multiitem.scoring.wire.errors import WireError
from pytest_multiitem.scoring.wire.fields import (
    Usage,
    check_finite,
    decode_object,
    empty_query,
    kind,
    mistyped,
    optional,
    required,
    too_many_items,
)

#: The paths, and whether they answer a bare list.
RERANK_PATHS: Final = {path: path == "/v1/rerank" for path in scoring_mode(ModeName.RERANK).paths}


class RerankRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """N ``documents`` to rank by their relevance to ``query``; both are text.

    ``top_n``: answer the best so many only, all where it is None or more than N. ``instruct``: what the relevance is
    of, in words of the prompt; None: the server's own. ``return_documents``: with their texts.
    """

    query: str
    documents: list[str]
    top_n: int | None = None
    instruct: str | None = None
    return_documents: bool = True
    model: str | None = None


class Ranked(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One document of a ranking. ``index``: its place in the request; ``document``: its text, where asked for."""

    index: int
    score: float
    document: str | None = None


class RelevantDocument(msgspec.Struct, frozen=True, kw_only=True):
    """The text of a document."""

    text: str


class Relevant(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`Ranked`, in the form of Cohere."""

    index: int
    relevance_score: float
    document: RelevantDocument | None = None


class RelevanceResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A ranking, in the form of Cohere."""

    model: str
    results: list[Relevant]
    usage: Usage | None = None


def parse_rerank_request(body: bytes, *, max_items: int | None = None) -> RerankRequest:
    """Decode and check a request body; documents ``max_items`` at most.

    A field that is ``null`` counts as absent; unknown fields are ignored. Raises WireError.
    """
    fields = decode_object(body, "query and documents")
    query, documents = (required(fields, name) for name in ("query", "documents"))
    if not isinstance(query, str):
        raise mistyped("invalid_query_type", "query", query, "text")
    if not query.strip():
        raise empty_query()
    return RerankRequest(
        query=query,
        documents=_check_documents(documents, max_items),
        top_n=_check_top_n(fields.get("top_n")),
        instruct=optional(fields, "instruct", str, None),
        return_documents=optional(fields, "return_documents", bool, True),
        model=optional(fields, "model", str, None),
    )


def _check_documents(documents: Any, most: int | None) -> list[str]:
    if not isinstance(documents, list):
        raise mistyped("invalid_documents_type", "documents", documents, "a list of texts")
    if not documents:
        raise WireError(400, "empty_documents", "documents is empty; expected at least one document", "documents")
    if most is not None and len(documents) > most:
        raise too_many_items(len(documents), most, "documents")
    for number, document in enumerate(documents):
        if not isinstance(document, str):
            raise mistyped("invalid_documents_type", f"documents[{number}]", document, "text")
    return documents


def _check_top_n(value: Any) -> int | None:
    name, expected = "top_n", "a whole number of at least 1, or none for all documents"
    if value is None:
        return None
    if type(value) is not int:
        raise mistyped(f"invalid_{name}_type", name, value, expected)
    if value < 1:
        raise WireError(400, f"invalid_{name}", f"{name} is {value}; expected {expected}", name)
    return value


def ranking(request: RerankRequest, scores: Sequence[float]) -> list[Ranked]:
    """The documents by descending score [N]; of equal ones, the first in the request comes first."""
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    texts = request.documents if request.return_documents else [None] * len(scores)
    return [Ranked(index=i, score=scores[i], document=texts[i]) for i in order[: request.top_n]]


def encode_ranking(ranked: Sequence[Ranked], *, model: str, usage: Usage, bare: bool) -> bytes:
    """A ranking as JSON, as a bare list or in the form of Cohere. Raises ValueError on scores that are not finite."""
    check_finite("the scores", [each.score for each in ranked])
    if bare:
        return msgspec.json.encode(ranked)
    results = [
        Relevant(
            index=each.index,
            relevance_score=each.score,
            document=None if each.document is None else RelevantDocument(text=each.document),
        )
        for each in ranked
    ]
    return msgspec.json.encode(RelevanceResponse(model=model, results=results, usage=usage))


def decode_ranking(body: bytes) -> list[Ranked]:
    """The ranking in an answer of either form, in its order. Raises ValueError where it is none."""
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"the ranking is no JSON: {error}") from None
    entries = decoded.get("results") if isinstance(decoded, dict) else decoded
    if type(entries) is not list:
        raise ValueError(f"the ranking is {kind(decoded)} without a list of results; expected one")
    return [_decoded(entry) for entry in entries]


def _decoded(entry: Any) -> Ranked:
    index: Any = entry.get("index") if isinstance(entry, dict) else None
    score: Any = entry.get("score", entry.get("relevance_score")) if isinstance(entry, dict) else None
    if type(index) is not int or type(score) not in (int, float) or not math.isfinite(score):
        raise ValueError(f"{entry!r} in a ranking has no index and no finite score or relevance_score")
    document = entry.get("document")
    text = document.get("text") if isinstance(document, dict) else document
    return Ranked(index=index, score=float(score), document=text if isinstance(text, str) else None)
