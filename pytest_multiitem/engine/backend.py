"""What a model implementation provides to the scorer.

Every engine scores serially (`SerialBackend`); PyTorch and JAX also pack and extend (`Backend`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from pytest_multiitem.engine.plan import Block, Plan
from pytest_multiitem.scoring.layout import PackedLayout
from pytest_multiitem.scoring.readout import Readout

#: A computed prefix (per-layer keys and values, last hidden states), opaque to the scorer.
Prefix = Any


class SerialBackend(Protocol):
    """A causal LM that reads logits only where a score is read, one sequence at a time.

    ``labels``: K token ids; of a model with a classification head the numbers of its C classes (``classes``), and from
    C on those of the state that the head reads, ``pooled`` of them (0: it does not give them). ``normalise``: also read
    the log normaliser over the vocabulary.
    ``attention``: what computes packed attention, by the name it goes by; ``attention_others``: what could have done it
    instead, and why it does not.
    Not thread-safe: the server calls it from one thread.
    """

    name: str  # "pytorch" | "jax" | "transformers"
    device: str
    dtype: str  # "float32" | "bfloat16"
    versions: dict[str, str]
    attention: str
    attention_others: Mapping[str, str]
    vocab_size: int
    max_positions: int
    classes: int | None
    pooled: int

    def serial(
        self, tokens: Sequence[int], labels: Sequence[int], normalise: bool, rows: Sequence[int] | None = None
    ) -> Readout:
        """One plain causal forward pass of one sequence; reads its last token, n = 1, or the tokens ``rows``."""


@runtime_checkable
class Backend(SerialBackend, Protocol):
    """A Qwen3 causal LM that also computes packed sequences, and items behind a kept prefix."""

    def prefix(self, tokens: NDArray[np.int32], positions: NDArray[np.int32]) -> Prefix:
        """Run the prefix [P] causally and keep each layer's keys and values."""

    def prefix_readout(self, prefix: Prefix, row: int, labels: Sequence[int], normalise: bool) -> Readout:
        """Read the logits at row ``row`` of a computed prefix. n = 1."""

    def plan(self, prefix: Prefix, layout: PackedLayout, num_items: int) -> Plan:
        """Where :meth:`segment` is to compute the items of a sequence behind a prefix (:mod:`engine.plan`).

        ``num_items``: the N that sizes fixed tiles.
        """

    def padded_length(self, layout: PackedLayout) -> int:
        """The length that decides for mask implementation `auto`: packed tokens, and the padding that :meth:`segment`
        computes beside them (:meth:`engine.plan.Plan.padded_length`).

        PyTorch pads items only, to whole slots and blocks; JAX fills up tiles, and pads the prefix to its bucket.
        """

    def segment(
        self, prefix: Prefix, visible_prefix: int, blocks: Sequence[Block], labels: Sequence[int], normalise: bool
    ) -> list[Readout]:
        """Run blocks against the first ``visible_prefix`` tokens of the prefix. n = each block's number of slots, for
        each of its passes.

        Each slot attends to the visible prefix and causally to itself; no S×S object is formed.
        """

    def dense(self, plan: Plan, labels: Sequence[int], normalise: bool) -> Readout:
        """Run the whole packed sequence under its S×S mask. n = R, in the order of the layout's readouts.

        Every token attends to every key, hidden keys with weight exactly zero.
        """
