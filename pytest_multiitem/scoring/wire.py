"""The wire of ``POST /v1/score``: requests, responses and errors, for the server and for the client.

A request is checked by hand on plain decoded JSON, so that each condition has exactly one status,
``code`` and ``param``; a schema library would fold several of them into one.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from itertools import chain
from reprlib import Repr
from typing import Any, Final

import msgspec

from pytest_multiitem.errors import MultiItemError

#: Token ids travel as signed 64-bit integers.
_MAX_INT64: Final = 2**63 - 1
_MIN_INT64: Final = -(2**63)

#: The fields of a scoring request that not every engine knows, as ``/get_server_info`` says that one does.
SCORE_FIELDS: Final = ("temperature", "return_token_logprobs")

_repr = Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = 60


class ScoreRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One scoring request: K scores for each of N items behind one query.

    Text with text, token ids with token ids. An empty item is valid. ``model`` is ``None`` where
    the request names none. ``item_first`` puts the item before the query; packed scoring ignores it.
    ``temperature``: what the log-probabilities are divided by before the softmax over the labels; only with it.
    ``return_token_logprobs``: answer the labels' log-probabilities over the whole vocabulary as well.
    """

    query: str | list[int]
    items: list[str] | list[list[int]]
    label_token_ids: list[int]
    apply_softmax: bool = False
    item_first: bool = False
    model: str | None = None
    temperature: float | None = None
    return_token_logprobs: bool = False


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Token counts; scoring generates nothing, so ``completion_tokens`` is 0."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0


class ScoreResponse(msgspec.Struct, frozen=True, kw_only=True):
    """``scores`` [N][K]. ``usage`` is ``None`` from engines that count nothing (sgl-jax). ``token_logprobs`` [N][K]: in
    the order of the labels, at temperature 1; left out of an answer to a request that asks for none."""

    scores: list[list[float]]
    model: str
    object: str = "scoring"
    usage: Usage | None = None
    token_logprobs: list[list[float]] | msgspec.UnsetType = msgspec.UNSET


class ErrorDetail(msgspec.Struct, frozen=True, kw_only=True):
    """``code`` is for programs, ``message`` for people, ``param`` names the field (``items[3][0]``)."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """The OpenAI-shaped error body."""

    error: ErrorDetail


class WireError(MultiItemError):
    """A request that is answered with an error.

    ``status``: the HTTP status. ``code``: the stable name. ``param``: the field at fault, if one is. ``retry_after``:
    seconds after which the same request may succeed, if it may.
    """

    def __init__(
        self, status: int, code: str, message: str, param: str | None = None, *, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        """The headers that go with the body."""
        return {} if self.retry_after is None else {"retry-after": str(self.retry_after)}

    def body(self) -> bytes:
        """The OpenAI-shaped JSON body."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        detail = ErrorDetail(message=self.message, type=kind, param=self.param, code=self.code)
        return msgspec.json.encode(ErrorBody(error=detail))


def internal_error() -> WireError:
    """Anything unexpected: 500, with nothing of the engine's inside in the message."""
    return WireError(500, "internal_error", "the engine failed on this request; its log has the details")


def busy(code: str, message: str) -> WireError:
    """A good request that cannot be taken now: 503, and after a second it may be sent again."""
    return WireError(503, code, message, retry_after=1)


def encode_score_response(response: ScoreResponse) -> bytes:
    """The response as JSON.

    Raises ValueError on NaN or infinite scores: JSON has no such numbers, and ``null`` would hide them.
    """
    logprobs = response.token_logprobs
    tables = {"scores": response.scores, "token_logprobs": [] if isinstance(logprobs, msgspec.UnsetType) else logprobs}
    for name, rows in tables.items():
        for index, row in enumerate(rows):
            if not all(map(math.isfinite, row)):
                raise ValueError(f"the {name} of item {index} are not finite: {row}")
    return msgspec.json.encode(response)


def parse_score_request(body: bytes, *, vocab_size: int, max_items: int | None = None) -> ScoreRequest:
    """Decode and check a request body; ids must be in ``[0, vocab_size)``, items ``max_items`` at most.

    A field that is ``null`` counts as absent; unknown fields are ignored. Raises WireError.
    """
    fields = _decode_object(body)
    query, items, labels = (_required(fields, name) for name in ("query", "items", "label_token_ids"))
    softmax = _optional(fields, "apply_softmax", bool, False)
    request = ScoreRequest(
        query=_check_query(query),
        items=_check_items(items, max_items),
        label_token_ids=_check_labels(labels),
        apply_softmax=softmax,
        item_first=_optional(fields, "item_first", bool, False),
        model=_optional(fields, "model", str, None),
        temperature=_check_temperature(fields.get("temperature"), softmax),
        return_token_logprobs=_optional(fields, "return_token_logprobs", bool, False),
    )
    if isinstance(request.query, str) != isinstance(request.items[0], str):
        kinds = f"query is {_kind(request.query)} but items are {_kind(request.items[0])}"
        raise WireError(400, "mixed_input_types", f"{kinds}; send both as text or both as token ids", "items")
    if not isinstance(request.query, str):
        check_token_ids(request.query, request.items, vocab_size=vocab_size)  # type: ignore[arg-type]
    _check_ids([request.label_token_ids], lambda _: "label_token_ids", vocab_size)
    return request


def check_token_ids(query: Sequence[int], items: Sequence[Sequence[int]], *, vocab_size: int) -> None:
    """Check that the ids of a query and of its items are integers in ``[0, vocab_size)``.

    Raises WireError with ``param`` naming the place (``query[2]``, ``items[3][0]``).
    """
    _check_ids([query, *items], lambda number: f"items[{number - 1}]" if number else "query", vocab_size)


def _check_ids(sequences: Sequence[Sequence[int]], place: Callable[[int], str], vocab_size: int) -> None:
    """Three passes at C speed over all ids; the slow search for the place only where they fail."""
    if set(map(type, chain.from_iterable(sequences))) <= {int}:
        lowest = min(chain.from_iterable(sequences), default=0)
        highest = max(chain.from_iterable(sequences), default=0)
        if lowest >= 0 and highest < vocab_size:
            return
    raise _first_bad_id(sequences, place, vocab_size)


def _first_bad_id(sequences: Sequence[Sequence[int]], place: Callable[[int], str], vocab_size: int) -> WireError:
    for number, ids in enumerate(sequences):
        for index, value in enumerate(ids):
            param = f"{place(number)}[{index}]"
            expected = f"expected an integer token id from 0 to {vocab_size - 1}"
            if type(value) is not int or not _MIN_INT64 <= value <= _MAX_INT64:
                return WireError(400, "invalid_token_id_type", f"{_mistyped(param, value)}; {expected}", param)
            if value < 0:
                return WireError(422, "token_id_negative", f"{param} is {value}; {expected}", param)
            if value >= vocab_size:
                return WireError(422, "token_id_exceeds_vocab", f"{param} is {value}; {expected}", param)
    raise AssertionError("no bad id among ids that failed the check")


def _decode_object(body: bytes) -> dict[str, Any]:
    try:
        fields = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(400, "invalid_json", f"the body ({len(body)} bytes) is not valid JSON: {error}") from None
    if not isinstance(fields, dict):
        message = f"the body is {_kind(fields)}; expected an object with query, items and label_token_ids"
        raise WireError(400, "invalid_request", message)
    return fields


def _required(fields: dict[str, Any], name: str) -> Any:
    value = fields.get(name)
    if value is None:
        raise WireError(400, f"missing_{name}", f"{name} is missing or null; it is required", name)
    return value


def _optional(fields: dict[str, Any], name: str, kind: type, default: Any) -> Any:
    value = fields.get(name)
    if value is None:
        return default
    if type(value) is not kind:
        expected = {bool: "true or false", str: "a string"}[kind]
        raise WireError(400, f"invalid_{name}_type", f"{_mistyped(name, value)}; expected {expected}", name)
    return value


def _check_query(query: Any) -> Any:
    if not isinstance(query, str | list):
        message = f"{_mistyped('query', query)}; expected text or a list of token ids"
        raise WireError(400, "invalid_query_type", message, "query")
    if not query:
        raise empty_query()
    return query


def empty_query() -> WireError:
    """A query without tokens: there is no state to score an item from."""
    return WireError(400, "empty_query", "query is empty; expected at least one token", "query")


def too_many_items(count: int, limit: int) -> WireError:
    """More items than the server takes in one request."""
    what = f"the request has {count} items; this server takes at most {limit}"
    remedy = "Send them in several requests, or raise --max-multi-item-count"
    return WireError(400, "too_many_items", f"{what}. {remedy}", "items")


def _check_items(items: Any, most: int | None) -> Any:
    if isinstance(items, str):
        return [items]
    expected = "expected text, a list of texts, or a list of lists of token ids"
    if not isinstance(items, list):
        raise WireError(400, "invalid_items_type", f"{_mistyped('items', items)}; {expected}", "items")
    if not items:
        raise WireError(400, "empty_items", "items is empty; expected at least one item", "items")
    if most is not None and len(items) > most:
        raise too_many_items(len(items), most)
    types = set(map(type, items))
    if not types <= {str, list}:
        param, item = next((f"items[{i}]", item) for i, item in enumerate(items) if not isinstance(item, str | list))
        raise WireError(400, "invalid_items_type", f"{_mistyped(param, item)}; {expected}", param)
    if len(types) > 1:
        index = next(i for i, item in enumerate(items) if type(item) is not type(items[0]))
        kinds = f"items[0] is {_kind(items[0])} but items[{index}] is {_kind(items[index])}"
        message = f"{kinds}; send all items as text or all as token ids"
        raise WireError(400, "mixed_input_types", message, f"items[{index}]")
    return items


def _check_labels(labels: Any) -> Any:
    if not isinstance(labels, list):
        message = f"{_mistyped('label_token_ids', labels)}; expected a list of token ids"
        raise WireError(400, "invalid_label_token_ids_type", message, "label_token_ids")
    if not labels:
        message = "label_token_ids is empty; expected at least one token id"
        raise WireError(400, "empty_label_token_ids", message, "label_token_ids")
    return labels


def _check_temperature(value: Any, softmax: bool) -> float | None:
    name, expected = "temperature", "expected a finite number above 0"
    if value is None:
        return None
    if type(value) not in (int, float):
        raise WireError(400, f"invalid_{name}_type", f"{_mistyped(name, value)}; {expected}", name)
    if not 0 < value <= sys.float_info.max:
        raise WireError(400, f"invalid_{name}", f"{name} is {_repr.repr(value)}; {expected}", name)
    if not softmax:
        message = f"{name} is {value}, but apply_softmax is false; a temperature applies to the softmax over the labels"
        raise WireError(400, f"invalid_{name}", message, name)
    return float(value)


def _mistyped(param: str, value: Any) -> str:
    return f"{param} is {_repr.repr(value)} ({_kind(value)})"


def _kind(value: Any) -> str:
    """A decoded JSON value's type, in the words of JSON."""
    names = {str: "text", list: "a list", dict: "an object", bool: "a boolean", int: "an integer"}
    return names.get(type(value), "null" if value is None else "a number with a fraction or exponent")
