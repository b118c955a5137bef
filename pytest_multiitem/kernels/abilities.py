"""What a kernel says that it can do. It is checked within that, and the report says what lies beyond."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Literal, get_args

import msgspec

from pytest_multiitem.errors import UsageError, did_you_mean
from pytest_multiitem.scoring.semantics import Semantics

Dtype = Literal["float32", "bfloat16", "float16"]
ArrayKind = Literal["numpy", "torch", "jax"]

_SERIAL = tuple(each.value for each in Semantics if each.has_serial_reference)
#: What a field may be where that can be counted, and how msgspec names the field in an error.
_VALUES: Final[Mapping[str, tuple[str, ...]]] = {
    "arrays": get_args(ArrayKind),
    "dtypes": get_args(Dtype),
    "result_dtype": get_args(Dtype),
    "semantics": _SERIAL,
}
_FIELD: Final = re.compile(r"`\$\.(\w+)")


class Abilities(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What a kernel can do; every field has a default, so a kernel names only what differs.

    ``arrays``: what it takes and returns. NumPy has no bfloat16: such a kernel gets float32 arrays that hold bfloat16
    numbers. ``device``: where torch puts them. ``dtypes``: of q, k and v. ``result_dtype``: of the result, where it is
    not that of q. ``head_dims``: D. ``groups``: query heads for each key-value head. ``kv_heads``: how many of these it
    takes; empty: any number. ``semantics``: masks it can have. ``page_sizes``: tokens of a cache page; empty: it has no
    pages. ``tiles``: its own tile sizes, in rows or keys; lengths about them are tried beside the usual ones.

    Limits, None where there is none: ``max_rows`` of all sequences together, ``max_items`` of one sequence,
    ``max_item_length`` in tokens, ``max_sequences`` of one call. ``empty_items``: whether an item may have no token.
    ``keeps_nonfinite``: NaN and infinity of other items, of padding and of unused pages reach no row that must not see
    them. A kernel that multiplies a weight of 0 with what is hidden cannot keep it, as 0 · NaN is NaN; one that says so
    here is tried with large finite numbers alone.
    """

    arrays: ArrayKind = "numpy"
    device: str = "cpu"
    dtypes: tuple[Dtype, ...] = ("float32",)
    result_dtype: Dtype | None = None
    head_dims: tuple[int, ...] = (64,)
    groups: tuple[int, ...] = (1, 2)
    kv_heads: tuple[int, ...] = ()
    semantics: tuple[Semantics, ...] = (Semantics.PREFIX_FIRST_DELIM, Semantics.QUERY_PREFIX)
    page_sizes: tuple[int, ...] = ()
    tiles: tuple[int, ...] = ()
    max_rows: int | None = None
    max_items: int | None = None
    max_item_length: int | None = None
    max_sequences: int | None = 1
    empty_items: bool = True
    keeps_nonfinite: bool = True


def abilities_of(given: Abilities | Mapping[str, Any], kernel: str) -> Abilities:
    """What a kernel's function has returned beside the kernel. Raises UsageError for what is not valid."""
    if isinstance(given, Mapping) and (unknown := [name for name in given if name not in Abilities.__struct_fields__]):
        known = Abilities.__struct_fields__
        hint = did_you_mean(str(unknown[0]), known)
        raise UsageError(f"{kernel} says that it can {unknown[0]!r}{hint}; expected some of: {', '.join(known)}")
    try:
        found = msgspec.convert(given if isinstance(given, Abilities) else dict(given), Abilities)
        # A record that was built by hand has had no look at its types.
        found = msgspec.convert(msgspec.to_builtins(found), Abilities)
    except (msgspec.ValidationError, TypeError, ValueError) as error:
        named = _FIELD.search(str(error))
        values = _VALUES.get(named[1] if named else "", ())
        expected = f"; expected some of: {', '.join(values)}" if values else ""
        said = str(error).replace("Expected `array`", "Expected a list")
        raise UsageError(f"what {kernel} says that it can do is not valid: {said}{expected}") from None
    for name in ("dtypes", "head_dims", "groups", "semantics"):
        if not getattr(found, name):
            raise UsageError(f"{kernel} says {name}=(): expected at least one, else there is nothing to check")
    for name in ("head_dims", "groups", "kv_heads", "page_sizes", "tiles"):
        if wrong := [number for number in getattr(found, name) if number < 1]:
            raise UsageError(f"{kernel} says {name} {wrong[0]}: expected whole numbers from 1")
    if small := [dim for dim in found.head_dims if dim < 16]:
        raise UsageError(
            f"{kernel} says head_dims {small[0]}: expected 16 or more, keys are told apart by as many signs"
        )
    for name in ("max_rows", "max_items", "max_item_length", "max_sequences"):
        limit = getattr(found, name)
        if limit is not None and limit < 1:
            raise UsageError(f"{kernel} says {name}={limit}: expected a whole number from 1, or None for no limit")
    if wrong_masks := [each.value for each in found.semantics if not each.has_serial_reference]:
        raise UsageError(
            f"{kernel} says semantics {wrong_masks[0]!r}: an ablation equals no serial scoring, so no mask of it is "
            f"right; expected some of {', '.join(_SERIAL)}"
        )
    return found
