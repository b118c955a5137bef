"""The item mask that stands in for FlashInfer in the real sglang on a CPU, against serial attention, and its faults."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

SOURCE = Path(__file__).parents[2] / "engines/sglang_mis_cpu/sglang_mis_cpu/mask.py"


@pytest.fixture(scope="module")
def mask():
    spec = importlib.util.spec_from_file_location("sglang_mis_cpu_mask", SOURCE)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def items_of(mask, prefix, lengths):
    """The tables that sglang builds: offsets from each item's delimiter, and one more delimiter at the end."""
    offsets = [offset for length in (*lengths, 0) for offset in range(length + 1)]
    return mask.Items(prefix, torch.tensor(offsets), max(lengths))


def tensors(total, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn((total, heads, 8), generator=generator) for heads in (4, 2, 2))


def causal(query, key, value):
    query, key, value = (tensor.movedim(0, 1).unsqueeze(0) for tensor in (query, key, value))
    answer = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    return answer.squeeze(0).movedim(0, 1)


# The last one has items in every block and none from the first block to the last.
SHAPES = [(5, (3, 1, 4)), (1, (1,)), (300, (40, 300, 7)), (20, (90, 17, 2, 64, 300, 1, 5, 33, 128, 200))]


@pytest.mark.parametrize(("prefix", "lengths"), SHAPES)
def test_an_item_attends_as_if_it_came_right_after_the_query(mask, prefix, lengths):
    items = items_of(mask, prefix, lengths)
    query, key, value = tensors(prefix + len(items.offsets))
    packed = mask.attend(query, key, value, items)
    start = prefix + 1
    for length in lengths:
        alone = [*range(prefix), *range(start, start + length)]
        expected = causal(query[alone], key[alone], value[alone])
        torch.testing.assert_close(packed[alone], expected, rtol=0, atol=2e-6)
        start += length + 1


@pytest.mark.parametrize(("prefix", "lengths"), SHAPES)
def test_a_delimiter_sees_the_query_alone_and_nobody_sees_a_delimiter(mask, prefix, lengths):
    items = items_of(mask, prefix, lengths)
    total = prefix + len(items.offsets)
    every = torch.arange(total)
    seen = mask.visible(items, every, every, torch.zeros(total, dtype=torch.bool))
    delimiters = [prefix + place for place, offset in enumerate(items.offsets.tolist()) if offset == 0]
    assert not seen[:, delimiters].any()
    assert seen[delimiters, :prefix].all() and not seen[delimiters, prefix:].any()


def test_other_content_of_the_same_length_moves_no_bit(mask):
    items = items_of(mask, 40, (90, 17, 2, 300, 5))
    query, key, value = tensors(40 + len(items.offsets))
    before = mask.attend(query, key, value, items)
    changed = slice(41 + 90 + 1, 41 + 90 + 1 + 17)
    for tensor, other in zip((query, key, value), tensors(len(query), seed=1), strict=True):
        tensor[changed] = other[changed]
    after = mask.attend(query, key, value, items)
    others = [row for row in range(len(query)) if not changed.start <= row < changed.stop]
    assert torch.equal(before[others], after[others]) and not torch.equal(before[changed], after[changed])


def test_rows_behind_a_cached_prefix_are_those_of_the_whole(mask):
    items = items_of(mask, 40, (90, 200, 17))
    query, key, value = tensors(40 + len(items.offsets))
    whole = mask.attend(query, key, value, items)
    torch.testing.assert_close(mask.attend(query[30:], key, value, items, first_row=30), whole[30:], rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("written", "request_index", "first_wrong"),
    [
        ("leak_from_item:3", 0, 20 + 91 + 18),  # the delimiter before the third item
        ("leak_past_token:50", 0, 50),
        ("second_request", 1, 20),  # the first delimiter
        ("second_request", 0, None),
        ("leak_from_item:9", 0, None),
        ("leak_past_token:5000", 0, None),
        ("", 3, None),
    ],
)
def test_a_fault_shows_everything_before_from_its_threshold_on(mask, written, request_index, first_wrong):
    items = items_of(mask, 20, (90, 17, 64))
    query, key, value = tensors(20 + len(items.offsets))
    fault = mask.Fault.read(written)
    right = mask.attend(query, key, value, items)
    got = mask.attend(query, key, value, items, leaks=fault.leaks(request_index))
    differs = (got - right).abs().amax(dim=(1, 2)) > 1e-4
    wrong = range(len(query) if first_wrong is None else first_wrong, len(query))
    assert differs.nonzero().flatten().tolist() == list(wrong)
    torch.testing.assert_close(got[differs], causal(query, key, value)[differs], rtol=0, atol=2e-6)
    assert str(fault) == (written or "none")


@pytest.mark.parametrize("written", ["leak", "leak_from_item", "leak_past_token:x", "second_request:2"])
def test_a_fault_that_does_not_exist_is_refused(mask, written):
    with pytest.raises(ValueError, match="no fault is called"):
        mask.Fault.read(written)
