"""An item whose keys and values are not finite: it has no score, and no other item's changes by a bit."""

import copy

import numpy as np
import pytest
from engine_cases import DELIMITER, MASKS, packed, workload

from pytest_multiitem.engine.model_files import load_backend
from pytest_multiitem.scoring.semantics import Semantics

torch = pytest.importorskip("torch")
torch_attention = pytest.importorskip("pytest_multiitem.engine.torch_attention")

#: Stands in one item only, whose embedding is planted.
PLANTED = DELIMITER - 1


@pytest.fixture(scope="module", params=["pytorch", "jax"])
def backend(request, checkpoint):
    pytest.importorskip("torch" if request.param == "pytorch" else "jax")
    return load_backend(request.param, checkpoint, dtype="float32", device="cpu")


def planted(backend, bad):
    """The same model, in which one token's embedding is not finite."""
    sick = copy.copy(backend)
    if backend.name == "jax":
        sick._weights = backend._weights._replace(embedding=backend._weights.embedding.at[PLANTED].set(bad))
    else:
        sick._embedding = backend._embedding.clone()
        sick._embedding[PLANTED] = bad
    return sick


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("place", ["first", "only"])
def test_it_reaches_no_other_item(backend, mask, place):
    query, items = workload(4)
    query, *items = ([token % PLANTED for token in ids] for ids in (query, *items))
    index = 7
    items[index] = [PLANTED, *items[index][1:]] if place == "first" else [PLANTED]
    others = np.arange(len(items)) != index
    before = packed(backend, mask, query, items, Semantics.QUERY_PREFIX)
    after = packed(planted(backend, np.nan), mask, query, items, Semantics.QUERY_PREFIX)
    assert np.isfinite(before.label_logits).all()
    assert np.isnan(after.label_logits[index]).all()
    assert np.array_equal(after.label_logits[others], before.label_logits[others])
    assert np.array_equal(after.log_normaliser[others], before.log_normaliser[others])


def test_weights_of_the_plain_products_hide_nothing_that_is_seen():
    """A row that sees no key is 0, and one that sees NaN is NaN."""
    query, key, value = (torch.ones(1, 1, 3, 2) for _ in range(3))
    bias = torch.tensor([[0.0, -torch.inf, -torch.inf], [-torch.inf] * 3, [0.0, 0.0, 0.0]])[None, None]
    value[..., 0, :] = 2.0
    key[..., 2, :] = torch.nan
    few = (each[..., :2, :] for each in (query, key, value))
    out, lse = torch_attention._products(*few, bias[..., :2, :2], causal=False)
    assert out.tolist() == [[[[2.0, 2.0], [0.0, 0.0]]]] and lse[0, 0, 1] == -torch.inf
    out, _ = torch_attention._products(query, key, value, bias, causal=False)
    assert torch.isnan(out[0, 0, 2]).all()
