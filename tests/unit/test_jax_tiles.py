"""The JAX engine fills tiles in order only where it saw that a tile's slots are computed alike."""

import jax.numpy as jnp
import numpy as np
import pytest
from engine_cases import DELIMITER, assert_close, packed, workload

from pytest_multiitem.engine.model_files import load_backend
from pytest_multiitem.scoring.layout import build_layout
from pytest_multiitem.scoring.semantics import Semantics


def planned(backend, query, items):
    layout = build_layout(query, items, DELIMITER, Semantics.QUERY_PREFIX)
    return backend.plan(backend.prefix(*layout.prefix), layout, len(items))


def stacked(plan):
    """Whether items stand in tiles by their order, and not by their number."""
    return all(tile.item[0] >= 0 and (np.diff(np.flatnonzero(tile.item >= 0)) == 1).all() for tile in plan.tiles)


def test_tiles_are_filled_in_order_here(checkpoint):
    backend = load_backend("jax", checkpoint, dtype="float32", device="cpu")
    plan = planned(backend, *workload(3))
    assert backend._uniform
    if not all(backend._uniform.values()):
        pytest.skip("this machine does not compute all slots of a tile alike: items have fixed slots here")
    assert stacked(plan)


def test_slots_that_are_computed_otherwise_are_noticed(checkpoint, monkeypatch):
    """A tile whose second slot differs in its last bit: items get fixed slots, and the same scores."""
    query, items = workload(3)
    honest, uneven = (load_backend("jax", checkpoint, dtype="float32", device="cpu") for _ in range(2))
    segment = uneven._segment

    def second_slot_moved(*arguments):
        (states,) = segment(*arguments)
        return [states.at[1].set(jnp.nextafter(states[1], jnp.inf)) if len(states) > 1 else states]

    monkeypatch.setattr(uneven, "_segment", second_slot_moved)
    plan = planned(uneven, query, items)
    assert not stacked(plan) and not all(uneven._uniform.values())
    assert uneven.padded_length(plan.layout) == plan.padded_length(64)
    monkeypatch.undo()
    assert_close(*(packed(each, "segment", query, items, Semantics.QUERY_PREFIX) for each in (uneven, honest)))
