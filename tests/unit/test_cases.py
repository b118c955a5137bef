"""The built-in cases and their mutations."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_multiitem.errors import UsageError
from pytest_multiitem.scoring.cases import Case, built_in_cases, equal_length_case, mutations, token_pool

LABELS, DELIMITER, VOCAB = (9454, 2753), 151_643, 151_936
KINDS = ("same_length", "longer", "shorter")


def built_in(seed=1, vocab_size=VOCAB, empty_item=True, labels=LABELS, delimiter=DELIMITER):
    return built_in_cases(seed=seed, labels=labels, delimiter=delimiter, vocab_size=vocab_size, empty_item=empty_item)


# -- built-in cases ---------------------------------------------------------------------------


def test_equal_seeds_give_equal_cases():
    assert built_in() == built_in()
    assert built_in(seed=2) != built_in()


def test_their_shapes():
    mixed, equal = built_in()
    lengths = [len(item) for item in mixed.items]
    assert (lengths[0], lengths[-1], len(lengths)) == (1, 40, 26)
    assert lengths.count(0) == 1 and max(lengths) == 40 and len(mixed.query) == 120
    assert {len(item) for item in equal.items} == {20} and len(equal.items) == 32


def test_no_empty_item_where_the_engine_allows_none():
    assert all(item for case in built_in(empty_item=False) for item in case.items)


@pytest.mark.parametrize("vocab_size", [8, 1000, 4000, 30_000, VOCAB])
def test_content_holds_no_delimiter_no_label_and_stays_in_the_vocabulary(vocab_size):
    labels, delimiter = (3, 5), vocab_size - 2
    for case in built_in(labels=labels, delimiter=delimiter, vocab_size=vocab_size):
        tokens = {*case.query, *(token for item in case.items for token in item)}
        assert tokens <= set(case.pool)
        assert not tokens & {*labels, delimiter} and min(tokens) >= 0 and max(tokens) < vocab_size


def test_the_pool_leaves_special_tokens_out():
    pool = token_pool(VOCAB, [9454, 2753, DELIMITER])
    assert min(pool) == 1000 and max(pool) < 151_643 and 9454 not in pool
    assert len(pool) == len(set(pool))


@pytest.mark.parametrize(("vocab_size", "left"), [(1, 0), (3, 0), (4, 1)])
def test_a_vocabulary_with_nothing_to_draw_from(vocab_size, left):
    with pytest.raises(UsageError, match=f"vocabulary of {vocab_size} leaves {left} tokens"):
        built_in(vocab_size=vocab_size, labels=(1,), delimiter=2)


def test_a_timing_case():
    pool = token_pool(1000, [1])
    one, again, other = (
        equal_length_case(seed=seed, query_tokens=7, num_items=5, item_tokens=3, labels=(1, 2), pool=pool)
        for seed in (4, 4, 5)
    )
    assert one == again != other
    assert one.name == "7/5/3" and len(one.query) == 7 and [len(i) for i in one.items] == [3] * 5


# -- mutations --------------------------------------------------------------------------------


def case_of(lengths, pool=tuple(range(50, 90))):
    return Case("case", pool[:3], tuple(tuple(pool[i % len(pool)] for i in range(n)) for n in lengths), (1, 2), pool)


@given(
    lengths=st.lists(st.integers(0, 30), min_size=1, max_size=9),
    pool=st.sampled_from([(50, 51), tuple(range(50, 90))]),
    seed=st.integers(0, 99),
)
def test_a_mutation_changes_every_token_of_one_item_only(lengths, pool, seed):
    case = case_of(lengths, pool)
    for mutation in mutations(case, KINDS, seed=seed):
        old, new = case.items[mutation.index], mutation.case.items[mutation.index]
        assert mutation.case.with_item(mutation.index, old) == case
        assert new != old and all(a != b for a, b in zip(old, new, strict=False))
        assert set(new) <= set(pool)
        assert {
            "same_length": len(new) == len(old) > 0,
            "longer": len(new) > len(old),
            "shorter": 0 < len(new) < len(old),
        }[mutation.kind]


@pytest.mark.parametrize(
    ("count", "expected"), [(1, [0]), (2, [0, 1]), (3, [0, 1, 2]), (7, [0, 3, 6]), (32, [0, 16, 31])]
)
@pytest.mark.parametrize("kind", KINDS)
def test_the_first_a_middle_and_the_last_item_are_mutated(count, expected, kind):
    found = mutations(case_of([6] * count), [kind], seed=1)
    assert [mutation.index for mutation in found] == expected
    assert {mutation.kind for mutation in found} == {kind}


@pytest.mark.parametrize(
    ("length", "kinds"),
    [(0, ["longer"]), (1, ["same_length", "longer"]), (2, ["same_length", "longer", "shorter"])],
)
def test_kinds_that_do_not_apply_are_left_out(length, kinds):
    assert [m.kind for m in mutations(case_of([length]), KINDS, seed=1)] == kinds


def test_mutations_are_seeded():
    case = case_of([6] * 5)
    assert mutations(case, KINDS, seed=1) == mutations(case, KINDS, seed=1) != mutations(case, KINDS, seed=2)
