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


def _score_of(entries: Entries) -> str:
    """What the entries of a ranking call their scores."""
    return "score" if all("score" in entry for entry in entries) else "relevance_score"


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
        name = _score_of(entries)
        return [{**entry, name: 1 / (1 + math.exp(-entry[name]))} for entry in entries]


class RankingSeesBefore(
    RankingFault,
    name="ranking_sees_before",
    seen="follows from a gather of rows that is off by one",
    strengths=(0.1, 1e-3, 1e-6),
    thresholds=True,
    unit="of a score, how much of it is that of the document before",
):
    """A document's score in a ranking has a share of that of the document before it in the request; the order is that
    of the scores."""

    def entries(self, request: JsonObject, entries: Entries) -> Entries:
        name, share = _score_of(entries), self.strength or 0.0
        scores: dict[int, float] = {entry["index"]: entry[name] for entry in entries}  # the best alone, with top_n
        before = {at: scores[at - 1 if at - 1 in scores else at] for at in scores}
        mixed = [{**entry, name: (1 - share) * entry[name] + share * before[entry["index"]]} for entry in entries]
        return sorted(mixed, key=lambda entry: -entry[name])


class RankingDrifts(
    RankingFault,
    name="ranking_drifts",
    number=3,
    seen="follows from positions that grow through a request",
    strengths=(0.1, 1e-4),
    thresholds=True,
    unit="of a score, what a thousand characters of other documents take from it",
):
    """Every score of a ranking falls with the length of all other documents, whatever they say."""

    def entries(self, request: JsonObject, entries: Entries) -> Entries:
        name, lengths = _score_of(entries), [len(text) for text in request["documents"]]
        share = (self.strength or 0.0) / 1000
        drifted = [
            {**entry, name: entry[name] * (1 - share * (sum(lengths) - lengths[entry["index"]]))} for entry in entries
        ]
        return sorted(drifted, key=lambda entry: -entry[name])


class RankingCold(
    RankingFault,
    name="ranking_cold",
    number=8,
    seen="follows from a prefix that is placed otherwise when it is found in a cache",
    strengths=(0.1, 1e-5),
    thresholds=True,
    unit="of a score, how much of it is lost",
):
    """The first ranking after the caches were flushed has lower scores; all that follow are right."""

    paths = frozenset({*RERANK_PATHS, "/flush_cache"})

    def begin(self) -> None:
        self._is_cold = False

    def entries(self, request: JsonObject, entries: Entries) -> Entries:
        was_cold, self._is_cold = self._is_cold, False
        name, share = _score_of(entries), (self.strength or 0.0) if was_cold else 0.0
        return [{**entry, name: entry[name] * (1 - share)} for entry in entries]

    async def answer(self, exchange: Exchange) -> Response | None:
        """A flush is let through."""
        if exchange.scope["path"] in RERANK_PATHS:
            return await super().answer(exchange)
        self._is_cold = True
        return await exchange.answer()


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

    def all_decided(self, answers: JsonObject) -> JsonObject:
        """The changed answers of a request, by question."""
        return {name: self.decided(each) for name, each in answers.items()}

    def decided(self, answer: JsonObject) -> JsonObject:
        """The changed answer."""
        raise NotImplementedError

    async def answer(self, exchange: Exchange) -> Response | None:
        answer = await exchange.answer()
        if answer is None or answer.status_code != 200:
            return answer
        body = msgspec.json.decode(bytes(answer.body))
        return _with_body(answer, encoded({**body, "answers": self.all_decided(body["answers"])}))


def _with_shares(answer: JsonObject, shares: dict[str, float]) -> JsonObject:
    """An answer with other probabilities, and what follows from them."""
    best = max(shares, key=lambda name: shares[name])
    mean = math.fsum(level * share for level, share in enumerate(shares.values()))
    follows = {"choice": best} if "choice" in answer else {"score": mean} if "score" in answer else {}
    return {**answer, "probabilities": shares, **follows}


class DecisionLabels(DecisionFault, name="decision_labels", number=14, seen="follows from labels in another order"):
    """The probabilities of a question's answers belong to the names after them."""

    def decided(self, answer: JsonObject) -> JsonObject:
        shares = [*answer["probabilities"].values()]
        return _with_shares(answer, dict(zip(answer["probabilities"], [*shares[-1:], *shares[:-1]], strict=True)))


class DecisionSeesBefore(
    DecisionFault,
    name="decision_sees_before",
    seen="follows from questions that share one sequence without a mask",
    strengths=(0.1, 1e-6),
    thresholds=True,
    unit="of a probability, how much of it moves with the question before",
):
    """The probabilities of a question depend on those of the question before it."""

    def all_decided(self, answers: JsonObject) -> JsonObject:
        """What moves, moves from the first probability to the last, so that they sum to 1 as before."""
        before, changed = 0.0, {}
        for name, answer in answers.items():
            shares = answer["probabilities"]
            first, *_, last = shares
            moved, before = (self.strength or 0.0) * before * shares[first], shares[first]
            changed[name] = _with_shares(answer, {**shares, first: shares[first] - moved, last: shares[last] + moved})
        return changed


class DecisionMass(DecisionFault, name="decision_mass", seen="follows from a mass taken after the softmax"):
    """The label mass of every decision is 1: that of the softmax over its labels."""

    def decided(self, answer: JsonObject) -> JsonObject:
        return {**answer, "label_mass": 1.0}
