"""A client of vLLM's ``POST /generative_scoring``: what gates ask for in one request becomes one call a label.

An answer there has one score for each item, that of the first label. So K labels are K calls, each with another label
first, and the scores of all stand together as ``/v1/score`` would give them. What differs by default is said in every
call: ``apply_softmax`` as asked for (the endpoint's own default is true), and no special tokens in front of text.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self

import httpx
import msgspec
from typing_extensions import override

from pytest_multiitem.errors import EngineUnavailable
from pytest_multiitem.scoring.modes import ModeName, scoring_mode
from pytest_multiitem.scoring.wire.generative import decode_generative_scores, label_order
from pytest_multiitem.transport.bounded import ANSWER_BYTES, ANSWER_LIMIT
from pytest_multiitem.transport.client import FailureKind, PreparedRequest, ScoreClient, ScoreFailure, Scores, quoted

#: Bytes of an answer for each item; an entry is some 50.
_ENTRY_BYTES = 256
#: Tokens of the model's limit that a prompt leaves free: the engine generates one to have its logits.
_GENERATED = 1
#: Labels of one call, and so of one softmax.
MOST_LABELS = 20
#: Fields that this endpoint takes over as they are; a field that it does not know is an error there.
_TAKEN = ("query", "items", "item_first")


class NotSent(EngineUnavailable):
    """A request that this wire has no honest answer to."""


class GenerativeClient(ScoreClient):
    """A `ScoreClient` that asks ``/generative_scoring``.

    Raises NotSent for a request that is longer than the model's limit, which the server would cut without a word, and
    for what would have to be one HTTP request.
    """

    path: ClassVar[str] = scoring_mode(ModeName.GENERATIVE_SCORING).paths[0]

    _limit: int | None = None
    _limit_known: bool = False

    @override
    def another(self) -> Self:
        client = super().another()
        client._limit, client._limit_known = self._limit, self._limit_known
        return client

    @override
    def send(self, request: PreparedRequest) -> Scores:
        return self.read(self._joined(request), request)

    @override
    def timed_send(self, request: PreparedRequest) -> tuple[float, httpx.Response]:
        """Seconds of all calls of a request together, and their answers as one."""
        self._find_limit()
        start = time.perf_counter()
        response = self._joined(request)
        return time.perf_counter() - start, response

    @override
    def build(self, request: PreparedRequest) -> httpx.Request:
        raise NotSent(
            f"{self.path} answers one label a call: {request.num_labels} labels are no single HTTP request; vLLM "
            "cannot be put under such a load by its own wire"
        )

    @override
    def server_info(self) -> dict[str, Any] | None:
        """What ``/version`` and ``/v1/models`` say, by the names of `/get_server_info`; None where neither answers."""
        told = dict(self._infos(("/version", "/v1/models")))
        models = told.get("/v1/models", {}).get("data")
        first = models[0] if isinstance(models, list) and models and isinstance(models[0], dict) else {}
        self._limit, self._limit_known = _whole(first.get("max_model_len")), True
        info = {
            "version": told.get("/version", {}).get("version"),
            "served_model_name": first.get("id"),
            "model_path": first.get("root"),
            "context_length": self._limit,
        }
        return {name: value for name, value in info.items() if value is not None} or None

    def _find_limit(self) -> None:
        if not self._limit_known:
            self.server_info()

    def _joined(self, request: PreparedRequest) -> httpx.Response:
        """The answers of a request's calls in the form of ``/v1/score``; the first refusal as it is."""
        self._find_limit()
        fields = msgspec.json.decode(request.body)
        self._check_length(fields)
        columns: list[list[float]] = []
        answer: httpx.Response | None = None
        for body in _calls(fields):
            answer = self._call(body, request.num_items)
            if answer.status_code != 200:
                return answer
            columns.append(self._column(answer, request))
        assert answer is not None  # there is one call at least
        rows = [list(row) for row in zip(*columns, strict=True)]
        return httpx.Response(200, content=msgspec.json.encode({"scores": rows}), request=answer.request)

    def _call(self, body: Mapping[str, Any], items: int) -> httpx.Response:
        limit = {ANSWER_LIMIT: ANSWER_BYTES + _ENTRY_BYTES * items}
        content = msgspec.json.encode(body)
        return self._send(self._http.build_request("POST", self.path, content=content, extensions=limit))

    def _column(self, answer: httpx.Response, request: PreparedRequest) -> list[float]:
        try:
            return decode_generative_scores(answer.content, request.num_items)
        except ValueError as error:
            words = f"expected a score of each of {request.num_items} items: {error}; {quoted(answer)}"
            raise ScoreFailure(FailureKind.BAD_RESPONSE, words, 200) from None

    def _check_length(self, fields: Mapping[str, Any]) -> None:
        """Raises NotSent for what is longer than the model's limit, or may be."""
        if self._limit is None:
            return
        query, items, most = fields.get("query"), fields.get("items"), self._limit - _GENERATED
        longest = max((_longest(item) for item in items), default=0) if isinstance(items, list) else 0
        tokens = _longest(query) + longest
        if tokens > most:
            is_text = isinstance(query, str)
            size = f"may have {tokens:,} tokens (it has as many bytes)" if is_text else f"has {tokens:,} tokens"
            raise NotSent(
                f"a request is not sent: its query with its longest item {size}, and vLLM cuts a prompt to the first "
                f"{most:,} without a word, so that items score alike; start it with a larger --max-model-len, or send "
                "shorter requests"
            )


def _calls(fields: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The bodies of a request's calls: one for each label, which comes first in it."""
    labels: Any = fields.get("label_token_ids")
    softmax = bool(fields.get("apply_softmax", False))
    body = {name: fields[name] for name in _TAKEN if name in fields}
    body |= {"apply_softmax": softmax, "add_special_tokens": False}
    orders = [labels]  # what the server must refuse goes to it as it is
    if isinstance(labels, list) and len(labels) > MOST_LABELS:
        if softmax:
            raise NotSent(
                f"a request is not sent: vLLM takes a softmax over {MOST_LABELS} labels at most, and this is over "
                f"{len(labels)}"
            )
        orders = [[label] for label in labels]  # a probability over the vocabulary depends on no other label
    elif isinstance(labels, list) and len(labels) > 1:
        orders = [label_order(labels, label) for label in labels]
    for order in orders:
        yield {**body, "label_token_ids": order}


def _longest(content: Any) -> int:
    """The tokens of a query or an item; of text, at most: no token is shorter than a byte."""
    if isinstance(content, str):
        return len(content.encode("utf-8", "surrogatepass"))
    return len(content) if isinstance(content, Sequence) else 0


def _whole(value: object) -> int | None:
    return value if type(value) is int and value > 0 else None
