"""What holds of every real rerank server: asked over its own wire, compared with transformers' own model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from pytest_multiitem.adapters.ranking import RerankClient

QUERIES = ("what can be eaten", "which road leads to the sea")
DOCUMENTS = (
    "an apple", "a red car", "bread, still warm", "", "the window of a house by the sea", "an apple",
    "42 stones", "milk and honey", "a road", "the path down to the water leads past the mill",
)  # fmt: skip
#: How far a score may be from transformers' own: float32, other kernels.
PARITY = 1e-5
#: The relevance of a document to a query.
Reference = Callable[[str, str], float]


def check_scores(client: RerankClient, reference: Reference, documents: Sequence[str] = DOCUMENTS) -> float:
    """Mapped back by their index, the scores are the reference's; the largest difference."""
    apart = 0.0
    for query in QUERIES:
        expected = np.array([reference(query, text) for text in documents])
        found = client.relevance(query, documents)
        assert found.std() > 1e-3, "scores that hardly differ say nothing of the mapping"
        far = {text: (a, b) for text, a, b in zip(documents, found, expected, strict=True) if not abs(a - b) <= PARITY}
        assert not far, f"{query!r}: served, and by transformers: {far}"
        apart = max(apart, float(np.abs(found - expected).max()))
    return apart


def check_order(client: RerankClient, documents: Sequence[str] = DOCUMENTS, *, rounding: float = 0.0) -> None:
    """Descending scores; ``top_n`` is the beginning; ``rounding``: by how much copies of a document may differ."""
    ranked = client.rank(QUERIES[0], documents)
    scores = [each.score for each in ranked]
    assert scores == sorted(scores, reverse=True)
    top = client.rank(QUERIES[0], documents, top_n=3)
    assert len(top) == 3
    assert np.allclose([each.score for each in top], scores[:3], rtol=0, atol=rounding or 1e-12)
    by_index = {each.index: each.score for each in ranked}
    copies = [index for index, text in enumerate(documents) if text == "an apple"]
    assert len(copies) == 2 and abs(by_index[copies[0]] - by_index[copies[1]]) <= rounding
    if not rounding:
        places = [each.index for each in ranked if each.index in copies]
        assert places == copies, "of equal documents the first in the request comes first"


def check_queries_in_flight(client: RerankClient, *, rounding: float) -> None:
    """Two queries at the same time score what each scores alone."""
    alone = {query: client.relevance(query, DOCUMENTS) for query in QUERIES}
    assert np.abs(alone[QUERIES[0]] - alone[QUERIES[1]]).max() > 10 * rounding

    def ask(query: str) -> NDArray[np.float64]:
        with client.another() as own:
            return own.relevance(query, DOCUMENTS)

    queries = QUERIES * 8
    with ThreadPoolExecutor(len(queries)) as threads:
        together = list(threads.map(ask, queries))
    for query, scores in zip(queries, together, strict=True):
        assert np.abs(scores - alone[query]).max() <= rounding
