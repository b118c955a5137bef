"""What healthy engines differ in: gates must leave these alone."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
from typing_extensions import override

from pytest_multiitem.faults.base import ScorerFault
from pytest_multiitem.scoring.config import MaskImpl
from pytest_multiitem.scoring.layout import PackedLayout
from pytest_multiitem.scoring.steps import Reading, Scores


class ShapeNoise(ScorerFault, name="shape_noise", healthy=True, unit="of a logit, standard deviation"):
    """Packed scores depend on the shape of the batch, by rounding only: as where tiles are chosen by shape.

    Every logit of a label is off by noise that is drawn for the number of the item, the query's length and the lengths
    of all items of its sequence; never for a token. The same shape gives the same bits. The default is what float32
    does (1e-7 to 1e-6 of a score), the other strength what bfloat16 does (1e-3 to 1e-2). ``seed``: of the noise.
    """

    seen = "sglang, correct mask: 6e-7; sgl-jax: 4e-9 to 2e-7; bfloat16 on TPUs: 1e-2"
    scope = frozenset({"multi", "other_mask"})
    strengths = (4e-7, 4e-3)

    def __init__(self, strength: float | None = None, seed: int = 0) -> None:
        super().__init__(strength)
        self.seed = seed

    @override
    def compute(self, layout: PackedLayout, implementation: MaskImpl, read: Reading) -> Scores:
        scores = self.inner.compute(layout, implementation, read)
        shape = [self.seed, layout.query_length, *layout.block_start.tolist(), layout.length]
        digest = blake2b(repr(shape).encode(), digest_size=8).digest()
        drawn = np.random.default_rng(int.from_bytes(digest, "big")).standard_normal(scores.shape)
        noise = (self.strength or 0.0) * drawn
        if read.raw:
            return scores + noise
        noisy = scores * np.exp(noise)
        return noisy / noisy.sum(axis=1, keepdims=True) if read.apply_softmax else np.minimum(noisy, 1.0)
