"""The Triton kernel by Triton's interpreter, against a dense float64 softmax and bitwise against itself.

Run by `test_triton_attention` in a process of its own: ``TRITON_INTERPRET=1`` is read when Triton is imported.
"""

import copy

import numpy as np
import pytest
import torch
from engine_cases import MASKS, assert_close, changes, packed, workload

from pytest_multiitem.engine import torch_attention, triton_attention
from pytest_multiitem.engine.model_files import load_backend
from pytest_multiitem.engine.slot_bounds import bounds, last_bounds
from pytest_multiitem.engine.torch_kernels import SegmentKernel
from pytest_multiitem.scoring.semantics import Semantics

SHAPE = {"heads": 4, "kv_heads": 2, "dim": 32, "prefix": 70}
TYPES = [torch.float32, torch.bfloat16]


#: Compute capabilities, ten times: the interpreter's own tiles, and those of GPUs whose matrix units take operands from
#: shared memory or from registers.
CAPABILITIES = [None, 90, 80]


@pytest.fixture
def capability(request, monkeypatch):
    """The GPU whose tiles are interpreted."""
    monkeypatch.setattr(triton_attention, "_capability", lambda device: request.param)


def operands(seed, lengths, *, heads, kv_heads, dim, prefix, dtype=torch.float32):
    """Random q, k, v, prefix_k, prefix_v, and the bounds of items of these lengths, one after the other."""
    rng = np.random.default_rng(seed)
    rows = sum(lengths)
    shapes = [(heads, rows), (kv_heads, rows), (kv_heads, rows), (kv_heads, prefix), (kv_heads, prefix)]
    drawn = (torch.from_numpy(rng.standard_normal((*shape, dim))).to(dtype) for shape in shapes)
    first = np.repeat(np.cumsum([0, *lengths[:-1]]), lengths)
    return [*drawn, torch.from_numpy(first.astype(np.int32)), torch.arange(rows, dtype=torch.int32)]


def dense(q, k, v, prefix_k, prefix_v, first, last):
    """The definition, in float64: one softmax a row over every key, hidden keys at minus infinity."""
    q, k, v, prefix_k, prefix_v = (each.double() for each in (q, k, v, prefix_k, prefix_v))
    group = q.shape[0] // k.shape[0]
    keys, values = (torch.cat(each, 1).repeat_interleave(group, 0) for each in ((prefix_k, k), (prefix_v, v)))
    own = torch.arange(k.shape[1])
    seen = torch.cat(
        [torch.ones(len(first), prefix_k.shape[1], dtype=bool), (first[:, None] <= own) & (own <= last[:, None])], 1
    )
    scores = (q @ keys.transpose(-1, -2) * q.shape[-1] ** -0.5).masked_fill(~seen, -torch.inf)
    return (torch.softmax(scores, -1) @ values).transpose(0, 1).reshape(len(first), -1)


def assert_dense(case):
    got, want = triton_attention.segment_attention(*case), dense(*case)
    assert got.dtype == case[0].dtype
    if got.dtype == torch.float32:
        torch.testing.assert_close(got.double(), want, rtol=0, atol=1e-5)
    else:
        # What is left is the rounding of the weights and of the result to bfloat16: 2^-9 relative each.
        most = max(float(case[2].abs().max()), float(case[4].abs().max()) if case[4].numel() else 0.0)
        torch.testing.assert_close(got.double(), want, rtol=2**-9, atol=2**-9 * most)


@pytest.mark.parametrize("capability", CAPABILITIES, indirect=True)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("prefix", [0, 1, 63, 64, 65, 130])
def test_prefixes_around_the_edges_of_a_tile(prefix, dtype, capability):
    assert_dense(operands(prefix, [5, 1, 20, 3], **SHAPE | {"prefix": prefix}, dtype=dtype))


@pytest.mark.parametrize("capability", CAPABILITIES, indirect=True)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    "lengths", [[1] * 9, [130], [31, 1, 32, 33], [15, 16, 17], [64, 63]], ids=lambda lengths: f"{len(lengths)} items"
)
def test_items_around_the_edges_of_a_tile(lengths, dtype, capability):
    assert_dense(operands(len(lengths), lengths, **SHAPE, dtype=dtype))


@pytest.mark.parametrize("capability", CAPABILITIES, indirect=True)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim"), [(1, 1, 16), (5, 1, 80), (4, 4, 64), (16, 2, 8), (2, 1, 128), (2, 1, 256)]
)
def test_groups_and_head_dimensions(heads, kv_heads, dim, dtype, capability):
    assert_dense(operands(1, [7, 20, 2], heads=heads, kv_heads=kv_heads, dim=dim, prefix=9, dtype=dtype))


def test_a_row_that_sees_no_key_is_zero():
    *rest, first, last = operands(1, [4], **SHAPE | {"prefix": 0})
    last[2] = first[2] - 1
    out = triton_attention.segment_attention(*rest, first, last)
    assert (out[2] == 0).all() and out[[0, 1, 3]].all(dim=1).all()


def test_no_rows_at_all():
    q, *rest, first, last = operands(1, [4], **SHAPE)
    assert triton_attention.segment_attention(q[:, :0], *rest, first[:0], last[:0]).shape == (0, 128)


@pytest.mark.parametrize("capability", [90], indirect=True)
@pytest.mark.parametrize("dtype", TYPES)
def test_neither_the_content_nor_the_length_nor_the_place_of_others_changes_a_bit(dtype, capability):
    """An item's rows are the same in any company. Places are a whole float32 tile apart: the interpreter's products are
    the processor's, whose library may compute the rows of a tile unlike each other."""
    q, k, v, *prefix, _, _ = operands(1, [20, 13, 40, 20], **SHAPE, dtype=dtype)

    def rows_of(start, lengths):
        case = operands(9, lengths, **SHAPE, dtype=dtype)
        for mine, theirs in zip(case[:3], (q, k, v), strict=True):
            mine[:, start : start + 20] = theirs[:, :20]
        return triton_attention.segment_attention(*case[:3], *prefix, *case[5:])[start : start + 20]

    alone = rows_of(0, [20])
    for start, lengths in ((0, [20, 5]), (8, [8, 20]), (64, [1, 63, 20, 7]), (40, [20, 20, 20, 20])):
        assert torch.equal(rows_of(start, lengths), alone), (start, lengths)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_in_an_item_reaches_no_row_of_another(dtype, bad):
    """Zero times NaN is NaN, and the items share a query tile."""
    q, k, v, *rest = operands(1, [20] * 4, **SHAPE, dtype=dtype)
    before = triton_attention.segment_attention(q, k, v, *rest)
    for sick in (k, v):
        sick[:, 40:60] = bad
    after = triton_attention.segment_attention(q, k, v, *rest)
    others = [*range(40), *range(60, 80)]
    assert torch.equal(before[others], after[others])
    assert torch.isnan(after[40:60]).all(), "a row that sees it must not look healthy"


def test_a_later_value_of_the_same_item_reaches_no_earlier_row():
    q, k, v, *rest = operands(1, [20] * 2, **SHAPE)
    before = triton_attention.segment_attention(q, k, v, *rest)
    v[:, 15] = torch.nan
    after = triton_attention.segment_attention(q, k, v, *rest)
    earlier = [*range(15), *range(20, 40)]
    assert torch.equal(before[earlier], after[earlier]) and torch.isnan(after[15:20]).all()


@pytest.mark.parametrize("tiles", [[(3, 4)], [(2, 4), (1, 12), (2, 20)]])
def test_the_engines_tiles_give_what_its_products_give(tiles):
    used = sum(slots * width for slots, width in tiles)
    q, k, v, *prefix, _, _ = operands(1, [used + 3], **SHAPE)
    want = torch_attention.segment(q, k, v, *prefix, tiles)
    torch.testing.assert_close(triton_attention.segment(q, k, v, *prefix, tiles), want, rtol=0, atol=1e-5)
    slots = sum(count for count, _ in tiles)
    last = torch.tensor([width - 1 - slot % 3 for count, width in tiles for slot in range(count)] + [0, 0])
    few = q[:, : slots + 2]
    want = torch_attention.segment_last(few, k, v, *prefix, tiles, last)
    torch.testing.assert_close(triton_attention.segment_last(few, k, v, *prefix, tiles, last), want, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def backend(checkpoint):
    """The engine on a CPU, with the kernel that it takes on CUDA, and items in fixed tiles, one block after another as
    there: the interpreter replaces parts of Triton while it runs, for all threads."""
    backend = load_backend("pytorch", checkpoint, dtype="float32", device="cpu")
    backend = copy.copy(backend)
    backend._kernel = SegmentKernel("triton", triton_attention.segment, triton_attention.segment_last)
    backend._block_rows, backend._cores = (), None
    return backend


def test_the_engines_scores_by_the_kernel_equal_its_dense_scores(backend):
    query, items = workload(41, count=6)
    items.append([])
    by_mask = {mask: packed(backend, mask, query, items, Semantics.PREFIX_FIRST_DELIM) for mask in MASKS}
    assert_close(by_mask["segment"], by_mask["dense"])


def test_no_item_changes_another_items_scores_by_one_bit(backend):
    query, items = workload(42, count=6)
    before = packed(backend, "segment", query, items, Semantics.QUERY_PREFIX)
    others = np.arange(len(items)) != 2
    for name, changed in changes(items, 2, np.random.default_rng(2)).items():
        after = packed(backend, "segment", query, changed, Semantics.QUERY_PREFIX)
        assert np.array_equal(after.label_logits[others], before.label_logits[others]), name
        assert not np.array_equal(after.label_logits[2], before.label_logits[2]), name


def test_bounds_say_what_slots_and_padding_see():
    first, last = bounds(((2, 2), (1, 3)), 9, torch.device("cpu"))
    assert first[:7].tolist() == [0, 0, 2, 2, 4, 4, 4] and last.tolist() == [*range(7), -1, -1]
    assert (first[7:] > last[7:]).all()
    first, last = last_bounds(((2, 2), (1, 3)), torch.tensor([1, 0, 2, 0]))
    assert first[:3].tolist() == [0, 2, 4] and last.tolist() == [1, 2, 6, -1]


def test_operands_that_do_not_fit_are_refused():
    q, k, v, prefix_k, prefix_v, first, last = operands(1, [4], **SHAPE)
    attend = triton_attention.segment_attention
    with pytest.raises(ValueError, match="need keys and values"):
        attend(q[:3], k, v, prefix_k, prefix_v, first, last)
    with pytest.raises(ValueError, match="need prefix keys"):
        attend(q, k, v, prefix_k[:1], prefix_v, first, last)
    with pytest.raises(ValueError, match="all float32 or all bfloat16, got bfloat16, float32"):
        attend(q, k.bfloat16(), v, prefix_k, prefix_v, first, last)
    with pytest.raises(ValueError, match=r"int32 \(4,\), got torch.int64 \(4,\)"):
        attend(q, k, v, prefix_k, prefix_v, first.long(), last)
    with pytest.raises(ValueError, match="side by side"):
        attend(q, k.transpose(1, 2).contiguous().transpose(1, 2), v, prefix_k, prefix_v, first, last)
