"""How many floating-point operations a request of multi-item scoring takes, from the model's sizes alone.

A multiply-add is two operations. Counted are the matrix products of the projections, of the MLP and of the label
logits (``matrix``), and the two products of attention (``attention``). Not counted, being a small share that no
matrix rate describes: embedding look-up, norms, rotary positions, softmax, activation and residuals.

Two counts of the same request:

* nominal: every token that is laid out goes through every layer, and attends to what it may see;
* ``needed``: what some score depends on. Closing delimiters are seen by no row that is read. In the last layer, rows
  that are not read give their keys and values only: their queries, attention and MLP change no score.

The share of a machine's matrix rate that a server reaches is ``needed`` operations over seconds over that rate: with
``nominal`` as numerator, a server would look the better the more it computes in vain.

What packing saves at most is the needed operations of the serial side over those of one packed sequence (`ceiling`).
It counts operations only: what each of N calls costs beside them may make a measured speed-up larger.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_multiitem.engine.config import ModelConfig
from pytest_multiitem.scoring.semantics import Semantics


@dataclass(frozen=True)
class Work:
    """Floating-point operations: of products with weights, and of attention's two products."""

    matrix: int
    attention: int

    @property
    def total(self) -> int:
        """Both together."""
        return self.matrix + self.attention


@dataclass(frozen=True)
class _Rows:
    """What a forward pass computes: ``rows`` tokens that see ``pairs`` keys altogether; of these tokens ``read`` are
    read, and see ``read_pairs`` keys."""

    rows: int
    pairs: int
    read: int
    read_pairs: int


def packed(
    config: ModelConfig,
    query_tokens: int,
    item_tokens: Sequence[int],
    *,
    labels: int,
    semantics: Semantics = Semantics.PREFIX_FIRST_DELIM,
    needed: bool = True,
) -> Work:
    """One packed sequence ``query d item_1 d … item_N d`` that reads ``labels`` logits an item.

    ``item_tokens``: L_i of every item; an empty item reads the last token that every item sees. ``semantics``: one
    with a serial reference. Raises ValueError for another.
    """
    if not semantics.has_serial_reference:
        raise ValueError(f"the work of the ablation {semantics.value} is not counted; expected a production semantics")
    seen = query_tokens + int(semantics.sees_first_delimiter)
    if needed:
        return _of(config, _behind_prefix(seen, item_tokens), labels, needed=True)
    prefix = query_tokens + 1
    blocks = [length + 1 for length in item_tokens]
    pairs = _triangle(prefix) + sum(length * seen + _triangle(length) for length in blocks)
    return _of(config, _Rows(prefix + sum(blocks), pairs, len(blocks), 0), labels, needed=False)


def extended(
    config: ModelConfig, query_tokens: int, item_tokens: Sequence[int], *, labels: int, needed: bool = True
) -> Work:
    """Prefill+extend: the query once, then every item behind it; no delimiter is computed."""
    return _of(config, _behind_prefix(query_tokens, item_tokens), labels, needed=needed)


def serial(
    config: ModelConfig, query_tokens: int, item_tokens: Sequence[int], *, labels: int, needed: bool = True
) -> Work:
    """N sequences ``query + item``, each computed whole."""
    tokens = [query_tokens + length for length in item_tokens]
    rows = _Rows(sum(tokens), sum(map(_triangle, tokens)), len(tokens), sum(tokens))
    return _of(config, rows, labels, needed=needed)


def cached(
    config: ModelConfig, query_tokens: int, item_tokens: Sequence[int], *, labels: int, needed: bool = True
) -> Work:
    """N sequences ``query + item`` on a server that holds the query's keys and values already.

    An empty item computes the query's last token again: some row must be read.
    """
    empty = sum(length == 0 for length in item_tokens)
    rows = sum(item_tokens) + empty
    pairs = sum(length * query_tokens + _triangle(length) for length in item_tokens) + empty * query_tokens
    read_pairs = len(item_tokens) * query_tokens + sum(item_tokens)
    return _of(config, _Rows(rows, pairs, len(item_tokens), read_pairs), labels, needed=needed)


def ceiling(
    config: ModelConfig,
    query_tokens: int,
    item_tokens: Sequence[int],
    *,
    labels: int,
    semantics: Semantics = Semantics.PREFIX_FIRST_DELIM,
    cached_query: bool = False,
) -> float:
    """What packing all items into one sequence saves at most: needed operations of N one-item calls over its own.

    ``cached_query``: the serial side computes the query never again. Raises ValueError for an ablation.
    """
    calls = (cached if cached_query else serial)(config, query_tokens, item_tokens, labels=labels)
    return calls.total / packed(config, query_tokens, item_tokens, labels=labels, semantics=semantics).total


def _behind_prefix(seen: int, item_tokens: Sequence[int]) -> _Rows:
    """A causal prefix of ``seen`` tokens, and items that see all of it and themselves so far."""
    tokens = sum(item_tokens)
    pairs = _triangle(seen) + sum(length * seen + _triangle(length) for length in item_tokens)
    read = sum(length > 0 for length in item_tokens) + (0 in item_tokens)  # all empty items read the same row
    return _Rows(seen + tokens, pairs, read, read * seen + tokens)


def _of(config: ModelConfig, rows: _Rows, labels: int, *, needed: bool) -> Work:
    hidden, dim = config.hidden_size, config.head_dim
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    keys_values = 2 * hidden * 2 * kv_heads * dim
    others = 2 * hidden * heads * dim * 2 + 3 * 2 * hidden * config.intermediate_size  # queries, output; MLP
    pair = 2 * heads * dim * 2
    below = config.num_hidden_layers - 1
    last = (rows.read, rows.read_pairs) if needed else (rows.rows, rows.pairs)
    return Work(
        rows.rows * (below + 1) * keys_values
        + (rows.rows * below + last[0]) * others
        + rows.read * 2 * hidden * labels,
        (rows.pairs * below + last[1]) * pair,
    )


def _triangle(tokens: int) -> int:
    """Keys that the tokens of a causal sequence see altogether."""
    return tokens * (tokens + 1) // 2
