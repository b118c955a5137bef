"""Placement in tiles: what one item's score is computed from never depends on another item."""

import dataclasses

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pytest_multiitem.engine.plan import (
    pack,
    packed_width,
    place,
    slot_width,
    slots_per_tile,
    stack,
    stacked_slots,
    stacked_width,
)
from pytest_multiitem.scoring.layout import build_layout
from pytest_multiitem.scoring.semantics import Semantics

DELIMITER = 99_999
LENGTHS = st.lists(st.one_of(st.integers(0, 60), st.integers(0, 1200)), min_size=1, max_size=40)
few = settings(max_examples=40, deadline=None)
SEMANTICS = st.sampled_from(list(Semantics))


SIZES = (32, 64, 128)


def laid_out(lengths, semantics=Semantics.PREFIX_FIRST_DELIM):
    """A packed sequence of items with these lengths; every token id is unique."""
    start, items = 10, []
    for length in lengths:
        items.append(range(start, start + length))
        start += length
    return build_layout([1, 2, 3], items, DELIMITER, semantics)


def planned(lengths, semantics=Semantics.PREFIX_FIRST_DELIM, num_items=None):
    return place(laid_out(lengths, semantics), num_items)


def for_scores(lengths, semantics=Semantics.PREFIX_FIRST_DELIM):
    """By every placement, what scores depend on."""
    layout = laid_out(lengths, semantics)
    return place(layout, scores_only=True), stack(layout, len(lengths)), pack(layout, SIZES)


def places(plan):
    """Per item: the tile's number among those of its width, its slot, and the tile's shape."""
    found, numbers = {}, {}
    for tile in plan.tiles:
        number = numbers[tile.width] = numbers.get(tile.width, -1) + 1
        for slot, item in enumerate(tile.item.tolist()):
            if item >= 0:
                found[item] = number, slot, tile.tokens.shape
    return found


@few
@given(lengths=LENGTHS, semantics=SEMANTICS)
@example(lengths=[0, 0, 0], semantics=Semantics.PREFIX_FIRST_DELIM)
def test_every_token_is_placed_once_with_its_own_position(lengths, semantics):
    plan = planned(lengths, semantics)
    layout, seen = plan.layout, []
    for found, expected in zip(layout.prefix, (layout.token_ids, layout.positions), strict=True):
        assert found.tolist() == expected[:4].tolist()
    for tile in plan.tiles:
        used = tile.packed_index >= 0
        seen += tile.packed_index[used].tolist()
        assert (tile.tokens[used] == layout.token_ids[tile.packed_index[used]]).all()
        assert (tile.positions[used] == layout.positions[tile.packed_index[used]]).all()
        assert not tile.tokens[~used].any() and not tile.positions[~used].any()
        assert tile.tokens.shape == (tile.slots, tile.width) == tile.positions.shape
    assert sorted(seen) == list(range(4, layout.length))


@few
@given(lengths=LENGTHS, semantics=SEMANTICS)
def test_a_slot_holds_one_block_from_its_start_and_padding_after_it(lengths, semantics):
    plan = planned(lengths, semantics)
    items = []
    for tile in plan.tiles:
        for slot, item in enumerate(tile.item.tolist()):
            index = tile.packed_index[slot]
            if item < 0:
                assert (index == -1).all() and not tile.reads[slot]
                continue
            items.append(item)
            block = plan.layout.block(item)
            count = block.stop - block.start
            assert index[:count].tolist() == list(range(block.start, block.stop))
            assert (index[count:] == -1).all() and tile.width == slot_width(count)
    assert sorted(items) == list(range(len(lengths)))


@few
@given(lengths=LENGTHS, semantics=SEMANTICS)
@example(lengths=[0, 3, 0], semantics=Semantics.QUERY_PREFIX)
def test_every_score_is_read_exactly_once_at_its_own_place(lengths, semantics):
    plan = planned(lengths, semantics)
    read = dict.fromkeys(plan.empty_items, plan.empty_score_row)
    assert set(read) == {i for i, length in enumerate(lengths) if length == 0}
    for tile in plan.tiles:
        for slot in np.flatnonzero(tile.reads):
            item = int(tile.item[slot])
            assert item not in read
            read[item] = int(tile.packed_index[slot, tile.score_row[slot]])
    assert [read[i] for i in range(len(lengths))] == plan.layout.score_index.tolist()
    assert plan.visible_prefix == plan.layout.visible_prefix_length


@few
@given(lengths=LENGTHS, semantics=SEMANTICS, prefix_padding=st.integers(0, 100))
def test_the_padded_length_counts_every_token_and_every_row_without_one(lengths, semantics, prefix_padding):
    whole = planned(lengths, semantics)
    prefix_rows = whole.layout.prefix_length + prefix_padding
    assert whole.padded_length(prefix_rows) == prefix_rows + sum(block.rows for block in whole.blocks)
    for plan in for_scores(lengths, semantics):
        unused = sum(block.rows for block in plan.blocks) - sum((tile.packed_index >= 0).sum() for tile in plan.tiles)
        assert plan.padded_length(prefix_rows) == plan.layout.length + prefix_padding + unused


def test_the_padded_length_of_items_of_three_and_five_tokens():
    """14 packed tokens; only the 8 of the items are placed: in a tile of two 12s, in tiles of a 12 each, in 32 rows."""
    fixed, filled, side_by_side = for_scores([3, 5])
    assert [plan.padded_length(4) for plan in (fixed, filled, side_by_side)] == [14 + 16, 14 + 16, 14 + 24]
    assert side_by_side.padded_length(32) == 14 + 24 + 28


@few
@given(lengths=LENGTHS, other=st.integers(0, 1200), data=st.data())
def test_an_items_place_and_shape_survive_any_change_of_another(lengths, other, data):
    changed = data.draw(st.integers(0, len(lengths) - 1))
    before = places(planned(lengths))
    after = places(planned([*lengths[:changed], other, *lengths[changed + 1 :]]))
    for item in set(before) - {changed}:
        # A tile that nothing stands in is left out, so only the slot and the shape are fixed for all.
        assert before[item][1:] == after[item][1:]


@few
@given(lengths=LENGTHS)
def test_a_tiles_shape_depends_on_width_and_number_of_items_alone(lengths):
    for tile in planned(lengths).tiles:
        assert tile.tokens.shape == (slots_per_tile(tile.width, len(lengths)), tile.width)


@few
@given(lengths=LENGTHS, more=st.integers(0, 50))
def test_a_batch_that_is_not_full_computes_the_full_batchs_shapes(lengths, more):
    full = len(lengths) + more
    for tile in planned(lengths, num_items=full).tiles:
        assert tile.slots == slots_per_tile(tile.width, full)


@few
@given(length=st.integers(1, 5000))
def test_widths_hold_their_block_and_grow_with_it(length):
    assert slot_width(length) >= length
    assert slot_width(length + 1) >= slot_width(length)
    assert slot_width(slot_width(length)) == slot_width(length)
    assert slot_width(length) <= max(8, 2 * length, length + 512)


@few
@given(width=st.integers(1, 600).map(slot_width), count=st.integers(1, 600))
def test_tiles_hold_one_slot_at_least_and_never_more_than_needed(width, count):
    slots = slots_per_tile(width, count)
    assert 1 <= slots <= max(1, 2 * count)
    assert slots * width < 384 + width


@few
@given(length=st.integers(1, 600), count=st.integers(1, 600))
def test_a_width_has_one_shape_of_stacked_tile_for_many_items_and_few_for_few(length, count):
    width = stacked_width(length)
    slots, most = stacked_slots(width, count), stacked_slots(width, 10**6)
    assert 1 <= slots <= most and most * width <= max(512, width) < 2 * most * width
    assert slots == most or count <= slots < max(2, 1.5 * count)
    assert len({stacked_slots(width, n) for n in range(1, 2001)}) <= 10


def test_an_empty_item_keeps_its_slot_unread():
    plan = planned([2, 0, 2])
    (tile,) = plan.tiles
    assert tile.item.tolist()[:3] == [0, 1, 2] and tile.reads.tolist()[:3] == [True, False, True]
    assert plan.empty_items == (1,) and plan.empty_score_row == 3


# -- what scores depend on -------------------------------------------------------------------


@few
@given(lengths=LENGTHS, semantics=SEMANTICS)
@example(lengths=[0, 0, 0], semantics=Semantics.PREFIX_FIRST_DELIM)
@example(lengths=[128, 129, 1, 0], semantics=Semantics.QUERY_PREFIX)
def test_only_items_tokens_are_placed_and_every_score_is_read_from_its_blocks_rows(lengths, semantics):
    layout = laid_out(lengths, semantics)
    tokens = [
        index
        for i, length in enumerate(lengths)
        for index in range(layout.block(i).start, layout.block(i).start + length)
    ]
    for plan in for_scores(lengths, semantics):
        index, read = [], {}
        for block in plan.blocks:
            rows = np.full(block.rows, -1)
            start = 0
            for tile in block.tiles:
                rows[start : start + tile.packed_index.size] = tile.packed_index.reshape(-1)
                start += tile.packed_index.size
            index += rows[rows >= 0].tolist()
            used = rows >= 0
            assert (block.tokens == np.where(used, layout.token_ids[rows], 0)).all()
            assert (block.positions == np.where(used, layout.positions[rows], 0)).all()
            assert block.reads.any() and (block.item[block.reads] >= 0).all()
            assert len(block.item) == len(block.reads) == len(block.score_rows)
            for item, row in zip(block.item[block.reads], block.score_rows[block.reads], strict=True):
                assert int(item) not in read
                read[int(item)] = int(rows[row])
        assert sorted(index) == tokens
        read |= dict.fromkeys(plan.empty_items, plan.empty_score_row)
        assert [read[i] for i in range(len(lengths))] == layout.score_index.tolist()


@few
@given(lengths=LENGTHS)
@example(lengths=[128, 129, 1, 0])
@example(lengths=[20] * 40)
def test_packed_blocks_have_the_heights_asked_for_and_are_full_but_for_the_last(lengths):
    plan = pack(laid_out(lengths), SIZES)
    used = [sum(tile.tokens.size for tile in block.tiles) for block in plan.blocks]
    for number, (block, rows) in enumerate(zip(plan.blocks, used, strict=True)):
        widths = [tile.width for tile in block.tiles]
        assert widths == sorted(set(widths)) and all((tile.item >= 0).all() for tile in block.tiles)
        if rows > SIZES[-1]:
            assert len(block.item) == 1 and rows <= block.rows < rows + SIZES[-1] and not block.rows % SIZES[-1]
        elif number < len(used) - 1:
            following = plan.blocks[number + 1].tiles[0].width
            assert rows + following > SIZES[-1] and block.rows >= rows
        else:
            assert block.rows == min(size for size in SIZES if size >= rows)


@few
@given(length=st.integers(1, 5000))
def test_packed_widths_hold_their_item_with_little_padding(length):
    assert length <= packed_width(length) <= max(length + 3, 1.125 * length + 1)
    assert packed_width(packed_width(length)) == packed_width(length)
    assert packed_width(length + 1) >= packed_width(length)


def test_items_of_a_multiple_of_four_tokens_need_no_padding_between_them():
    (block,) = pack(laid_out([20] * 6), SIZES).blocks
    assert block.rows == 128 and [(tile.slots, tile.width) for tile in block.tiles] == [(6, 20)]
    assert (block.tiles[0].packed_index >= 0).all()


@few
@given(lengths=LENGTHS, other=st.integers(0, 1200), data=st.data())
def test_a_place_of_what_scores_depend_on_survives_any_change_of_another_item(lengths, other, data):
    changed = data.draw(st.integers(0, len(lengths) - 1))
    before, after = (
        places(place(laid_out(each), scores_only=True))
        for each in (lengths, [*lengths[:changed], other, *lengths[changed + 1 :]])
    )
    for item in set(before) - {changed}:
        assert before[item][1:] == after[item][1:]


def test_a_score_that_is_read_elsewhere_in_its_block_is_placed_with_what_it_depends_on():
    """A layout need not read at the last token; the closing delimiter is computed where it is read."""
    layout = laid_out([5, 3])
    layout = dataclasses.replace(layout, score_index=np.add(layout.score_index, [1, -1]))
    for plan in (place(layout, scores_only=True), stack(layout, 2), pack(layout, SIZES)):
        placed = np.concatenate([tile.packed_index.reshape(-1) for tile in plan.tiles])
        first, second = layout.block(0), layout.block(1)
        assert sorted(placed[placed >= 0]) == [*range(first.start, first.stop), *range(second.start, second.start + 2)]


@few
@given(lengths=LENGTHS, num_items=st.integers(1, 80))
@example(lengths=[20] * 40, num_items=40)
def test_stacked_tiles_have_fixed_shapes_and_are_full_but_for_the_last_of_a_width(lengths, num_items):
    tiles = stack(laid_out(lengths), num_items).tiles
    for number, tile in enumerate(tiles):
        assert tile.slots == stacked_slots(tile.width, num_items)
        filled = tile.item[tile.item >= 0]
        assert (tile.item[: len(filled)] == filled).all() and (np.diff(filled) > 0).all()
        assert {stacked_width(lengths[item]) for item in filled} == {tile.width}
        if number + 1 < len(tiles) and tiles[number + 1].width == tile.width:
            assert len(filled) == tile.slots and tiles[number + 1].item[0] > tile.item[-1]
