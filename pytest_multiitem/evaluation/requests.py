"""What is sent: the same requests in both modes, drawn from the same seed and options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

from pytest_multiitem.scoring.cases import Case, built_in_cases, equal_length_case, read_workload


@dataclass(frozen=True)
class Shape:
    """What the requests are drawn from. ``counts``: the item counts N that are timed."""

    seed: int
    labels: tuple[int, ...]
    delimiter: int
    vocab_size: int
    query_tokens: int
    item_tokens: int
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Requests:
    """``cases``: scored, replayed and mutated. ``timed``: a request of the largest N; N items are its first N."""

    cases: tuple[Case, ...]
    timed: Case


def built_in(shape: Shape) -> Requests:
    """26 items of 1 to 40 tokens, none of them empty; items of equal length to time."""
    mixed, _ = built_in_cases(
        seed=shape.seed,
        labels=shape.labels,
        delimiter=shape.delimiter,
        vocab_size=shape.vocab_size,
        empty_item=False,
    )
    timed = equal_length_case(
        seed=shape.seed,
        query_tokens=shape.query_tokens,
        num_items=max(shape.counts),
        item_tokens=shape.item_tokens,
        labels=shape.labels,
        pool=mixed.pool,
    )
    return Requests((mixed,), timed)


def workload(path: Path, shape: Shape, encode: Callable[[str], list[int]] | None) -> Requests:
    """A user's own requests; to time, the first query with the items of all requests in turn.

    ``encode`` turns text into ids; None where no tokenizer is at hand. Raises UsageError naming the line.
    """
    cases = read_workload(
        path,
        encode=encode,
        labels=shape.labels,
        delimiter=shape.delimiter,
        vocab_size=shape.vocab_size,
    )
    items = tuple(islice(cycle([item for case in cases for item in case.items]), max(shape.counts)))
    first = cases[0]
    return Requests(cases, Case("timed", first.query, items, first.labels, first.pool))
