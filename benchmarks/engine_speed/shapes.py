"""The requests that are timed: their shapes, and for every shape a request that nobody has seen before."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from pytest_multiitem.errors import UsageError
from pytest_multiitem.scoring.cases import Case, equal_length_case, token_pool

#: As in the contract: "Yes" and "No", and the delimiter, which never stands in content.
LABELS = (9454, 2753)
DELIMITER = 151_643
_SEED = 20_260_101


@dataclass(frozen=True)
class Shape:
    """Q, N and L: tokens of the query, items, tokens of each item."""

    query_tokens: int
    items: int
    item_tokens: int

    @classmethod
    def parse(cls, text: str) -> Shape:
        """From ``Q/N/L``. Raises UsageError."""
        parts = text.strip().split("/")
        if len(parts) != 3 or not all(part.isdecimal() and int(part) > 0 for part in parts):
            raise UsageError(f"a shape is {text!r}; expected QUERY/ITEMS/ITEM-TOKENS, for example 2000/500/20")
        return cls(*map(int, parts))

    @property
    def name(self) -> str:
        """``Q/N/L``."""
        return f"{self.query_tokens}/{self.items}/{self.item_tokens}"

    @property
    def lengths(self) -> list[int]:
        """L of every item."""
        return [self.item_tokens] * self.items


@dataclass(frozen=True)
class Requests:
    """Seeded requests of a served vocabulary.

    Every number gives other tokens: a server that keeps computed prefixes must not find the one of an earlier run.
    """

    vocab_size: int

    @cached_property
    def _pool(self) -> tuple[int, ...]:
        return token_pool(self.vocab_size, [*self.labels, self.delimiter])

    @property
    def labels(self) -> tuple[int, ...]:
        """Two label ids inside the vocabulary."""
        return LABELS if self.vocab_size > max(LABELS) else (2, 3)

    @property
    def delimiter(self) -> int:
        """The contract's, or the last token of a smaller vocabulary."""
        return min(DELIMITER, self.vocab_size - 1)

    def case(self, shape: Shape, number: int) -> Case:
        """Request ``number`` of a shape; the same in every run of the benchmark."""
        return equal_length_case(
            seed=_SEED + number,
            query_tokens=shape.query_tokens,
            num_items=shape.items,
            item_tokens=shape.item_tokens,
            labels=self.labels,
            pool=self._pool,
        )


DEFAULT_SHAPES = tuple(map(Shape.parse, ("40/32/8", "500/128/20", "2000/32/20", "2000/500/20")))
#: The shape of the targets.
CANONICAL = Shape(2000, 500, 20)
