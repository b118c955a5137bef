"""From the logits at an item's score position to its K scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


def softmax(log_weights: NDArray[np.float64], temperature: float = 1.0) -> NDArray[np.float64]:
    """The softmax [n, K] of each row of ``log_weights`` [n, K] over a temperature: above 0, and as low as it likes."""
    with np.errstate(over="ignore"):
        weights = np.exp((log_weights - log_weights.max(axis=1, keepdims=True)) / temperature)
    shares: NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
    return shares


@dataclass(frozen=True, eq=False)
class Readout:
    """What an engine reads at n score positions.

    ``label_logits`` [n, K]: the logits of the label tokens. ``log_normaliser`` [n]: log-sum-exp of
    the logits over the whole vocabulary; ``None`` where only the softmax over labels was asked for.
    """

    label_logits: NDArray[np.float32]
    log_normaliser: NDArray[np.float32] | None = None

    @staticmethod
    def joined(parts: Sequence[Readout]) -> Readout:
        """The positions of all parts, of which there is one at least, one after another."""
        if len(parts) == 1:
            return parts[0]
        normalisers = [part.log_normaliser for part in parts if part.log_normaliser is not None]
        logits = np.concatenate([part.label_logits for part in parts])
        return Readout(logits, np.concatenate(normalisers) if normalisers else None)

    def first(self, count: int) -> Readout:
        """The first ``count`` positions."""
        return Readout(self.label_logits[:count], None if self.log_normaliser is None else self.log_normaliser[:count])

    def scores(self, apply_softmax: bool) -> NDArray[np.float64]:
        """The scores [n, K]: softmax over the K labels, or each label's full-vocabulary probability.

        Computed in float64, so that the last step adds no error of its own.
        """
        logits = self.label_logits.astype(np.float64)
        if apply_softmax:
            return softmax(logits)
        if self.log_normaliser is None:
            raise ValueError("full-vocabulary probabilities need the log normaliser; it was not read")
        return np.exp(logits - self.log_normaliser.astype(np.float64)[:, None])
