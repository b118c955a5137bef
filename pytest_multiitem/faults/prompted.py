"""Faults of the endpoints that render prompts of their own: rankings and decisions. Scores are right."""

from __future__ import annotations

import asyncio
import json
import math
from copy import copy
from typing import Any, ClassVar

import msgspec
from starlette.datastructures import MutableHeaders
from starlette.responses import Response

from pytest_multiitem.faults.base import AsgiApp, WireFault
from pytest_multiitem.faults.wire import Exchange, JsonObject, answer_of, decoded_object, encoded, replayed, whole
from pytest_multiitem.scoring.wire.rerank import RERANK_PATHS

#: Seconds in which queries that come at the same time are taken for one.
_WINDOW = 0.05


class PromptedFault(WireFault):
    """A fault that shows at some paths alone, in requests that are JSON objects."""

    paths: ClassVar[frozenset[str]]

    def begin(self) -> None:
        """Set the state that one server's fault begins with, where it has any."""

    async def answer(self, exchange: Exchange) -> Response | None:
        """The answer that the client gets, or None for no answer at all."""
        raise NotImplementedError

    def wrap(self, app: AsgiApp) -> AsgiApp:
        fault = copy(self)
        fault.begin()

        async def middleware(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in self.paths:
                await app(scope, receive, send)
                return
            received = await whole(receive)
            request = decoded_object(b"".join(message.get("body", b"") for message in received))
            if request is None:
                await app(scope, replayed(received, receive), send)
                return
            answer = await fault.answer(Exchange(app, scope, received, receive, request))
            if answer is not None:
                await answer(scope, receive, send)

        return middleware


def _with_body(answer: Response, content: bytes) -> Response:
    headers = MutableHeaders(raw=list(answer.raw_headers))
    headers["content-length"] = str(len(content))
    return answer_of(answer.status_code, headers.raw, content)


Entries = list[dict[str, Any]]


class RankingFault(PromptedFault):
    """A fault that changes the entries of a ranking."""

    paths = frozenset(RERANK_PATHS)

    def entries(self, request: JsonObject, entries: Entries) -> Entries:
        """The changed entries, each with an index, and a score or a relevance_score."""
        raise NotImplementedError

    async def answer(self, exchange: Exchange) -> Response | None:
        """In either form."""
        answer = await exchange.answer()
        if answer is None or answer.status_code != 200:
            return answer
        body = msgspec.json.decode(bytes(answer.body))
        entries = self.entries(exchange.request, body if isinstance(body, list) else body["results"])
        content = entries if isinstance(body, list) else {**body, "results": entries}
        return _with_body(answer, json.dumps(content, ensure_ascii=False).encode())


class RankingUnsorted(RankingFault, name="ranking_unsorted", number=36, seen="llama_index #20599, Milvus #53672"):
    """A ranking comes in the order of the request, not in that of its scores."""

    def entries(self, request: JsonObject, entries: Entries) -> Entries:
        return sorted(entries, key=lambda entry: entry["index"])


class RankingIndex(RankingFault, name="ranking_index", number=36, seen="llama_index #20599, Milvus #53672"):
    """The index of an entry is its place in the ranking, not in the request."""

    def entries(self, request: JsonObject, entries: Entries) -> Entries:
        return [{**entry, "index": place} for place, entry in enumerate(entries)]


class RankingTwiceSquashed(
    RankingFault, name="ranking_twice_squashed", seen="follows from a score that is one already"
):
    """A sigmoid is put on scores that are probabilities already: their order stays."""

    def entries(self, request: JsonObject, entries: Entries) -> Entries:
        name = "score" if all("score" in entry for entry in entries) else "relevance_score"
        return [{**entry, name: 1 / (1 + math.exp(-entry[name]))} for entry in entries]


class RankingTopIgnored(PromptedFault, name="ranking_top_ignored", number=35, seen="sglang 0.5.23, another parameter"):
    """A top_n that was asked for is ignored: the ranking has all documents."""

    paths = frozenset(RERANK_PATHS)

    async def answer(self, exchange: Exchange) -> Response | None:
        """One that is no number of documents is the server's to refuse."""
        answer = await exchange.answer()
        if answer is None or answer.status_code != 200 or exchange.request.get("top_n") is None:
            return answer
        return await exchange.answer({**exchange.request, "top_n": None})


class RankingDropsEmpty(
    RankingFault, name="ranking_drops_empty", number=12, seen="follows from a filter of blank texts"
):
    """Empty documents are left out of a ranking."""

    def entries(self, request: JsonObject, entries: Entries) -> Entries:
        return [entry for entry in entries if request["documents"][entry["index"]]]


class RankingsCoalesced(
    PromptedFault, name="rankings_coalesced", number=32, seen="follows from a batch with one query"
):
    """Rankings that are asked for at the same time share the query of the first of them."""

    paths = frozenset(RERANK_PATHS)

    def begin(self) -> None:
        self._queries: list[Any] = []

    async def answer(self, exchange: Exchange) -> Response | None:
        """The oldest query in flight is that of all."""
        query = exchange.request.get("query")
        self._queries.append(query)
        try:
            await asyncio.sleep(_WINDOW)
            first = self._queries[0]
            return await exchange.answer(None if first == query else {**exchange.request, "query": first})
        finally:
            self._queries.remove(query)


class DecisionFault(PromptedFault):
    """A fault that changes the answer to each question."""

    paths = frozenset({"/v1/decisions"})

    def decided(self, answer: JsonObject) -> JsonObject:
        """The changed answer."""
        raise NotImplementedError

    async def answer(self, exchange: Exchange) -> Response | None:
        answer = await exchange.answer()
        if answer is None or answer.status_code != 200:
            return answer
        body = msgspec.json.decode(bytes(answer.body))
        answers = {name: self.decided(each) for name, each in body["answers"].items()}
        return _with_body(answer, encoded({**body, "answers": answers}))


class DecisionLabels(DecisionFault, name="decision_labels", number=14, seen="follows from labels in another order"):
    """The probabilities of a question's answers belong to the names after them."""

    def decided(self, answer: JsonObject) -> JsonObject:
        shares = [*answer["probabilities"].values()]
        turned = dict(zip(answer["probabilities"], [*shares[-1:], *shares[:-1]], strict=True))
        best = max(turned, key=lambda name: turned[name])
        mean = math.fsum(level * share for level, share in enumerate(turned.values()))
        follows = {"choice": best} if "choice" in answer else {"score": mean} if "score" in answer else {}
        return {**answer, "probabilities": turned, **follows}


class DecisionMass(DecisionFault, name="decision_mass", seen="follows from a mass taken after the softmax"):
    """The label mass of every decision is 1: that of the softmax over its labels."""

    def decided(self, answer: JsonObject) -> JsonObject:
        return {**answer, "label_mass": 1.0}
