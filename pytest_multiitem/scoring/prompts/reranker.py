"""The prompt of Qwen3-Reranker, for a request for relevance with an instruction.

As in the model's card, with the border between query and item before the document, where the tokens of both sides are
the same together and apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

#: The labels: a document's score is the share of the first in the probability of both.
LABELS: Final = ("yes", "no")
#: What is asked for where a request has no instruction.
INSTRUCT: Final = "Given a web search query, retrieve relevant passages that answer the query"

_HEAD = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
_TAIL = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


def rendered(instruct: str, query: str, documents: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """A query and its items for ``/v1/score``, whose labels are `LABELS`."""
    items = tuple(f"<Document>: {document}{_TAIL}" for document in documents)
    return f"{_HEAD}<Instruct>: {instruct}\n<Query>: {query}\n", items
