"""Isolation of sets and classes, bitwise, on larger and longer requests, in both types."""

from itertools import product

import numpy as np
import pytest
from engine_cases import DELIMITER, LABELS, PRODUCTION, tokens

from pytest_multiitem.engine.model_files import load_backend
from pytest_multiitem.engine.scorer import Scorer
from pytest_multiitem.scoring.config import MaskImpl, ScorerConfig

PACKAGES = {"pytorch": "torch", "jax": "jax"}
MARK = 700


def a_set(rng, longest):
    """Tokens with one to six extraction tokens among them."""
    item = tokens(rng, int(rng.integers(0, longest)))
    for place in rng.integers(0, len(item) + 1, int(rng.integers(1, 7))).tolist():
        item.insert(place, MARK)
    return item


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dtype", "impl", "semantics"),
    [*product(PACKAGES, ("float32", "bfloat16"), (MaskImpl.DENSE, MaskImpl.SEGMENT), PRODUCTION)],
)
def test_no_set_and_no_class_moves_with_other_items(checkpoint, classifier, name, dtype, impl, semantics):
    pytest.importorskip(PACKAGES[name])
    config = ScorerConfig(delimiter=DELIMITER, mask_impl=impl, semantics=semantics, chunk_size=0)
    rng = np.random.default_rng(20)
    query = [token for token in tokens(rng, 130) if token != MARK]
    items = [a_set(rng, 60) for _ in range(24)] + [a_set(rng, 450)]
    for directory, labels in ((checkpoint, LABELS), (classifier, range(3))):
        scorer = Scorer(load_backend(name, directory, dtype=dtype, device="cpu"), config)

        def rows(items, scorer=scorer, labels=labels):
            result = scorer.score(query, items, labels, False, extraction=MARK)
            return np.split(result.scores, np.cumsum(result.readouts)[:-1])

        before = rows(items)
        for index, lengths in ((0, (5, 450)), (17, (100,)), (24, (5,))):
            for longest in lengths:
                after = rows([*items[:index], a_set(rng, longest), *items[index + 1 :]])
                assert all(np.array_equal(after[i], before[i]) for i in range(len(items)) if i != index)
