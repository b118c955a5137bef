"""A client of rerank servers, known by an address alone: the forms of Cohere and Jina, of sglang, and of TEI.

Which path a server has, and what it calls the documents, is found out by asking. Scores are mapped back by ``index``:
whoever asks gets one score for each document, in the order of the request.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar, Final, NamedTuple, NoReturn, Self

import httpx
import numpy as np
from typing_extensions import override

from pytest_multiitem.errors import EngineUnavailable
from pytest_multiitem.scoring.wire.rerank import RERANK_PATHS, Ranked, decode_ranking
from pytest_multiitem.transport.client import (
    FailureKind,
    PreparedRequest,
    ScoreClient,
    ScoreFailure,
    Scores,
    quoted,
)


class RerankForm(NamedTuple):
    """How a server is asked. ``documents``: the field of the texts."""

    path: str
    documents: str

    @property
    def has_top_n(self) -> bool:
        """Whether a request may ask for the best alone: TEI's has no such field."""
        return self.documents == "documents"


#: In the order in which a server is asked for them; TEI calls the documents texts.
FORMS: Final = (*(RerankForm(path, "documents") for path in RERANK_PATHS), RerankForm("/rerank", "texts"))
_QUERY, _DOCUMENTS = "Which of these can be eaten?", ("an apple", "a red car")
#: How a server says that it has no such path or no such field, rather than that it has no answer.
_NOT_THERE = (404, 405, 422, 400)


class TextOnly(EngineUnavailable):
    """A request of token ids, for a server that takes text."""


class TextClient(ScoreClient):
    """A `ScoreClient` of a server that takes texts. ``does``: what it does with them.

    Raises TextOnly for requests of token ids: no such server takes any.
    """

    does: ClassVar[str]

    @cached_property
    def served_model(self) -> str | None:
        """The model that the server says it has first, which requests name; None where it does not say."""
        name = (self.model_info() or {}).get("served_model_name")
        return name if isinstance(name, str) else None

    @override
    def another(self) -> Self:
        client = super().another()
        client.__dict__["served_model"] = self.served_model
        return client

    @override
    def send(self, request: PreparedRequest) -> NoReturn:
        self._refuse()

    @override
    def build(self, request: PreparedRequest) -> NoReturn:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise TextOnly(
            f"{self.url} {self.does} texts and takes no token ids: only the gate of its own mode can be measured"
        )


class RerankClient(TextClient):
    """A `ScoreClient` of a rerank server."""

    path: ClassVar[str] = "/rerank"
    does: ClassVar[str] = "ranks"

    _form: RerankForm | None = None

    @property
    def form(self) -> RerankForm:
        """How this server is asked. Raises ScoreFailure where it answers none of the forms."""
        if self._form is None:
            self._form = self._found()
        return self._form

    @override
    def another(self) -> Self:
        client = super().another()
        client._form = self._form
        return client

    def rank(self, query: str, documents: Sequence[str], **more: Any) -> list[Ranked]:
        """The answer's entries in its order; ``more``: further fields, such as ``top_n``.

        Raises ScoreFailure for a refusal, for what is no ranking, and for an index that no document has, or two
        entries have.
        """
        return _ranking(self._asked(self.form, query, documents, more), len(documents))

    def relevance(self, query: str, documents: Sequence[str], **more: Any) -> Scores:
        """The scores [N] of all documents, in their own order. Raises as `rank`, and where one has none."""
        ranked = self.rank(query, documents, **more)
        if len(ranked) != len(documents):
            raise ScoreFailure(
                FailureKind.BAD_RESPONSE, f"expected a score of each of {len(documents)} documents, got {len(ranked)}"
            )
        scores = np.empty(len(documents))
        for each in ranked:
            scores[each.index] = each.score
        return scores

    @override
    def try_out(self, labels: Sequence[int], *, delimiter: int | None) -> None:
        """One small request of text."""
        self.relevance(_QUERY, _DOCUMENTS)

    def _asked(self, form: RerankForm, query: str, documents: Sequence[str], more: Any) -> httpx.Response:
        model = {} if self.served_model is None else {"model": self.served_model}
        return self.post(form.path, {**model, "query": query, form.documents: list(documents), **more})

    def _found(self) -> RerankForm:
        refusals = []
        for form in FORMS:
            answer = self._asked(form, _QUERY, _DOCUMENTS, {})
            if answer.status_code == 200:
                _ranking(answer, len(_DOCUMENTS))
                return form
            refusals.append(f"{form.path} with {form.documents}: HTTP {answer.status_code} {quoted(answer)}")
            if answer.status_code not in _NOT_THERE:
                break
        raise ScoreFailure(
            FailureKind.HTTP_ERROR,
            f"{self.url} answers no form of a rerank request: {'; '.join(refusals)}",
            answer.status_code,
        )


def _ranking(answer: httpx.Response, documents: int) -> list[Ranked]:
    if answer.status_code != 200:
        message = f"HTTP {answer.status_code}: {quoted(answer)}"
        raise ScoreFailure(FailureKind.HTTP_ERROR, message, answer.status_code)
    try:
        ranked = decode_ranking(answer.content)
    except ValueError as error:
        raise ScoreFailure(FailureKind.BAD_RESPONSE, f"{error}: {quoted(answer)}", 200) from None
    places = [each.index for each in ranked]
    if len(set(places)) != len(places) or not set(places) <= set(range(documents)):
        words = f"expected indexes of {documents} documents, each once, got {places[:20]}"
        raise ScoreFailure(FailureKind.BAD_RESPONSE, f"{words}: {quoted(answer)}", 200)
    return ranked
