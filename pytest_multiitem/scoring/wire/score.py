"""The wire of ``POST /v1/score``, for the server and for the client: causal, by labels, or by a classification head;
one readout an item, or one at each extraction token of it (setwise)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from pytest_multiitem.scoring.wire.errors import WireError
from pytest_multiitem.scoring.wire.fields import (
    Usage,
    check_finite,
    check_ids,
    check_temperature,
    check_token_ids,
    decode_object,
    empty_query,
    kind,
    mistyped,
    optional,
    required,
    too_many_items,
)

#: The fields of a scoring request that not every engine knows, as ``/get_server_info`` says that one does.
SCORE_FIELDS: Final = ("temperature", "return_token_logprobs")

#: Numbers by row: [N][K], or [N][N_i][K] where an item has a readout at each of its extraction tokens.
Table = list[Any]


class ScoreRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One scoring request: K scores for each of N items behind one query.

    Text with text, token ids with token ids. An empty item is valid. ``label_token_ids``: K ids for all items, or a
    list of N lists of them, one an item; ``None`` for a model with a classification head, which has no labels.
    ``model`` is ``None`` where the request names none. ``item_first`` puts the item before the query; packed scoring
    ignores it. ``temperature``: what the log-probabilities (the classification head's logits) are divided by before
    the softmax; only with it. ``return_token_logprobs``: answer the labels' log-probabilities over the whole vocabulary
    as well. ``return_pooled_hidden_states``: answer the states that the classification head reads.
    ``score_extraction_token``: the text of one token, at each of whose occurrences in an item there is a readout,
    instead of the one at the item's end.
    """

    query: str | list[int]
    items: list[str] | list[list[int]]
    label_token_ids: list[Any] | None = None
    apply_softmax: bool = False
    item_first: bool = False
    model: str | None = None
    temperature: float | None = None
    return_token_logprobs: bool = False
    return_pooled_hidden_states: bool = False
    score_extraction_token: str | None = None

    @property
    def label_lists(self) -> list[list[int]] | None:
        """The labels of each item [N][K_i]; None where there are none."""
        labels = self.label_token_ids
        if labels is None:
            return None
        return list(labels) if isinstance(labels[0], list) else [labels] * len(self.items)


class ScoreResponse(msgspec.Struct, frozen=True, kw_only=True):
    """``scores``: a row an item [N][K], in rows of different lengths where items have labels of their own; nested
    [N][N_i][K] in a setwise answer. ``usage`` is ``None`` from engines that count nothing (sgl-jax).
    ``token_logprobs``: of the same shape, in the order of the labels, at temperature 1.
    ``pooled_hidden_states``: in the place of each row of scores a state [H]. Both are left out of an answer to a
    request that asks for none."""

    scores: Table
    model: str
    object: str = "scoring"
    usage: Usage | None = None
    token_logprobs: Table | msgspec.UnsetType = msgspec.UNSET
    pooled_hidden_states: Table | msgspec.UnsetType = msgspec.UNSET


def encode_score_response(response: ScoreResponse) -> bytes:
    """The response as JSON. Raises ValueError on numbers that are not finite."""
    for name in ("scores", "token_logprobs", "pooled_hidden_states"):
        table = getattr(response, name)
        for index, rows in enumerate([] if table is msgspec.UNSET else table):
            check_finite(f"the {name} of item {index}", _numbers(rows))
    return msgspec.json.encode(response)


def _numbers(rows: list[Any]) -> Iterator[float]:
    for value in rows:
        if isinstance(value, list):
            yield from value
        else:
            yield value


def decode_table(body: bytes, name: str, shapes: Sequence[tuple[int, ...]]) -> list[NDArray[np.float64]]:
    """The numbers of each item in a field of an answer, in the shapes that are expected: [K_i], or [N_i, K_i] where an
    item has several readouts. Raises ValueError for what has other shapes, or is no finite numbers."""
    try:
        answer = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"the answer is no JSON: {error}") from None
    table = answer.get(name) if isinstance(answer, dict) else None
    if not isinstance(table, list) or len(table) != len(shapes):
        found = f"{len(table)} rows" if isinstance(table, list) else kind(table)
        raise ValueError(f"{name} is {found}; expected {len(shapes)} rows, one for each item")
    return [_of_shape(f"{name}[{number}]", *each) for number, each in enumerate(zip(table, shapes, strict=True))]


def _of_shape(place: str, value: Any, shape: tuple[int, ...]) -> NDArray[np.float64]:
    words = " by ".join(map(str, shape))
    try:
        numbers = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{place} is no table of numbers; expected {words}") from None
    if isinstance(value, str | bool) or numbers.shape != shape:
        found = " by ".join(map(str, numbers.shape)) or kind(value)
        raise ValueError(f"{place} is {found}; expected {words} numbers")
    if not np.isfinite(numbers).all():
        raise ValueError(f"{place} has numbers that are not finite")
    return numbers


def parse_score_request(
    body: bytes, *, vocab_size: int, max_items: int | None = None, classifies: bool = False
) -> ScoreRequest:
    """Decode and check a request body; ids must be in ``[0, vocab_size)``, items ``max_items`` at most.

    ``classifies``: the model has a classification head; its requests need no labels, and any are ignored. A field that
    is ``null`` counts as absent; unknown fields are ignored. Raises WireError.
    """
    fields = decode_object(body, "query, items and label_token_ids")
    needed = ("query", "items") if classifies else ("query", "items", "label_token_ids")
    query, items, *labels = (required(fields, name) for name in needed)
    softmax = optional(fields, "apply_softmax", bool, False)
    checked = _check_items(items, max_items)
    request = ScoreRequest(
        query=_check_query(query),
        items=checked,
        label_token_ids=_check_labels(labels[0], len(checked)) if labels else None,
        apply_softmax=softmax,
        item_first=optional(fields, "item_first", bool, False),
        model=optional(fields, "model", str, None),
        temperature=_check_softened(fields.get("temperature"), softmax),
        return_token_logprobs=optional(fields, "return_token_logprobs", bool, False),
        return_pooled_hidden_states=optional(fields, "return_pooled_hidden_states", bool, False),
        score_extraction_token=optional(fields, "score_extraction_token", str, None),
    )
    if isinstance(request.query, str) != isinstance(request.items[0], str):
        kinds = f"query is {kind(request.query)} but items are {kind(request.items[0])}"
        raise WireError(400, "mixed_input_types", f"{kinds}; send both as text or both as token ids", "items")
    if not isinstance(request.query, str):
        check_token_ids(request.query, request.items, vocab_size=vocab_size)  # type: ignore[arg-type]
    _check_label_ids(request.label_token_ids, vocab_size)
    _check_combination(request, classifies)
    return request


def _check_combination(request: ScoreRequest, classifies: bool) -> None:
    if request.score_extraction_token is not None and request.item_first:
        message = (
            "item_first is true beside score_extraction_token; an item with readouts inside stands after its query"
        )
        raise WireError(400, "item_first_not_supported", message, "item_first")
    if request.return_token_logprobs and classifies:
        name = "return_token_logprobs"
        message = f"{name} is true, but the served model has a classification head, which reads no tokens; leave it out"
        raise WireError(400, "token_logprobs_not_supported", message, name)
    if request.return_pooled_hidden_states and not classifies:
        name = "return_pooled_hidden_states"
        message = f"{name} is true, but the served model has no classification head that would read them; leave it out"
        raise WireError(400, "pooled_hidden_states_not_supported", message, name)


def _check_query(query: Any) -> Any:
    if not isinstance(query, str | list):
        raise mistyped("invalid_query_type", "query", query, "text or a list of token ids")
    if not query:
        raise empty_query()
    return query


def _check_items(items: Any, most: int | None) -> Any:
    if isinstance(items, str):
        return [items]
    expected = "text, a list of texts, or a list of lists of token ids"
    if not isinstance(items, list):
        raise mistyped("invalid_items_type", "items", items, expected)
    if not items:
        raise WireError(400, "empty_items", "items is empty; expected at least one item", "items")
    if most is not None and len(items) > most:
        raise too_many_items(len(items), most)
    types = set(map(type, items))
    if not types <= {str, list}:
        param, item = next((f"items[{i}]", item) for i, item in enumerate(items) if not isinstance(item, str | list))
        raise mistyped("invalid_items_type", param, item, expected)
    if len(types) > 1:
        index = next(i for i, item in enumerate(items) if type(item) is not type(items[0]))
        kinds = f"items[0] is {kind(items[0])} but items[{index}] is {kind(items[index])}"
        message = f"{kinds}; send all items as text or all as token ids"
        raise WireError(400, "mixed_input_types", message, f"items[{index}]")
    return items


def _check_labels(labels: Any, items: int) -> Any:
    """Labels for all items, or a list for each: told apart by the first entry."""
    name = "label_token_ids"
    if not isinstance(labels, list):
        raise mistyped(f"invalid_{name}_type", name, labels, "a list of token ids, or one such list for each item")
    if not labels:
        raise _no_labels(name)
    if not isinstance(labels[0], list):
        return labels
    if len(labels) != items:
        message = f"{name} has {len(labels)} lists for {items} items; expected one list for each item, or one for all"
        raise WireError(400, "label_lists_mismatch", message, name)
    for number, own in enumerate(labels):
        param = f"{name}[{number}]"
        if not isinstance(own, list):
            raise mistyped(f"invalid_{name}_type", param, own, "a list of token ids, as for the other items")
        if not own:
            raise _no_labels(param)
    return labels


def _no_labels(param: str) -> WireError:
    return WireError(400, "empty_label_token_ids", f"{param} is empty; expected at least one token id", param)


def _check_label_ids(labels: list[Any] | None, vocab_size: int) -> None:
    name = "label_token_ids"
    if labels is None:
        return
    if not isinstance(labels[0], list):
        check_ids([labels], lambda _: name, vocab_size)
        return
    check_ids(labels, lambda number: f"{name}[{number}]", vocab_size)
    for number, own in enumerate(labels):
        if len(set(own)) < len(own):
            again = next(i for i, label in enumerate(own) if label in own[:i])
            param = f"{name}[{number}][{again}]"
            message = f"{param} is {own[again]}, which is in this list already; name each label of an item once"
            raise WireError(400, "duplicate_label_token_id", message, param)


def _check_softened(value: Any, softmax: bool) -> float | None:
    name, temperature = "temperature", check_temperature(value)
    if temperature is not None and not softmax:
        message = f"{name} is {value}, but apply_softmax is false; a temperature applies to the softmax over the labels"
        raise WireError(400, f"invalid_{name}", message, name)
    return temperature
