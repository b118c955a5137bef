"""The scores behind an equivalence, for people: a bounded number of items, the worst of them always."""

from __future__ import annotations

import numpy as np

from pytest_multiitem.results.details import ScoredItems
from pytest_multiitem.scoring.cases import Case
from pytest_multiitem.transport.client import Scores

#: Items of all requests of a gate that are kept.
MOST = 1000
#: Items of one request whose text is kept, and of each so many characters.
_TEXTS, _CHARACTERS = 3, 300


def scored_items(case: Case, packed: Scores, serial: Scores, most: int) -> ScoredItems:
    """Of scores [N, K] of a request on both sides at most ``most`` items: half of them those that differ most, the
    others evenly between."""
    apart = np.nan_to_num(np.abs(packed - serial), nan=np.inf)
    label, rows = apart.argmax(axis=1), np.arange(len(apart))
    worst_first = np.argsort(-apart[rows, label], kind="stable")
    kept = rows if len(rows) <= most else _kept(worst_first, most)
    return ScoredItems(
        case=case.name,
        items=kept.tolist(),
        packed=packed[kept, label[kept]].tolist(),
        serial=serial[kept, label[kept]].tolist(),
        texts={str(at): case.texts[at][:_CHARACTERS] for at in worst_first[:_TEXTS].tolist() if case.texts},
    )


def _kept(worst_first: np.ndarray, most: int) -> np.ndarray:
    worst, others = np.split(worst_first, [(most + 1) // 2])
    even = np.sort(others)[np.linspace(0, len(others) - 1, most // 2).astype(int)] if most > 1 else others[:0]
    return np.unique(np.concatenate([worst, even]))
