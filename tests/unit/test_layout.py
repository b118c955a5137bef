"""The packed layout against a slow one written from the definitions, token by token."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pytest_multiitem.scoring.layout import PREFIX, build_layout, packed_length, restarting_positions
from pytest_multiitem.scoring.semantics import Semantics

DELIMITER = 99
CONTENT = st.integers(0, 98)
QUERY = st.lists(CONTENT, min_size=1, max_size=6)
ITEMS = st.lists(st.lists(CONTENT, max_size=5), min_size=1, max_size=6)
few = settings(max_examples=40, deadline=None)
every_semantics = pytest.mark.parametrize("semantics", list(Semantics))


def spelled_out(query, items, semantics):
    """One dict a token: what it is, whose it is, where it stands; and each item's score index."""
    restart = len(query) if semantics is Semantics.QUERY_PREFIX else len(query) + 1
    tokens = [{"id": t, "position": i, "kind": "query", "block": None} for i, t in enumerate(query)]
    tokens.append({"id": DELIMITER, "position": len(query), "kind": "first delimiter", "block": None})
    score_index = []
    for number, item in enumerate(items):
        position = restart
        for token in item:
            tokens.append({"id": token, "position": position, "kind": "item", "block": number})
            position += 1
        if item:
            score_index.append(len(tokens) - 1)
        else:  # its own leading delimiter's state, which no neighbour touches; or the query's last token
            score_index.append(len(query) - 1 if semantics is Semantics.QUERY_PREFIX else len(query))
        tokens.append({"id": DELIMITER, "position": position, "kind": "closing delimiter", "block": number})
    if semantics is Semantics.QUERY_PREFIX:
        for token in tokens:
            if "delimiter" in token["kind"]:
                token["position"] = len(query) - 1
    return tokens, score_index


def sees(semantics, tokens, at, key):
    """Whether the item token at index ``at`` sees the token at index ``key``."""
    if key > at:
        return False
    one, other = tokens[at], tokens[key]
    if other["kind"] == "query" or other["block"] == one["block"]:
        return True
    if other["kind"] == "first delimiter":
        return semantics in (Semantics.PREFIX_FIRST_DELIM, Semantics.ALL_DELIMS_PREFIX)
    return other["kind"] == "closing delimiter" and semantics is Semantics.ALL_DELIMS_PREFIX


@every_semantics
@few
@given(query=QUERY, items=ITEMS)
@example(query=[1], items=[[]])
@example(query=[1], items=[[], [], []])
@example(query=[1, 2], items=[[], [3], [4, 5]])
@example(query=[1, 2], items=[[3], [], [4, 5]])
@example(query=[1, 2], items=[[3], [4, 5], []])
def test_tokens_positions_and_score_indices(semantics, query, items):
    layout = build_layout(query, items, DELIMITER, semantics)
    tokens, score_index = spelled_out(query, items, semantics)
    assert layout.token_ids.tolist() == [t["id"] for t in tokens]
    assert layout.positions.tolist() == [t["position"] for t in tokens]
    assert layout.item.tolist() == [PREFIX if t["block"] is None else t["block"] for t in tokens]
    assert layout.is_delimiter.tolist() == ["delimiter" in t["kind"] for t in tokens]
    assert layout.score_index.tolist() == score_index
    assert layout.length == len(tokens) == packed_length(len(query), [len(i) for i in items])
    assert layout.num_items == len(items) and layout.prefix_length == len(query) + 1


@every_semantics
@few
@given(query=QUERY, items=ITEMS)
@example(query=[1], items=[[], [2], []])
def test_the_mask(semantics, query, items):
    layout = build_layout(query, items, DELIMITER, semantics)
    tokens, _ = spelled_out(query, items, semantics)
    mask = layout.mask()
    assert mask.shape == (len(tokens), len(tokens)) and mask.dtype == np.bool_
    for at, token in enumerate(tokens):
        if token["kind"] == "query" or token["kind"] == "first delimiter":
            expected = [key <= at for key in range(len(tokens))]
        else:
            expected = [sees(semantics, tokens, at, key) for key in range(len(tokens))]
        assert mask[at].tolist() == expected, (at, token)


@every_semantics
@few
@given(query=QUERY, items=ITEMS)
def test_blocks_cover_everything_behind_the_prefix(semantics, query, items):
    layout = build_layout(query, items, DELIMITER, semantics)
    at = layout.prefix_length
    for number, item in enumerate(items):
        block = layout.block(number)
        assert (block.start, block.stop) == (at, at + len(item) + 1)
        assert layout.token_ids[block].tolist() == [*item, DELIMITER]
        at = block.stop
    assert at == layout.length


@pytest.mark.parametrize("semantics", [s for s in Semantics if s.has_serial_reference])
@few
@given(query=QUERY, items=ITEMS, data=st.data())
def test_what_a_score_sees_is_its_serial_sequence(semantics, query, items, data):
    """Tokens, order and (relative) positions of what item i sees equal those of the serial reference."""
    layout = build_layout(query, items, DELIMITER, semantics)
    index = data.draw(st.integers(0, len(items) - 1))
    seen = layout.mask()[layout.score_index[index]]
    reference = [*semantics.serial_query(query, DELIMITER), *items[index]]
    assert layout.token_ids[seen].tolist() == reference
    assert layout.positions[seen].tolist() == list(range(len(reference)))
    assert layout.visible_prefix_length == len(semantics.serial_query(query, DELIMITER))


@every_semantics
@few
@given(query=QUERY, items=ITEMS, other=st.lists(CONTENT, max_size=5), data=st.data())
def test_changing_one_item_changes_no_other_view(semantics, query, items, other, data):
    """What an item sees, as (token, position) pairs, never depends on another item's content."""
    changed = data.draw(st.integers(0, len(items) - 1))
    before = build_layout(query, items, DELIMITER, semantics)
    after = build_layout(query, [*items[:changed], other, *items[changed + 1 :]], DELIMITER, semantics)
    if semantics is Semantics.ALL_DELIMS_PREFIX:  # an earlier delimiter's position tells that item's length
        return

    def view(layout, item):
        seen = layout.mask()[layout.score_index[item]]
        return layout.token_ids[seen].tolist(), layout.positions[seen].tolist()

    for item in range(len(items)):
        if item != changed:
            assert view(before, item) == view(after, item)


@every_semantics
def test_a_worked_example(semantics):
    layout = build_layout([7, 8], [[1], [], [2, 3]], DELIMITER, semantics)
    assert layout.token_ids.tolist() == [7, 8, 99, 1, 99, 99, 2, 3, 99]
    if semantics is Semantics.QUERY_PREFIX:
        assert layout.positions.tolist() == [0, 1, 1, 2, 1, 1, 2, 3, 1]
        assert layout.score_index.tolist() == [3, 1, 7]
    else:
        assert layout.positions.tolist() == [0, 1, 2, 3, 4, 3, 3, 4, 5]
        assert layout.score_index.tolist() == [3, 2, 7]


@pytest.mark.parametrize(
    ("semantics", "want"),
    [
        (Semantics.PREFIX_FIRST_DELIM, [0, 1, 2, 3, 4, 2, 3, 2, 2]),
        (Semantics.QUERY_PREFIX, [0, 1, 1, 2, 3, 1, 2, 1, 1]),
    ],
)
def test_positions_that_restart_at_each_delimiter(semantics, want):
    layout = build_layout([5, 6], [[7, 8], [9], []], 99, semantics)
    assert restarting_positions(layout).tolist() == want and restarting_positions(layout).dtype == np.int32


def test_an_empty_query_is_refused():
    with pytest.raises(ValueError, match="the query is empty"):
        build_layout([], [[1]], DELIMITER, Semantics.PREFIX_FIRST_DELIM)


def test_a_delimiter_of_zero_is_a_delimiter():
    layout = build_layout([7], [[1]], 0, Semantics.PREFIX_FIRST_DELIM)
    assert layout.token_ids.tolist() == [7, 0, 1, 0] and layout.is_delimiter.tolist() == [False, True, False, True]


def test_positions_beyond_sixteen_bits():
    layout = build_layout([1] * 70_000, [[2], [3, 4]], DELIMITER, Semantics.PREFIX_FIRST_DELIM)
    assert layout.positions[layout.block(1)].tolist() == [70_001, 70_002, 70_003]


def test_serial_queries_by_semantics():
    assert Semantics.PREFIX_FIRST_DELIM.serial_query([1, 2], 0) == [1, 2, 0]
    assert Semantics.QUERY_PREFIX.serial_query((1, 2), 9) == [1, 2]
    for ablation in (Semantics.QUERY_ONLY_PREFIX, Semantics.ALL_DELIMS_PREFIX):
        assert not ablation.has_serial_reference
        with pytest.raises(ValueError, match="it is an ablation"):
            ablation.serial_query([1], 9)
