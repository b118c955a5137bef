"""How an endpoint is asked in serial mode."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pytest_multiitem.transport.client import ScoreClient, Scores


class OneItemClient(ScoreClient):
    """The serial side: every item in a request of its own, so that nothing can be packed."""

    def score(
        self, query: Sequence[int], items: Sequence[Sequence[int]], labels: Sequence[int], *, apply_softmax: bool = True
    ) -> Scores:
        """The scores [N, K] of N requests. Raises ScoreFailure."""
        rows = [super(OneItemClient, self).score(query, [i], labels, apply_softmax=apply_softmax) for i in items]
        return np.concatenate(rows)
