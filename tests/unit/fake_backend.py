"""A model without weights: its logits are a hash of exactly the (token, position) pairs it may see.

Any leak, misplaced token, wrong position or mis-scattered score changes the answer altogether, and
the right answer is one plain `serial` call away.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterable, Sequence
from typing import ClassVar

import numpy as np

from pytest_multiitem.engine.plan import Block, Plan, place
from pytest_multiitem.scoring.readout import Readout

VOCAB = 1000
LOG_NORMALISER = np.float32(8.0)

Seen = tuple[tuple[int, int], ...]


def _pairs(tokens: Iterable[int], positions: Iterable[int]) -> Seen:
    return tuple((int(t), int(p)) for t, p in zip(tokens, positions, strict=True))


def logit(seen: Seen, label: int) -> float:
    """A number in [-2, 2) that depends on every pair seen and on the label."""
    digest = hashlib.blake2b(repr((seen, label)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**62 - 2.0


def readout(rows: Sequence[Seen], labels: Sequence[int], normalise: bool) -> Readout:
    logits = np.array([[logit(seen, label) for label in labels] for seen in rows], dtype=np.float32)
    return Readout(logits, np.full(len(rows), LOG_NORMALISER) if normalise else None)


class Version(str):
    """As torch has it: a str to everybody but JSON encoders."""

    __slots__ = ()


class FakeBackend:
    """`engine.backend.Backend`; records its calls and refuses a second thread at the same time."""

    name = "fake"
    device = "cpu"
    dtype = "float32"
    attention = "hash"
    attention_others: ClassVar[dict[str, str]] = {}
    vocab_size = VOCAB
    classes = None
    pooled = 0

    def __init__(self, max_positions: int = 4096, seconds_per_call: float = 0.0) -> None:
        self.versions = {"fake": Version("1")}
        self.max_positions = max_positions
        self.seconds_per_call = seconds_per_call
        self.calls: list[str] = []
        self.tile_shapes: list[tuple[int, int]] = []
        self.fail_with: Exception | None = None
        self.logit_override: float | None = None
        self._busy = threading.Lock()

    def _call(self, name: str) -> None:
        assert self._busy.acquire(blocking=False), "two threads in the backend at once"
        try:
            self.calls.append(name)
            time.sleep(self.seconds_per_call)
            if self.fail_with is not None:
                raise self.fail_with
        finally:
            self._busy.release()

    def _read(self, rows: Sequence[Seen], labels: Sequence[int], normalise: bool) -> Readout:
        read = readout(rows, labels, normalise)
        if self.logit_override is not None:
            read.label_logits[:] = self.logit_override
        return read

    def serial(self, tokens, labels, normalise, rows=None):
        self._call("serial")
        assert len(tokens) <= self.max_positions
        pairs = _pairs(tokens, range(len(tokens)))
        return self._read([pairs] if rows is None else [pairs[: row + 1] for row in rows], labels, normalise)

    def prefix(self, tokens, positions):
        self._call("prefix")
        assert positions.max() < self.max_positions
        return _pairs(tokens, positions)

    def prefix_readout(self, prefix, row, labels, normalise):
        self._call("prefix_readout")
        return self._read([prefix[: row + 1]], labels, normalise)

    def plan(self, prefix, layout, num_items):
        return place(layout, num_items, scores_only=True)

    def padded_length(self, layout):
        return self.plan(None, layout, layout.num_items).padded_length(layout.prefix_length)

    def segment(self, prefix: Seen, visible_prefix: int, blocks, labels, normalise):
        self._call("segment")
        assert len(prefix) >= visible_prefix
        return [self._segment_block(prefix[:visible_prefix], block, labels, normalise) for block in blocks]

    def _segment_block(self, prefix: Seen, block: Block, labels, normalise):
        self.tile_shapes += [tile.tokens.shape for tile in block.tiles]
        slots = [slot for tile in block.tiles for slot in zip(tile.tokens, tile.positions, strict=True)]
        rows = []
        for each in block.passes:
            for (tokens, positions), row in zip(slots, each.row, strict=True):
                rows.append(prefix + _pairs(tokens[: row + 1], positions[: row + 1]))
        return self._read(rows, labels, normalise)

    def dense(self, plan: Plan, labels, normalise):
        self._call("dense")
        layout = plan.layout
        mask = np.isfinite(layout.log_weights())
        rows = [_pairs(layout.token_ids[mask[index]], layout.positions[mask[index]]) for index in layout.score_index]
        return self._read(rows, labels, normalise)
