"""The PyTorch engine packs items side by side only where it saw that rows of a block are computed alike."""

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from engine_cases import DELIMITER, assert_close, packed, workload

from pytest_multiitem.engine import torch_products
from pytest_multiitem.engine.model_files import load_backend
from pytest_multiitem.scoring.layout import build_layout
from pytest_multiitem.scoring.semantics import Semantics

torch = pytest.importorskip("torch")
functional = torch.nn.functional


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def backend(request, checkpoint):
    return load_backend("pytorch", checkpoint, dtype=request.param, device="cpu")


def needs_uniform_rows(backend):
    if not backend._block_rows:
        pytest.skip("this machine does not compute all rows alike: items have fixed slots here")


def layout_of(query, items):
    return build_layout(query, items, DELIMITER, Semantics.QUERY_PREFIX)


def test_items_share_blocks_of_the_heights_that_were_probed(backend):
    needs_uniform_rows(backend)
    query, items = workload(3)
    plan = backend.plan(None, layout_of(query, items), len(items))
    assert {block.rows for block in plan.blocks} <= {32, 64, 128, 256, 512}
    assert len(plan.blocks) < len(items) / 2


def test_neither_number_nor_order_nor_neighbours_change_a_bit(backend):
    """More than isolation asks for: an item's scores are the same in any company."""
    needs_uniform_rows(backend)
    query, items = workload(8, count=40)
    whole = packed(backend, "segment", query, items, Semantics.QUERY_PREFIX)
    order = np.random.default_rng(1).permutation(40)
    for chosen in (range(40)[::-1], order, order[:7], order[:1]):
        some = packed(backend, "segment", query, [items[i] for i in chosen], Semantics.QUERY_PREFIX)
        assert np.array_equal(some.label_logits, whole.label_logits[list(chosen)])
        assert np.array_equal(some.log_normaliser, whole.log_normaliser[list(chosen)])


def test_without_uniform_rows_items_have_fixed_slots_and_the_same_scores(backend):
    query, items = workload(5)
    fixed = copy.copy(backend)
    fixed._block_rows = ()
    plan = fixed.plan(None, layout_of(query, items), len(items))
    assert all(len(block.tiles) == 1 and block.rows == block.tiles[0].tokens.size for block in plan.blocks)
    reads = [packed(each, "segment", query, items, Semantics.QUERY_PREFIX) for each in (fixed, backend)]
    if backend.dtype == "float32":
        assert_close(*reads)
    np.testing.assert_allclose(reads[0].scores(True), reads[1].scores(True), rtol=0, atol=0.02)


@pytest.mark.parametrize("at", ["last row of tall blocks", "short blocks", "second slot"])
def test_rows_that_are_computed_otherwise_are_noticed(checkpoint, monkeypatch, at):
    """A matrix product in which some rows differ in their last bit."""

    def uneven(x, weight):
        out = functional.linear(x, weight)
        rows = {"last row of tall blocks": slice(511, None), "short blocks": slice(None), "second slot": slice(4, 8)}
        if at != "short blocks" or len(x) == 32:
            out[rows[at]] = torch.nextafter(out[rows[at]], torch.tensor(torch.inf))
        return out

    monkeypatch.setattr(torch_products, "choose", lambda device, dtype: uneven)
    backend = load_backend("pytorch", checkpoint, dtype="float32", device="cpu")
    query, items = workload(5)
    plan = backend.plan(None, layout_of(query, items), len(items))
    assert all(len(block.tiles) == 1 for block in plan.blocks) and len({b.tiles[0].width for b in plan.blocks}) > 1
    assert {block.tiles[0].width for block in plan.blocks} <= {12, 24, 48}


def test_cores_compute_alone_and_all_other_threads_use_all_of_them(backend):
    """What one thread tells PyTorch holds for threads that come later, unless it is set back."""
    assert {backend._cores.submit(torch.get_num_threads).result() for _ in range(8)} == {1}
    with ThreadPoolExecutor(1) as later:
        assert later.submit(torch.get_num_threads).result() == torch.get_num_threads() == backend._blocks_at_once
