"""What the endpoints' messages share: fields of a decoded object, token ids, counts of tokens, finite numbers.

A request is checked by hand on plain decoded JSON, so that each condition has exactly one status,
``code`` and ``param``; a schema library would fold several of them into one.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from reprlib import Repr
from typing import Any, Final

import msgspec

from pytest_multiitem.scoring.wire.errors import WireError

#: Token ids travel as signed 64-bit integers.
_MAX_INT64: Final = 2**63 - 1
_MIN_INT64: Final = -(2**63)

_repr = Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = 60
_EXPECTED: Final = {bool: "true or false", str: "a string"}


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Token counts; scoring generates nothing, so ``completion_tokens`` is 0."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0

    @classmethod
    def of(cls, prompt_tokens: int) -> Usage:
        """That of so many computed tokens."""
        return cls(prompt_tokens=prompt_tokens, total_tokens=prompt_tokens)


def decode_object(body: bytes, fields: str) -> dict[str, Any]:
    """The JSON object of a body; ``fields``: what it should have, in words. Raises WireError."""
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(400, "invalid_json", f"the body ({len(body)} bytes) is not valid JSON: {error}") from None
    if not isinstance(decoded, dict):
        raise WireError(400, "invalid_request", f"the body is {kind(decoded)}; expected an object with {fields}")
    return decoded


def required(fields: dict[str, Any], name: str) -> Any:
    """A field's value, neither missing nor null. Raises WireError."""
    value = fields.get(name)
    if value is None:
        raise WireError(400, f"missing_{name}", f"{name} is missing or null; it is required", name)
    return value


def optional(fields: dict[str, Any], name: str, type_: type, default: Any) -> Any:
    """A field's value of a type (bool or str), or the default where it is missing or null. Raises WireError."""
    value = fields.get(name)
    if value is None:
        return default
    if type(value) is not type_:
        raise mistyped(f"invalid_{name}_type", name, value, _EXPECTED[type_])
    return value


def check_temperature(value: Any) -> float | None:
    """A temperature, a finite number above 0, or None. Raises WireError."""
    name, expected = "temperature", "a finite number above 0"
    if value is None:
        return None
    if type(value) not in (int, float):
        raise mistyped(f"invalid_{name}_type", name, value, expected)
    if not 0 < value <= sys.float_info.max:
        raise WireError(400, f"invalid_{name}", f"{name} is {_repr.repr(value)}; expected {expected}", name)
    return float(value)


def check_token_ids(query: Sequence[int], items: Sequence[Sequence[int]], *, vocab_size: int) -> None:
    """Check that the ids of a query and of its items are integers in ``[0, vocab_size)``.

    Raises WireError with ``param`` naming the place (``query[2]``, ``items[3][0]``).
    """
    check_ids([query, *items], lambda number: f"items[{number - 1}]" if number else "query", vocab_size)


def check_ids(sequences: Sequence[Sequence[int]], place: Callable[[int], str], vocab_size: int) -> None:
    """Check lists of ids; ``place``: the field of one by its number. Raises WireError.

    Three passes at C speed over all ids; the slow search for the place only where they fail.
    """
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
            expected = f"an integer token id from 0 to {vocab_size - 1}"
            if type(value) is not int or not _MIN_INT64 <= value <= _MAX_INT64:
                return mistyped("invalid_token_id_type", param, value, expected)
            if value < 0:
                return WireError(422, "token_id_negative", f"{param} is {value}; expected {expected}", param)
            if value >= vocab_size:
                return WireError(422, "token_id_exceeds_vocab", f"{param} is {value}; expected {expected}", param)
    raise AssertionError("no bad id among ids that failed the check")


def empty_query() -> WireError:
    """A query without tokens: there is no state to score an item from."""
    return WireError(400, "empty_query", "query is empty; expected at least one token", "query")


def too_many_items(count: int, limit: int, param: str = "items") -> WireError:
    """More items than the server takes in one request; ``param``: what the endpoint calls them."""
    what = f"the request has {count} {param}; this server takes at most {limit}"
    remedy = "Send them in several requests, or raise --max-multi-item-count"
    return WireError(400, "too_many_items", f"{what}. {remedy}", param)


def mistyped(code: str, param: str, value: Any, expected: str) -> WireError:
    """A value of another type than ``expected``, in words."""
    return WireError(400, code, f"{param} is {_repr.repr(value)} ({kind(value)}); expected {expected}", param)


def kind(value: Any) -> str:
    """A decoded JSON value's type, in the words of JSON."""
    names = {str: "text", list: "a list", dict: "an object", bool: "a boolean", int: "an integer"}
    return names.get(type(value), "null" if value is None else "a number with a fraction or exponent")


def check_finite(what: str, numbers: Iterable[float]) -> None:
    """Raises ValueError on NaN or infinite numbers: JSON has no such, and ``null`` would hide them."""
    numbers = list(numbers)
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"{what} are not finite: {numbers}")
