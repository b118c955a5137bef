"""The wire of vLLM's ``POST /generative_scoring``: as ``/v1/score``, but a score is that of the first label alone.

From vLLM 0.32. The embedded engine does not serve it. ``apply_softmax`` is true where a request does not say, special
tokens are added to text unless it says no, and what is longer than the model's limit is cut silently.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from pytest_multiitem.scoring.wire.fields import Usage, kind


class GenerativeScoringRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """N items behind one query, K labels. ``cache_salt``: a text that keeps its prefixes apart from those of others."""

    query: str | list[int]
    items: list[str] | list[list[int]]
    label_token_ids: list[int]
    apply_softmax: bool = True
    item_first: bool = False
    add_special_tokens: bool = True
    cache_salt: str | None = None
    model: str | None = None


class GenerativeScore(msgspec.Struct, frozen=True, kw_only=True):
    """The probability of the first label; ``index``: of the item in the request."""

    index: int
    score: float
    object: str = "score"


class GenerativeScoringResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A score for each item."""

    data: list[GenerativeScore]
    model: str
    object: str = "list"
    id: str = ""
    created: int = 0
    usage: Usage | None = None


def label_order(labels: Sequence[int], label: int) -> list[int]:
    """The labels with one of them first: what to ask for its score.

    Raises ValueError where it is none of them.
    """
    if label not in labels:
        raise ValueError(f"the label {label} is none of {list(labels)}")
    return [label, *(other for other in labels if other != label)]


def decode_generative_scores(body: bytes, count: int) -> list[float]:
    """The scores of ``count`` items in their order. Raises ValueError where the answer does not have one for each."""
    try:
        decoded: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"the scores are no JSON: {error}") from None
    entries = decoded.get("data") if isinstance(decoded, dict) else None
    if type(entries) is not list:
        raise ValueError(f"the answer is {kind(decoded)} without a list called data; expected one")
    found: dict[int, float] = {}
    for entry in entries:
        index: Any = entry.get("index") if isinstance(entry, dict) else None
        score: Any = entry.get("score") if isinstance(entry, dict) else None
        if type(index) is not int or type(score) not in (int, float) or not math.isfinite(score) or index in found:
            raise ValueError(f"{entry!r} has no index of its own and no finite score")
        found[index] = float(score)
    if sorted(found) != list(range(count)):
        raise ValueError(f"the answer has scores of the items {sorted(found)}; expected 0 to {count - 1}")
    return [found[index] for index in range(count)]
