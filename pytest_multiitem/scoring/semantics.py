"""The attention semantics of packed scoring, by name."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from itertools import accumulate


class Semantics(StrEnum):
    """What an item's token sees before its own item.

    The first two are the production semantics; each equals a serial scoring (:meth:`serial_query`).
    The last two are known ablations and equal nothing serial; under `all_delims_prefix` items even
    leak into each other, through the delimiters they see.
    """

    PREFIX_FIRST_DELIM = "prefix_first_delim"
    QUERY_PREFIX = "query_prefix"
    QUERY_ONLY_PREFIX = "query_only_prefix"
    ALL_DELIMS_PREFIX = "all_delims_prefix"

    @property
    def has_serial_reference(self) -> bool:
        """Whether packed scores of this semantics equal the scores of independent sequences."""
        return self in (Semantics.PREFIX_FIRST_DELIM, Semantics.QUERY_PREFIX)

    @property
    def sees_first_delimiter(self) -> bool:
        """Whether an item's token attends to the delimiter between the query and item 1."""
        return self in (Semantics.PREFIX_FIRST_DELIM, Semantics.ALL_DELIMS_PREFIX)

    def serial_query(self, query: Sequence[int], delimiter: int) -> list[int]:
        """The query whose serial scores, ``query + item``, are the reference of this semantics."""
        if not self.has_serial_reference:
            raise ValueError(f"{self.value} equals no serial scoring; it is an ablation")
        return [*query, delimiter] if self.sees_first_delimiter else [*query]


def unisolated(items: Sequence[Sequence[int]], delimiter: int) -> list[tuple[int, ...]]:
    """What stands between the query and each item's last token where nothing isolates items: ``item_1 d … d item_i``.

    Their serial scores behind `Semantics.serial_query` are those of plain causal attention over the packed sequence.
    """
    return list(accumulate(map(tuple, items), lambda left, right: (*left, delimiter, *right)))
