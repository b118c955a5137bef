"""What a kernel under test is told: the layout's helpers against the mask rule that they restate."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_multiitem.kernels.layout import Layout
from pytest_multiitem.scoring.semantics import Semantics

MASKS = [Semantics.PREFIX_FIRST_DELIM, Semantics.QUERY_PREFIX]
BATCH = ((3, (2, 5)), (4, (0, 3, 0, 2)), (1, (1,)))


@pytest.mark.parametrize("semantics", MASKS)
@pytest.mark.parametrize("lengths", [BATCH, BATCH[:1], BATCH[1:2]])
def test_bounds_are_the_rule_of_the_packed_layout(semantics, lengths):
    layout = Layout(semantics, lengths)
    due = np.zeros((layout.rows, layout.rows), dtype=bool)
    for start, each in zip(layout.starts, layout.sequences, strict=False):
        inside = slice(start, start + each.length)
        due[inside, inside] = each.mask()
    assert np.array_equal(layout.mask(), due)


@pytest.mark.parametrize("semantics", MASKS)
def test_the_four_arrays_say_the_mask_of_rows_that_count(semantics):
    """By the rule of FlashInfer's kernel: key < prefix, or row - key < the row's place in its item."""
    layout = Layout(semantics, BATCH)
    arrays = layout.mis_arrays()
    assert arrays.token_pos_in_items_ptr.dtype == np.uint16 and arrays.prefix_len_ptr.dtype == np.uint32
    assert arrays.max_item_len_ptr.tolist() == [5, 3, 1]
    for index, each in enumerate(layout.sequences):
        prefix = int(arrays.prefix_len_ptr[index])
        width = arrays.token_pos_in_items_len
        places = arrays.token_pos_in_items_ptr[index * width : (index + 1) * width].astype(int)
        row, key = np.arange(each.length)[:, None], np.arange(each.length)[None, :]
        place = places[np.clip(row - prefix, 0, width - 1)]
        sees = np.where(row < prefix, key <= row, (key < prefix) | ((row - key < place) & (key <= row)))
        counts = layout.judged[layout.starts[index] : layout.starts[index + 1]]
        assert np.array_equal(sees[counts], each.mask()[counts])


def test_rows_that_count():
    first, query = (Layout(semantics, ((2, (1, 2)),)) for semantics in MASKS)
    assert first.judged.tolist() == [True] * 4 + [False] + [True] * 2 + [False]
    assert query.judged.tolist() == [True] * 2 + [False, True, False] + [True] * 2 + [False]


def test_pages_are_out_of_order_and_some_are_nobodys():
    layout = Layout(MASKS[0], ((30, (5, 9)), (3, (40,))), page_size=4)
    pages = layout.pages()
    assert len(set(pages.slots.tolist())) == layout.rows
    assert pages.indices.tolist() != sorted(pages.indices.tolist())
    assert len(set(pages.indices.tolist())) == len(pages.indices) < pages.total
    for index, rows in enumerate(np.diff(layout.starts)):
        mine = pages.indptr[index + 1] - pages.indptr[index]
        assert (mine - 1) * 4 + pages.last_page_len[index] == rows


def test_pages_of_other_sequences_are_pages_that_were_asked_for():
    layout = Layout(MASKS[0], ((30, (5, 9)),), page_size=4)
    assert not layout.pages_were_read
    pages = layout.pages([5, 1])
    assert layout.pages_were_read and len(pages.slots) == 6 and pages.last_page_len.tolist() == [1, 1]
    with pytest.raises(ValueError, match="no pages; name page_sizes"):
        Layout(MASKS[0], BATCH).pages([5])


def test_what_one_sequence_has_several_do_not():
    layout = Layout(MASKS[0], BATCH)
    with pytest.raises(ValueError, match=r"3 sequences; use Layout\.lengths"):
        _ = layout.query_length
    with pytest.raises(ValueError, match="no pages; name page_sizes"):
        layout.pages()
    alone = Layout(MASKS[0], BATCH[:1])
    assert (alone.query_length, alone.item_lengths) == (3, (2, 5))
    assert alone.positions.tolist() == [0, 1, 2, 3, 4, 5, 6, 4, 5, 6, 7, 8, 9]
    assert alone.segment_ids.tolist() == [-1] * 4 + [0] * 3 + [1] * 6
