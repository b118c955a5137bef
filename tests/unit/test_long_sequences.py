"""Sequences so long that they are computed piece by piece score what short ones do, and move nobody."""

import numpy as np
import pytest
from engine_cases import DELIMITER, LABELS, MASKS, assert_close, packed, tokens

from pytest_multiitem.engine.jax_attention import _LONG, _WIDEST
from pytest_multiitem.engine.jax_model import _BLOCK_ROWS
from pytest_multiitem.engine.model_files import load_backend
from pytest_multiitem.engine.torch_model import _SIGHT_KEPT, _SIGHT_ROWS
from pytest_multiitem.scoring.readout import Readout
from pytest_multiitem.scoring.semantics import Semantics

FIRST = Semantics.PREFIX_FIRST_DELIM
#: Beyond every border: of a wide slot, of rows that attend at a time, of a block, of what is kept of a mask.
ITEM, QUERY = 2300, {"dense": 4200, "segment": 8300}


@pytest.fixture(scope="module")
def engines(checkpoint):
    return {name: load_backend(name, checkpoint, dtype="float32", device="cpu") for name in ("pytorch", "jax")}


def workload():
    rng = np.random.default_rng(5)
    return tokens(rng, 20), [tokens(rng, length) for length in (3, ITEM, 500, 17)]


def same(left, right, rows):
    return (left.scores(True)[rows] == right.scores(True)[rows]).all()


def test_the_lengths_are_beyond_the_borders():
    assert max(_BLOCK_ROWS, _SIGHT_ROWS, _WIDEST) < ITEM and QUERY["dense"] > _SIGHT_KEPT and QUERY["segment"] > _LONG


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", ["pytorch", "jax"])
def test_a_long_item_scores_what_it_scores_serially(engines, name, mask):
    query, items = workload()
    found = packed(engines[name], mask, query, items, FIRST)
    for number, item in enumerate(items):
        row = slice(number, number + 1)
        read = Readout(found.label_logits[row], found.log_normaliser[row])
        assert_close(read, engines["pytorch"].serial([*query, DELIMITER, *item], LABELS, True))


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", ["pytorch", "jax"])
def test_a_long_item_moves_nobody_and_nobody_moves_it(engines, name, mask):
    query, items = workload()
    before = packed(engines[name], mask, query, items, FIRST)
    rng = np.random.default_rng(6)
    for number, length in ((1, ITEM), (1, ITEM + 700), (2, 1300)):
        other = [*items[:number], tokens(rng, length), *items[number + 1 :]]
        rows = [row for row in range(len(items)) if row != number]
        assert same(packed(engines[name], mask, query, other, FIRST), before, rows), f"item {number}: {length} tokens"


@pytest.mark.parametrize("mask", MASKS)
def test_a_long_query_scores_the_same_on_both_engines(engines, mask):
    rng = np.random.default_rng(7)
    query, items = tokens(rng, QUERY[mask]), [tokens(rng, 3), [], tokens(rng, 9)]
    expected = packed(engines["pytorch"], "segment", query, items, FIRST)
    for engine in engines.values():
        assert_close(packed(engine, mask, query, items, FIRST), expected)
