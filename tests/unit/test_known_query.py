"""Packed scoring behind a query that is known: the bits of one that is new."""

import numpy as np
import pytest
from engine_cases import DELIMITER, LABELS, PRODUCTION, workload

from pytest_multiitem.engine.model_files import load_backend
from pytest_multiitem.engine.scorer import Scorer
from pytest_multiitem.gates.full_traffic import almost
from pytest_multiitem.scoring.config import MaskImpl, ScorerConfig


@pytest.fixture(scope="module", params=["pytorch", "jax"])
def backend(request, checkpoint):
    pytest.importorskip("torch" if request.param == "pytorch" else "jax")
    return load_backend(request.param, checkpoint, dtype="float32", device="cpu")


@pytest.mark.parametrize("semantics", PRODUCTION)
def test_cold_warm_and_uncached_scores_are_the_same_bits(backend, semantics):
    def scorer(**more):
        config = ScorerConfig(
            delimiter=DELIMITER, mask_impl=MaskImpl.SEGMENT, semantics=semantics, chunk_size=10, **more
        )
        return Scorer(backend, config)

    query, items = workload(9)
    kept = scorer(scoring_cache=True)
    plain, cold, warm = (each.score(query, items, LABELS, True).scores for each in (scorer(), kept, kept))
    assert np.array_equal(plain, cold) and np.array_equal(cold, warm)
    assert kept.executed()["packed_prefixes"] == {"computed": 1, "reused": 5}
    others = kept.score(query, items[3:9][::-1], LABELS, True).scores
    assert np.array_equal(others, scorer().score(query, items[3:9][::-1], LABELS, True).scores)
    assert not np.array_equal(kept.score(query[:-1], items, LABELS, True).scores, plain)


def test_a_query_that_is_almost_known_is_computed(backend):
    query, items = workload(9, count=4)
    new, kept = (
        Scorer(backend, ScorerConfig(delimiter=DELIMITER, mask_impl=MaskImpl.SEGMENT, scoring_cache=keeps))
        for keeps in (False, True)
    )
    known = kept.score(query, items, LABELS, True).scores
    queries = almost(tuple(query), tuple(range(DELIMITER)))
    assert len(queries) == len({*queries, tuple(query)}) - 1 == 7
    for each in queries:
        scores = kept.score(each, items, LABELS, True).scores
        assert np.array_equal(scores, new.score(each, items, LABELS, True).scores)
        assert not np.array_equal(scores, known)
        assert np.array_equal(kept.score(query, items, LABELS, True).scores, known)
    assert kept.executed()["packed_prefixes"] == {"computed": 8, "reused": 7}
